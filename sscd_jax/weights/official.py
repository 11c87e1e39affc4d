"""State dicts of the official code (torchvision or classy_vision key names) to our model and variables."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sscd_jax.models import SSCD, build_model

# classy_vision's names, said in torchvision's. {last} is the number of a block's last convolution.
CLASSY_TO_TORCHVISION = (
    (r"initial_block\._module\.0\.", r"conv1."),
    (r"initial_block\._module\.1\.", r"bn1."),
    (r"blocks\.(\d)\.block\1-(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.{m[2]}."),
    (r"convolutional_block\.0\.", r"conv1."),
    (r"convolutional_block\.1\.", r"bn1."),
    (r"convolutional_block\.3\.", r"conv2."),
    (r"convolutional_block\.4\.", r"bn2."),
    (r"convolutional_block\.6\.", r"conv3."),
    (r"^(layer\d\.\d+\.)bn\.", r"\1bn{last}."),
    (r"^embeddings\.1\.", r"fc."),
)

# torchvision's names to (collection, path of modules); the leaf is named by LEAVES.
TORCHVISION_TO_MODULES = (
    (r"fc", ("embeddings",)),
    (r"(conv1|bn1)", ("backbone", r"\1")),
    (r"(layer\d)\.(\d+)\.((?:conv|bn)\d)", ("backbone", r"\1_\2", r"\3")),
    (r"(layer\d)\.(\d+)\.downsample\.0", ("backbone", r"\1_\2", "downsample_conv")),
    (r"(layer\d)\.(\d+)\.downsample\.1", ("backbone", r"\1_\2", "downsample_bn")),
)

# (last part of the key, number of axes) to (collection, leaf, transposition).
LEAVES = {
    ("weight", 4): ("params", "kernel", (2, 3, 1, 0)),  # OIHW to HWIO
    ("weight", 2): ("params", "kernel", (1, 0)),
    ("weight", 1): ("params", "scale", (0,)),
    ("bias", 1): ("params", "bias", (0,)),
    ("running_mean", 1): ("batch_stats", "mean", (0,)),
    ("running_var", 1): ("batch_stats", "var", (0,)),
}


def from_state_dict(state: Mapping[str, np.ndarray], *, pool_param: float = 3.0) -> tuple[SSCD, Any]:
    """An official state dict as (model, variables); the backbone is told by the tensors.

    Args:
        state: float32 arrays by the names of the official model.Model, either implementation.
        pool_param: GeM's power, which a state dict does not hold.

    Raises:
        ValueError: keys that are unknown, missing or of another shape than the network's; all are listed.
    """
    named = _torchvision_names(state)
    unknown, flat = [], {}
    for key, (original, value) in named.items():
        if key.endswith("num_batches_tracked"):
            continue
        path = _flax_path(key, value.ndim)
        if path is None:
            unknown.append(original)
        else:
            *names, axes = path
            flat[tuple(names)] = (original, np.transpose(value, axes).astype(np.float32))
    model = build_model(**_architecture(named), pool_param=pool_param)
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    expected = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image))
    problems = [f"unknown: {key}" for key in unknown]
    problems += [f"unknown: {flat[path][0]}" for path in flat if path not in expected]
    problems += [f"missing: {'/'.join(path)}" for path in expected if path not in flat]
    problems += [
        f"shape {flat[path][1].shape} instead of {leaf.shape}: {flat[path][0]}"
        for path, leaf in expected.items()
        if path in flat and flat[path][1].shape != leaf.shape
    ]
    if problems:
        raise ValueError("the weights do not fit the network:\n  " + "\n  ".join(problems))
    return model, traverse_util.unflatten_dict({path: value for path, (_, value) in flat.items()})


def _torchvision_names(state: Mapping[str, np.ndarray]) -> dict[str, tuple[str, np.ndarray]]:
    last = 3 if any("convolutional_block.6." in key for key in state) else 2
    named = {}
    for original, value in state.items():
        key = original.removeprefix("backbone.")
        for pattern, name in CLASSY_TO_TORCHVISION:
            key = re.sub(pattern, name, key)
        named[key.format(last=last) if "{last}" in key else key] = (original, value)
    return named


def _flax_path(key: str, ndim: int) -> tuple[Any, ...] | None:
    module, _, leaf = key.rpartition(".")
    if (leaf, ndim) not in LEAVES:
        return None
    collection, name, axes = LEAVES[leaf, ndim]
    for pattern, path in TORCHVISION_TO_MODULES:
        if match := re.fullmatch(pattern, module):
            return (collection, *(match.expand(part) for part in path), name, axes)
    return None


def _architecture(named: Mapping[str, tuple[str, np.ndarray]]) -> dict[str, Any]:
    """Arguments of `build_model`, read off the number of blocks and the shapes."""
    needed = ("conv1.weight", "layer1.0.conv2.weight", "fc.weight")
    if absent := [key for key in needed if key not in named]:
        raise ValueError(f"not the weights of an SSCD network: no {', '.join(absent)}")
    stem, inner, head = (named[key][1].shape for key in needed)
    blocks = len({key.split(".")[1] for key in named if key.startswith("layer3.")})
    names = {2: "resnet18", 6: "resnet50", 23: f"resnext101_32x{inner[1]}d"}
    if blocks not in names:
        raise ValueError(f"no known ResNet has {blocks} blocks in its third stage")
    return {"backbone": names[blocks], "dims": head[0], "width": stem[0]}
