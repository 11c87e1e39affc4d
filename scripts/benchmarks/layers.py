"""Measures our layers and those of XLA and Flax on this machine's CPU.

    python scripts/benchmarks/layers.py

It prints milliseconds and the ratio for the forward pass and both gradients of each layer: the best of several runs,
with the two implementations in turn. Then it measures a ResNet-50 with and without the XLA flag that
`sscd_jax.distributed.start` sets, each in a separate process, and the network's forward pass and gradients with and
without the code that keeps XLA from computing sums twice.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from sscd_jax import distributed
from sscd_jax.models import build_model
from sscd_jax.models.cpu import conv2d, max_pool_3x3_stride_2
from sscd_jax.models.folding import fold
from sscd_jax.models.layers import BatchNorm

RUNS = 5
# Batch, side of the map, channels in and out, kernel, stride: ResNet-18 of width 16 at 64 px, ResNet-50 at 224 px.
CONVOLUTIONS = [
    (256, 2, 128, 128, 3, 1),
    (256, 4, 64, 128, 3, 2),
    (256, 16, 16, 32, 3, 2),
    (8, 56, 128, 128, 3, 2),
    (8, 56, 64, 64, 3, 1),
]
# Batch, side of the map, channels.
MAPS = [(256, 32, 16), (256, 8, 32), (16, 112, 64), (16, 28, 512)]


def milliseconds(*functions: Callable[..., Any], arguments: tuple[Any, ...]) -> list[float]:
    """Returns the best time of each function. They are compiled first, and run in turn."""
    compiled = [jax.jit(f).lower(*arguments).compile() for f in functions]
    best = [float("inf")] * len(functions)
    for run in range(RUNS + 1):
        for i, function in enumerate(compiled):
            start = time.perf_counter()
            jax.block_until_ready(function(*arguments))
            if run:
                best[i] = min(best[i], 1000 * (time.perf_counter() - start))
    return best


def with_gradients(function: Callable[..., Array]) -> Callable[..., Any]:
    """Returns a function that computes the output and the gradients with respect to all arguments."""

    def both(*arguments: Array) -> Any:
        output, pullback = jax.vjp(function, *arguments)
        return output, pullback(jnp.ones_like(output))

    return both


def report(name: str, theirs: float, ours: float) -> None:
    print(f"{name:44} {theirs:10.1f} {ours:10.1f} {theirs / ours:8.2f}x", flush=True)


def xla_convolution(x: Array, kernel: Array, stride: int) -> Array:
    pad = kernel.shape[0] // 2
    dimensions = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(pad, pad)] * 2, dimension_numbers=dimensions)


def flax_max_pool(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))


def batch_norm(module: nn.Module, x: Array) -> Callable[[Array], Array]:
    variables = module.init(jax.random.key(0), x)
    return lambda x: module.apply(variables, x, mutable=["batch_stats"])[0]


class OurBatchNorm(nn.Module):
    """Our batch normalization in training mode, with the signature of Flax's."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        return BatchNorm()(x, True)


def layers() -> None:
    print(f"{'forward and gradients':44} {'theirs, ms':>10} {'ours, ms':>10}")
    for b, side, c_in, c_out, k, stride in CONVOLUTIONS:
        x = jax.random.normal(jax.random.key(0), (b, side, side, c_in))
        kernel = jax.random.normal(jax.random.key(1), (k, k, c_in, c_out))
        pair = [
            with_gradients(lambda x, kernel, stride=stride: xla_convolution(x, kernel, stride)),
            with_gradients(lambda x, kernel, stride=stride: conv2d(x, kernel, stride)),
        ]
        report(f"{k}x{k} / {stride}, {list(x.shape)} -> {c_out}", *milliseconds(*pair, arguments=(x, kernel)))
    for b, side, channels in MAPS:
        x = jax.random.normal(jax.random.key(0), (b, side, side, channels))
        pair = [with_gradients(flax_max_pool), with_gradients(max_pool_3x3_stride_2)]
        report(f"max-pool, {list(x.shape)}", *milliseconds(*pair, arguments=(x,)))
        flax_norm = nn.BatchNorm(use_running_average=False)
        pair = [with_gradients(batch_norm(flax_norm, x)), with_gradients(batch_norm(OurBatchNorm(), x))]
        report(f"batch normalization, {list(x.shape)}", *milliseconds(*pair, arguments=(x,)))


def gradients() -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns the gradient function of a ResNet-50 at 224 px, batch 8, and its arguments."""
    model = build_model("resnet50")
    images = jax.random.normal(jax.random.key(0), (8, 224, 224, 3))
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])

    def loss(params: Any, images: Array) -> Array:
        state = {"params": params, "batch_stats": variables["batch_stats"]}
        return model.apply(state, images, train=True, mutable=["batch_stats"])[0][:, 0].sum()

    return jax.grad(loss), (variables["params"], images)


def network() -> float:
    """Returns the milliseconds of a ResNet-50's forward pass and gradients."""
    function, arguments = gradients()
    return milliseconds(function, arguments=arguments)[0]


def training() -> None:
    """Reports the gradients of a ResNet-50 as they are, and with `compute_once` doing nothing."""
    function, arguments = gradients()

    def again(*arguments: Any) -> Any:
        with (
            mock.patch("sscd_jax.models.resnet.compute_once", lambda x, one: x),
            mock.patch("sscd_jax.models.layers.compute_once", lambda x, one: x),
        ):
            return function(*arguments)

    report(
        "ResNet-50's gradients: sums computed once",
        *milliseconds(again, function, arguments=arguments),
    )


def inference() -> None:
    """Reports the forward pass of a folded ResNet-50 as it is, and with `compute_once` doing nothing."""
    model = build_model("resnet50")
    images = jax.random.normal(jax.random.key(0), (1, 288, 288, 3))
    model, variables = fold(model, jax.jit(model.init)(jax.random.key(0), images))

    def again(variables: Any, images: Array) -> Any:
        with mock.patch("sscd_jax.models.resnet.compute_once", lambda x, one: x):
            return model.apply(variables, images)

    report(
        "ResNet-50, 288 px, batch 1: sums computed once",
        *milliseconds(again, model.apply, arguments=(variables, images)),
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["network"]:
        print(network())
    elif sys.argv[1:] == ["network with the flag"]:
        distributed.start()
        print(network())
    else:
        distributed.start()
        layers()
        inference()
        training()
        here = [sys.executable, __file__]
        times = [
            float(subprocess.run([*here, which], check=True, capture_output=True, text=True).stdout.split()[-1])
            for which in ("network", "network with the flag")
        ]
        report("ResNet-50, 224 px, batch 8: the XLA flag", *times)
