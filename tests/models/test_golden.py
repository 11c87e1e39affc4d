"""Descriptors of all six official networks, against values that the official code computed."""

from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.networks import SHAPES, seeded_state_dict

from sscd_jax.models import normalize
from sscd_jax.weights.state_dict import from_state_dict

GOLDEN = Path(__file__).parents[1] / "golden"
EXPECTED = np.load(GOLDEN / "model_descriptors.npz")
IMAGES = normalize(EXPECTED["images"])


@pytest.mark.slow
@pytest.mark.parametrize("backbone", SHAPES)
def test_descriptors(backbone):
    model, variables = from_state_dict(seeded_state_dict(backbone))
    descriptors = jax.jit(model.apply)(variables, IMAGES)
    np.testing.assert_allclose(descriptors, EXPECTED[f"{backbone}/descriptors"], atol=1e-4)


@pytest.mark.parametrize("backbone", [pytest.param("CV_RESNET18", marks=pytest.mark.slow), "TV_RESNET18"])
def test_train_mode(backbone):
    model, variables = from_state_dict(seeded_state_dict(backbone))
    descriptors, updates = model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])
    expected = EXPECTED[f"{backbone}/train_mode_descriptors"]
    np.testing.assert_allclose(descriptors, expected, atol=1e-4)
    stem = updates["batch_stats"]["backbone"]["bn1"]
    for name in ("mean", "var"):
        expected = EXPECTED[f"{backbone}/stem_running_{name}_after"]
        np.testing.assert_allclose(stem[name], expected, rtol=1e-5, atol=1e-5)
