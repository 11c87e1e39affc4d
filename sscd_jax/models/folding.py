"""Folds batch normalization into the convolutions for inference, and undoes it.

At inference y = scale (conv(x) - mean) / sqrt(var + eps) + bias is a single convolution with another kernel and a bias.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from sscd_jax.models.layers import BATCH_NORM_EPSILON, Conv
from sscd_jax.models.sscd import SSCD


def fold(model: SSCD, variables: Any) -> tuple[SSCD, Any]:
    """Returns the network without batch normalization, for inference; it equals `model` up to rounding.

    It is computed in float32 by jax.numpy, so that it can be part of a jitted program.
    """
    flat = traverse_util.flatten_dict(variables)
    params: dict[tuple[str, ...], Any] = {path[1:]: leaf for path, leaf in flat.items() if path[0] == "params"}
    for path, mean in [
        (path[1:], leaf) for path, leaf in flat.items() if path[0] == "batch_stats" and path[-1] == "mean"
    ]:
        bn = path[:-1]
        kernel = (*bn[:-1], bn[-1].replace("bn", "conv"), "kernel")
        multiplier = params.pop((*bn, "scale")) / jnp.sqrt(flat["batch_stats", *bn, "var"] + BATCH_NORM_EPSILON)
        params[kernel] = params[kernel] * multiplier
        params[*bn, "bias"] = params[*bn, "bias"] - mean * multiplier
    return folded(model), {"params": traverse_util.unflatten_dict(params)}


def folded(model: SSCD) -> SSCD:
    """Returns the network that `fold` returns, without its variables."""
    return model.clone(backbone=model.backbone.clone(folded=True))


def unfold(model: SSCD, variables: Any) -> tuple[SSCD, Any]:
    """Undoes `fold`, with batch normalizations that only add the bias.

    The network is the same at inference. To train it, call `restore_statistics` first.
    """
    flat = dict(traverse_util.flatten_dict(variables["params"]))
    for path in [path for path in flat if path[-1] == "bias" and (*path[:-1], "kernel") not in flat]:
        for name, value in unfolded_leaves(np.asarray(flat[path])).items():
            if name in ("scale", "bias"):
                flat[*path[:-1], name] = value
    stats = {
        (*path[:-1], name): value
        for path, leaf in flat.items()
        if path[-1] == "scale"
        for name, value in unfolded_leaves(np.asarray(leaf)).items()
        if name in ("mean", "var")
    }
    tree = {"params": traverse_util.unflatten_dict(flat), "batch_stats": traverse_util.unflatten_dict(stats)}
    return model.clone(backbone=model.backbone.clone(folded=False)), tree


def unfolded_leaves(bias: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the four arrays of a batch normalization that only adds `bias`, float32 [C]."""
    ones = np.ones(bias.shape, np.float32)
    return {
        "scale": ones,
        "bias": bias.astype(np.float32),
        "mean": np.zeros_like(ones),
        "var": ones - np.float32(BATCH_NORM_EPSILON),
    }


def lacks_statistics(variables: Any) -> bool:
    """Returns whether all batch normalizations are those of `unfold`, so that the statistics of training are lost."""
    stats = traverse_util.flatten_dict(jax.device_get(variables["batch_stats"]))
    blank = unfolded_leaves(np.zeros(1))
    return all(bool((leaf == blank[path[-1]]).all()) for path, leaf in stats.items())


def restore_statistics(model: SSCD, variables: Any, images: Array) -> Any:
    """Measures the batch statistics of `images`, and returns variables that have them and compute the same function.

    A folded file has lost the means and variances by which training normalizes, and the scales that undo it. If it were
    trained as it is, every activation would be normalized to variance 1. So they are measured here, and scale and bias
    are set such that the output at inference stays the same.

    Args:
        model: the network.
        variables: its variables.
        images: normalized images, float [B, H, W, 3], as the training sees them.
    """

    def moments(variables: Any, images: Array) -> Any:
        _, state = model.apply(
            variables,
            images,
            capture_intermediates=lambda module, _: isinstance(module, Conv),
            mutable=["intermediates"],
        )
        outputs = traverse_util.flatten_dict(state["intermediates"])
        return {path[:-1]: (x.mean((0, 1, 2)), x.var((0, 1, 2))) for path, (x,) in outputs.items()}

    measured = jax.device_get(jax.jit(moments)(variables, images))
    flat = dict(traverse_util.flatten_dict(jax.device_get(variables)))
    for conv, (mean, var) in measured.items():
        bn = (*conv[:-1], conv[-1].replace("conv", "bn"))
        stats, params = ("batch_stats", *bn), ("params", *bn)
        multiplier = flat[*params, "scale"] / np.sqrt(flat[*stats, "var"] + BATCH_NORM_EPSILON)
        flat[*params, "bias"] = flat[*params, "bias"] + (mean - flat[*stats, "mean"]) * multiplier
        flat[*params, "scale"] = multiplier * np.sqrt(var + BATCH_NORM_EPSILON)
        flat[*stats, "mean"], flat[*stats, "var"] = mean, var
    return traverse_util.unflatten_dict(flat)
