"""Networks with seeded weights and statistics that are not trivial, for the tests of weights."""

import importlib.util
import json
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import traverse_util

from sscd_jax.models import SSCD, build_model

GOLDEN = Path(__file__).parents[1] / "golden"
SHAPES = json.loads((GOLDEN / "official_state_dict_shapes.json").read_text())

# The narrowest that each backbone can be, so that a test takes seconds.
NARROW = {"resnet18": 8, "resnet50": 8, "resnext101_32x4d": 16, "resnext101_32x8d": 8}


def seeded(
    backbone: str, dims: int = 24, *, width: int | None = None, seed: int = 0, **options: Any
) -> tuple[SSCD, Any]:
    """(model, variables) of a network whose residual branches and statistics all matter."""
    model = build_model(backbone, dims, width=width or NARROW[backbone], **options)
    abstract = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    rng = np.random.default_rng(seed)

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        if path[-1] == "kernel":
            return rng.normal(0, np.sqrt(2 / np.prod(shape[:-1])), shape)
        return rng.uniform(0.4, 0.8, shape) if path[-1] in ("scale", "var") else rng.normal(0, 0.1, shape)

    flat = {
        path: draw(path, leaf.shape).astype(np.float32) for path, leaf in traverse_util.flatten_dict(abstract).items()
    }
    return model, traverse_util.unflatten_dict(flat)


def seeded_state_dict(backbone: str) -> dict[str, np.ndarray]:
    """The weights of the golden run (docs: DESIGN section 4)."""
    salt = int(np.load(GOLDEN / "model_descriptors.npz")["salt"])
    state = {}
    for key, shape in SHAPES[backbone].items():
        rng = np.random.default_rng([salt, zlib.crc32(key.encode())])
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


def assert_same(one: Any, other: Any) -> None:
    """Two trees of variables are equal bit for bit."""
    flat, expected = (traverse_util.flatten_dict(jax.device_get(tree), sep="/") for tree in (one, other))
    assert flat.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(flat[name], value, err_msg=name, strict=True)


def needs_torch() -> None:
    """Skips where the extra `torch` is not installed; imports nothing, as torchvision after TensorFlow crashes."""
    if not all(map(importlib.util.find_spec, ("torch", "torchvision"))):
        pytest.skip("PyTorch and torchvision are not installed: pip install 'sscd_jax[torch]'")
