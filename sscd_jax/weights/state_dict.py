"""Converts state dicts of the official code (torchvision or classy_vision names) to Flax variables and back.

`module_names` is the table of names, with one row per module.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sscd_jax.models import SSCD, build_model

# (name in torch, number of axes) -> (our collection, our name, order of axes to transpose to).
LEAVES = {
    ("weight", 4): ("params", "kernel", (2, 3, 1, 0)),  # OIHW to HWIO
    ("weight", 2): ("params", "kernel", (1, 0)),
    ("weight", 1): ("params", "scale", (0,)),
    ("bias", 1): ("params", "bias", (0,)),
    ("running_mean", 1): ("batch_stats", "mean", (0,)),
    ("running_var", 1): ("batch_stats", "var", (0,)),
}
COUNTER = "num_batches_tracked"  # of torch's batch normalization; neither inference nor training uses it
IMAGENET_CLASSES = 1000
MISFIT = "the weights do not fit the network:"  # begins the error that lists the arrays

Keys = tuple[str, ...]  # a path in our variables


class Names(NamedTuple):
    """The name of a module: its path in our variables, and its names in the two official backbones."""

    ours: str
    torchvision: str
    classy_vision: str


def module_names(stage_sizes: tuple[int, ...], convolutions: int) -> list[Names]:
    """Lists all modules that can hold weights, given the blocks per stage and the convolutions per block."""
    rows = [
        Names("backbone/conv1", "backbone.conv1", "backbone.initial_block._module.0"),
        Names("backbone/bn1", "backbone.bn1", "backbone.initial_block._module.1"),
        Names("embeddings", "backbone.fc", "embeddings.1"),
    ]
    for s, blocks in enumerate(stage_sizes):
        for b in range(blocks):
            ours, torchvision = f"backbone/layer{s + 1}_{b}", f"backbone.layer{s + 1}.{b}"
            classy = f"backbone.blocks.{s}.block{s}-{b}"
            for n in range(1, convolutions + 1):
                bn = "bn" if n == convolutions else f"convolutional_block.{3 * n - 2}"
                conv = f"{classy}.convolutional_block.{3 * n - 3}"
                rows.append(Names(f"{ours}/conv{n}", f"{torchvision}.conv{n}", conv))
                rows.append(Names(f"{ours}/bn{n}", f"{torchvision}.bn{n}", f"{classy}.{bn}"))
            for n, module in enumerate(("downsample_conv", "downsample_bn")):
                rows.append(Names(f"{ours}/{module}", f"{torchvision}.downsample.{n}", f"{classy}.downsample.{n}"))
    return rows


def from_state_dict(state: Mapping[str, np.ndarray], *, pool_param: float = 3.0) -> tuple[SSCD, Any]:
    """Converts a state dict to (model, variables); backbone, dims and width are inferred from the tensors.

    Args:
        state: arrays by the names of the official model.Model in either implementation, or of a plain torchvision
            ResNet. A classifier of 1000 classes is left out of the latter, and the model has no projection (dims 0).
        pool_param: GeM's power, which a state dict does not hold.

    Raises:
        ValueError: keys are unknown, missing or of another shape than the network's; the error lists all of them.
    """
    projection, plain = True, False
    if "conv1.weight" in state:  # the ResNet alone
        plain = True
        state = {f"backbone.{key}": value for key, value in state.items()}
        projection = "backbone.fc.weight" in state and len(state["backbone.fc.weight"]) != IMAGENET_CLASSES
        if not projection:
            state = {key: value for key, value in state.items() if not key.startswith("backbone.fc.")}
    classy = any(".initial_block." in key for key in state)
    model = build_model(**_architecture(state, classy, projection), pool_param=pool_param)
    expected = abstract_variables(model)

    names: dict[Keys, str] = {}
    places: dict[str, tuple[Keys, tuple[int, ...]]] = {}
    for row in _rows(model):
        for (leaf, ndim), (collection, name, axes) in LEAVES.items():
            path = (collection, *row.ours.split("/"), name)
            if path in expected and expected[path].ndim == ndim:
                key = f"{row.classy_vision if classy else row.torchvision}.{leaf}"
                names[path], places[key] = key.removeprefix("backbone.") if plain else key, (path, axes)

    flat, problems = {}, []
    for key, value in state.items():
        if key in places:
            path, axes = places[key]
            flat[path] = np.transpose(value, axes) if value.ndim == len(axes) else value
        elif not (key.endswith(COUNTER) and key.replace(COUNTER, "running_mean") in places):
            problems.append(f"unknown: {key.removeprefix('backbone.') if plain else key}")
    return model, fit(flat, expected, names, problems)


def fit(
    flat: Mapping[Keys, np.ndarray], expected: Mapping[Keys, Any], names: Mapping[Keys, str], problems: list[str]
) -> Any:
    """Checks arrays by path against the network, and returns them as a tree of float32 variables.

    Args:
        flat: the arrays.
        expected: shapes by path, see `abstract_variables`.
        names: the name of each path in the file, for messages.
        problems: messages about problems that the caller has found.

    Raises:
        ValueError: arrays are missing, unknown, of another shape or not finite; the error lists all of them.
    """
    odd = [path for path, value in flat.items() if value.dtype.kind not in "fiub"]  # complex, objects, text
    problems = problems + [f"{flat[path].dtype} instead of numbers: {names.get(path, '/'.join(path))}" for path in odd]
    problems += [f"unknown: {names.get(path, '/'.join(path))}" for path in flat if path not in expected]
    for path, leaf in expected.items():
        name = names.get(path, "/".join(path))
        if path not in flat:
            problems.append(f"missing: {name}")
        elif flat[path].shape != leaf.shape:
            problems.append(f"shape (kernels as HWIO) {flat[path].shape} instead of {leaf.shape}: {name}")
        elif path not in odd and not np.isfinite(flat[path]).all():
            problems.append(f"not finite: {name}")
    if problems:
        raise ValueError(f"{MISFIT}\n  " + "\n  ".join(problems))
    return traverse_util.unflatten_dict({path: np.asarray(value, np.float32) for path, value in flat.items()})


def abstract_variables(model: SSCD) -> dict[Keys, jax.ShapeDtypeStruct]:
    """Returns shapes and dtypes of a network's variables, by path."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), image))


def to_state_dict(model: SSCD, variables: Any, *, batches_tracked: int = 0) -> dict[str, np.ndarray]:
    """Converts variables to a state dict with the official torchvision names, the inverse of `from_state_dict`.

    A network without a projection gets the names of a plain torchvision ResNet. The arrays are float32, beside the
    int64 counters of torch, which are `batches_tracked`.
    """
    flat = traverse_util.flatten_dict(jax.device_get(variables))
    state: dict[str, np.ndarray] = {}
    for row in _rows(model):
        for (leaf, ndim), (collection, name, axes) in LEAVES.items():
            value = flat.get((collection, *row.ours.split("/"), name))
            if value is not None and value.ndim == ndim:
                state[f"{row.torchvision}.{leaf}"] = np.ascontiguousarray(np.transpose(value, np.argsort(axes)))
                if leaf == "running_var":
                    state[f"{row.torchvision}.{COUNTER}"] = np.array(batches_tracked, np.int64)
    return state if model.dims else {key.removeprefix("backbone."): value for key, value in state.items()}


def backbone_of(third_stage_blocks: int, convolutions: int, stem: int, group_inputs: int) -> tuple[str, int]:
    """Identifies a network's backbone and width.

    Args:
        third_stage_blocks: number of blocks in its third stage.
        convolutions: number of convolutions in a block.
        stem: output channels of its first convolution.
        group_inputs: input channels per group of the second convolution of its first block.

    Raises:
        ValueError: no known backbone has these numbers.
    """
    known = {
        (2, 2, 64): "resnet18",
        (6, 3, 64): "resnet50",
        (23, 3, 4): "resnext101_32x4d",
        (23, 3, 8): "resnext101_32x8d",
    }
    of_64 = round(64 * group_inputs / stem)  # what group_inputs would be at width 64
    if (name := known.get((third_stage_blocks, convolutions, of_64))) is None:
        raise ValueError(
            f"a ResNet of {third_stage_blocks} blocks of {convolutions} convolutions in its third stage and of "
            f"{group_inputs} inputs a group is none of {', '.join(known.values())}"
        )
    return name, stem


def _rows(model: SSCD) -> list[Names]:
    return module_names(tuple(model.backbone.stage_sizes), 2 if model.backbone.block.expansion == 1 else 3)


def _architecture(state: Mapping[str, np.ndarray], classy: bool, projection: bool) -> dict[str, Any]:
    """Infers the arguments of `build_model` from the number of blocks and the shapes."""
    rows = {row.ours: row.classy_vision if classy else row.torchvision for row in module_names((1,), 3)}
    needed = [f"{rows[path]}.weight" for path in ("backbone/conv1", "backbone/layer1_0/conv2", "embeddings")]
    if absent := [key for key in needed[: 2 + projection] if key not in state]:
        first = ", ".join(sorted(state)[:5])
        raise ValueError(
            f"not the weights of an SSCD network: no {', '.join(absent)}; it has {len(state)} keys, such as {first}. "
            "Is it another network, or do the names have a prefix?"
        )
    stem, inner = (state[key].shape for key in needed[:2])
    if (len(stem), len(inner)) != (4, 4) or 0 in (*stem, *inner):
        raise ValueError(f"{needed[0]} and {needed[1]} have the shapes {stem} and {inner}, not those of convolutions")
    pattern = re.compile(r"backbone\.(?:layer3\.|blocks\.2\.block2-)(\d+)\.")
    blocks = len({match[1] for key in state if (match := pattern.match(key))})
    convolutions = 3 if any(re.search(r"\.conv3\.|convolutional_block\.6\.", key) for key in state) else 2
    backbone, width = backbone_of(blocks, convolutions, stem[0], inner[1])
    return {"backbone": backbone, "width": width, "dims": state[needed[2]].shape[0] if projection else 0}
