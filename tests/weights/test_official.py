"""State dicts that do not fit are refused, with every key that is wrong."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.weights.official import from_state_dict

SHAPES = json.loads((Path(__file__).parents[1] / "golden" / "official_state_dict_shapes.json").read_text())


@pytest.fixture(params=["CV_RESNET18", "TV_RESNET18"])
def state(request) -> dict[str, np.ndarray]:
    return {key: np.full(shape, 0.5, np.float32) for key, shape in SHAPES[request.param].items()}


def layer3(state: dict[str, np.ndarray]) -> str:
    """The key of a convolution, in either naming."""
    return next(
        key for key in state if key.endswith(("layer3.1.conv2.weight", "block2-1.convolutional_block.3.weight"))
    )


def test_the_backbone_is_told_by_the_tensors(state):
    model, variables = from_state_dict(state)
    assert model.backbone.stage_sizes == (2, 2, 2, 2)
    assert variables["params"]["embeddings"]["kernel"].shape == (512, 512)


def test_a_missing_key_is_an_error(state):
    key = layer3(state)
    del state[key]
    with pytest.raises(ValueError, match=rf"missing: {re.escape(key)}"):
        from_state_dict(state)
    del state[next(key for key in state if key.endswith(("fc.weight", "embeddings.1.weight")))]
    with pytest.raises(ValueError, match=r"no (backbone\.fc|embeddings\.1)\.weight"):
        from_state_dict(state)


def test_an_unknown_key_is_an_error(state):
    state["backbone.layer9.weight"] = np.zeros((3, 3, 3, 3), np.float32)
    with pytest.raises(ValueError, match=r"unknown: backbone\.layer9\.weight"):
        from_state_dict(state)


def test_a_wrong_shape_is_an_error(state):
    key = layer3(state)
    state[key] = state[key][:, :-1]
    with pytest.raises(ValueError, match=r"shape \(kernels as HWIO\) \(3, 3, 255, 256\) instead of \(3, 3, 256, 256\)"):
        from_state_dict(state)


def test_what_is_no_network_is_an_error():
    with pytest.raises(ValueError, match=r"not the weights of an SSCD network: no backbone\.conv1\.weight"):
        from_state_dict({"a": np.zeros(3, np.float32)})
