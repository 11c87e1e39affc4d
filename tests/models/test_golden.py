"""Descriptors of all six official networks, against values that the official code computed."""

import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from sscd_jax.models import normalize
from sscd_jax.weights.official import from_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = np.load(GOLDEN / "model_descriptors.npz")
IMAGES = normalize(EXPECTED["images"])
SHAPES = json.loads((GOLDEN / "official_state_dict_shapes.json").read_text())


def seeded_state_dict(backbone: str) -> dict[str, np.ndarray]:
    """The weights of the golden run (docs: DESIGN section 4)."""
    state = {}
    for key, shape in SHAPES[backbone].items():
        rng = np.random.default_rng([int(EXPECTED["salt"]), zlib.crc32(key.encode())])
        if key.endswith("num_batches_tracked"):
            value = np.ones(shape)
        elif key.endswith("running_var"):
            value = rng.uniform(0.5, 1.5, shape)
        elif key.endswith("running_mean"):
            value = rng.normal(0, 0.1, shape)
        elif len(shape) == 4:
            value = rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape)
        elif len(shape) == 2:
            value = rng.normal(0, np.sqrt(1 / shape[1]), shape)
        elif key.endswith("weight"):
            value = rng.uniform(0.2, 0.6, shape)
        else:
            value = rng.normal(0, 0.05, shape)
        state[key] = value.astype(np.float32)
    return state


@pytest.mark.parametrize("backbone", SHAPES)
def test_descriptors(backbone):
    model, variables = from_state_dict(seeded_state_dict(backbone))
    descriptors = jax.jit(model.apply)(variables, IMAGES)
    np.testing.assert_allclose(descriptors, EXPECTED[f"{backbone}/descriptors"], atol=1e-4)


@pytest.mark.parametrize("backbone", ["CV_RESNET18", "TV_RESNET18"])
def test_train_mode(backbone):
    model, variables = from_state_dict(seeded_state_dict(backbone))
    descriptors, updates = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    expected = EXPECTED[f"{backbone}/train_mode_descriptors"]
    np.testing.assert_allclose(descriptors, expected, atol=1e-4)
    stem = updates["batch_stats"]["backbone"]["bn1"]
    for name in ("mean", "var"):
        expected = EXPECTED[f"{backbone}/stem_running_{name}_after"]
        np.testing.assert_allclose(stem[name], expected, rtol=1e-5, atol=1e-5)
