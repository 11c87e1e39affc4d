"""State dicts of the official code: round trips bit for bit, and errors that list every key that is wrong."""

import re

import jax
import numpy as np
import pytest
from helpers.networks import SHAPES, assert_same, seeded, seeded_state_dict
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.models import describe
from sscd_jax.weights.state_dict import from_state_dict, module_names, to_state_dict

SMALL = {
    name: {key: np.full(shape, 0.5, np.float32) for key, shape in SHAPES[name].items()}
    for name in ("CV_RESNET18", "TV_RESNET18")
}
BACKBONES = {
    "CV_RESNET18": "resnet18",
    "CV_RESNET50": "resnet50",
    "CV_RESNEXT101": "resnext101_32x4d",
    "TV_RESNET18": "resnet18",
    "TV_RESNET50": "resnet50",
    "TV_RESNEXT101": "resnext101_32x8d",
}


@pytest.mark.slow
@pytest.mark.parametrize("official", SHAPES)
def test_official_to_ours_to_official_is_the_same_bit_for_bit(official):
    state = seeded_state_dict(official)
    state |= {key: np.array(41, np.int64) for key in state if key.endswith("num_batches_tracked")}
    model, variables = from_state_dict(state)
    assert describe(model)["backbone"] == BACKBONES[official]
    exported = to_state_dict(model, variables, batches_tracked=41)
    names = {row.torchvision: row.classy_vision for row in module_names((3, 4, 23, 3), 3)}
    if BACKBONES[official] == "resnet18":
        names = {row.torchvision: row.classy_vision for row in module_names((2, 2, 2, 2), 2)}
    for key, value in exported.items():
        module, _, leaf = key.rpartition(".")
        expected = state.pop(key if official.startswith("TV") else f"{names[module]}.{leaf}")
        np.testing.assert_array_equal(value, expected, strict=True)
    assert not state, "keys that did not come back"
    again, twice = from_state_dict(exported)
    assert again == model
    assert_same(twice, variables)


@pytest.mark.slow
@pytest.mark.parametrize("official", SMALL)
@settings(max_examples=25)
@given(data=st.data())
def test_whatever_is_wrong_is_listed(official, data):
    """Keys dropped, added and misshapen, in any number: the error has exactly these."""
    state = dict(SMALL[official])
    needed = re.compile(
        r".*(num_batches_tracked|(initial_block\._module\.0|\.conv1|block0-0\.\w+\.3|fc|embeddings\.1)\.weight)"
    )
    keys = sorted(key for key in state if not needed.fullmatch(key) and "layer1.0.conv2" not in key)
    chosen = data.draw(st.lists(st.sampled_from(keys), unique=True, min_size=1, max_size=6))
    expected = set()
    for key in chosen:
        kind = data.draw(st.sampled_from(["missing", "unknown", "shape"]))
        if kind == "missing":
            del state[key]
            expected.add(("missing", key))
        elif kind == "unknown":
            state[f"{key}x"] = state[key]
            expected.add(("unknown", f"{key}x"))
        else:
            state[key] = np.concatenate([state[key], state[key][:1]])
            expected.add(("shape", key))
    with pytest.raises(ValueError, match="do not fit the network") as error:
        from_state_dict(state)
    lines = str(error.value).splitlines()[1:]
    assert {(line.split()[0].rstrip(":"), line.split()[-1]) for line in lines} == expected


@pytest.mark.parametrize("official", SMALL)
def test_a_projection_that_is_missing_is_an_error(official):
    key = "backbone.fc.weight" if official == "TV_RESNET18" else "embeddings.1.weight"
    state = {name: value for name, value in SMALL[official].items() if name != key}
    with pytest.raises(ValueError, match=re.escape(f"not the weights of an SSCD network: no {key}")):
        from_state_dict(state)


def test_what_is_no_network_is_an_error():
    with pytest.raises(ValueError, match=r"not the weights of an SSCD network: no backbone\.conv1\.weight"):
        from_state_dict({"a": np.zeros(3, np.float32)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda key: f"module.{key}", r"it has 122 keys, such as module\.backbone.*prefix"),
        (lambda key: key.replace("backbone.layer3.1.", "backbone.layer3.2."), "do not fit the network"),
    ],
)
def test_names_that_are_not_the_official_ones(change, message):
    state = {change(key): value for key, value in SMALL["TV_RESNET18"].items()}
    with pytest.raises(ValueError, match=message):
        from_state_dict(state)


def test_other_resnets_are_none_of_ours():
    small = SMALL["TV_RESNET18"]
    deeper = {**small, **{key.replace("layer3.1", f"layer3.{n}"): v for n in range(2, 6) for key, v in small.items()}}
    with pytest.raises(ValueError, match=r"6 blocks of 2 convolutions in its third stage.*none of resnet18, resnet50"):
        from_state_dict(deeper)


def test_a_plain_resnet_is_reported_by_its_own_names():
    state = {key.removeprefix("backbone."): value for key, value in SMALL["TV_RESNET18"].items()}
    del state["layer2.0.bn1.weight"]
    state["more"] = state["bn1.weight"] * 1j
    state["bn1.bias"] = state["bn1.bias"] * 1j
    with pytest.raises(ValueError, match="fit") as error:
        from_state_dict(state)
    lines = error.value.args[0].splitlines()[1:]
    assert [line.strip() for line in lines] == [
        "unknown: more",
        "complex64 instead of numbers: bn1.bias",
        "missing: layer2.0.bn1.weight",
    ]


@pytest.mark.parametrize("backbone", ["resnet18", "resnext101_32x4d"])
def test_features_without_a_projection_take_the_names_of_a_plain_resnet(backbone):
    model, variables = seeded(backbone, 0)
    state = to_state_dict(model, variables)
    assert "conv1.weight" in state
    state |= {"fc.weight": np.zeros((1000, 64), np.float32), "fc.bias": np.zeros(1000, np.float32)}
    again, twice = from_state_dict(state)
    assert again == model
    assert_same(twice, variables)
    assert jax.tree.structure(twice) == jax.tree.structure(variables)
