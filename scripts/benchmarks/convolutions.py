"""Measures each convolution of a network on this machine's CPU, in JAX and in PyTorch.

    pip install -r requirements.txt -e '.[torch]'
    python scripts/benchmarks/convolutions.py [--backbone resnet50] [--image-size 224] [--views 32]

It prints the best of several runs of the output, the gradient of the input and the gradient of the kernel, in
milliseconds and in billions of operations per second. PyTorch runs with channels last. The last lines are sums in which
each convolution counts as often as the network has it.
"""

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from unittest import mock

import numpy as np

RUNS = 5
Shape = tuple[int, int, int, int, int]  # side of the input, kernel, channels in and out, stride


def shapes(backbone: str, image_size: int) -> dict[Shape, int]:
    """Returns how often a network has each convolution, in its order."""
    import jax

    from sscd_jax.models import build_model
    from sscd_jax.models.cpu import conv2d

    found: Counter[Shape] = Counter()

    def counted(x: jax.Array, kernel: jax.Array, stride: int = 1, groups: int = 1) -> jax.Array:
        found[x.shape[1], kernel.shape[0], kernel.shape[2], kernel.shape[3], stride] += 1
        return conv2d(x, kernel, stride, groups)

    model = build_model(backbone)
    images = jax.ShapeDtypeStruct((1, image_size, image_size, 3), np.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    with mock.patch("sscd_jax.models.layers.conv2d", counted):
        jax.eval_shape(
            lambda *arguments: model.apply(*arguments, train=True, mutable=["batch_stats"]), variables, images
        )
    return dict(found)


def best(function: Callable[[], object]) -> float:
    """Returns the seconds of the fastest run, not counting the first."""
    function()
    seconds = []
    for _ in range(RUNS):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def ours(x: np.ndarray, kernel: np.ndarray, d_out: np.ndarray, stride: int) -> list[float]:
    import jax

    from sscd_jax.models.cpu import conv2d

    def blocking(function: Callable[..., jax.Array], arguments: Sequence[jax.Array]) -> jax.Array:
        return function(*arguments).block_until_ready()

    def forward(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv2d(x, kernel, stride)

    def d_input(x: jax.Array, kernel: jax.Array, d_out: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: forward(x, kernel), x)[1](d_out)[0]

    def d_kernel(x: jax.Array, kernel: jax.Array, d_out: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: forward(x, kernel), kernel)[1](d_out)[0]

    there = jax.device_put((x, kernel, d_out))
    products = (jax.jit(forward), there[:2]), (jax.jit(d_input), there), (jax.jit(d_kernel), there)
    return [best(partial(blocking, *product)) for product in products]


def pytorch(x: np.ndarray, kernel: np.ndarray, d_out: np.ndarray, stride: int) -> list[float]:
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    last = {"memory_format": torch.channels_last}
    xt, dt = (torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(**last) for array in (x, d_out))
    kt, pad = torch.from_numpy(kernel).permute(3, 2, 0, 1).contiguous(**last), kernel.shape[0] // 2

    def backward(*mask: bool) -> Callable[[], object]:
        sizes = [stride] * 2, [pad] * 2, [1, 1]
        return lambda: torch.ops.aten.convolution_backward(dt, xt, kt, None, *sizes, False, [0, 0], 1, mask)

    def forward() -> object:
        return torch.nn.functional.conv2d(xt, kt, None, stride, pad)

    return [best(f) for f in (forward, backward(True, False, False), backward(False, True, False))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50", help="backbone of the network (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=224, help="side of a view in pixels (default %(default)s)")
    parser.add_argument("--views", type=int, default=32, help="number of views in a batch (default %(default)s)")
    given = parser.parse_args()
    if not find_spec("torch"):
        sys.exit("not installed: torch; pip install 'sscd_jax[torch]'")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # else PyTorch's threads take time from ours
    from sscd_jax import distributed

    distributed.start()
    rng = np.random.default_rng(0)
    sums = np.zeros((2, 3))
    titles = [f"{way} {product}" for way in ("ours", "PyTorch") for product in ("output", "input", "kernel")]
    print(f"{'convolution':37}" + "".join(f"{title:>17}" for title in titles))
    for shape, count in shapes(given.backbone, given.image_size).items():
        side, k, channels, out, stride = shape
        after = (side - 1) // stride + 1
        operations = 2 * given.views * after**2 * k**2 * channels * out
        x, kernel, d_out = (
            rng.normal(size=size).astype(np.float32)
            for size in (
                (given.views, side, side, channels),
                (k, k, channels, out),
                (given.views, after, after, out),
            )
        )
        seconds = np.array([ours(x, kernel, d_out, stride), pytorch(x, kernel, d_out, stride)])
        if channels == 3:  # training needs no gradient of the images
            seconds[:, 1] = 0
        sums += count * seconds
        name = f"{count} x {side} px, {k}x{k}, {channels} to {out}" + (f", stride {stride}" if stride > 1 else "")
        cells = (f"{1e3 * s:6.1f} ms {operations / s / 1e9:4.0f}" if s else "" for s in seconds.flat)
        print(f"{name:37}" + "".join(f"{cell:>17}" for cell in cells), flush=True)
    for way, (output, inputs, kernels) in zip(("ours", "PyTorch"), sums, strict=True):
        print(
            f"{way}: {output + inputs + kernels:.2f} s = {output:.2f} output, {inputs:.2f} input, {kernels:.2f} kernel"
        )


if __name__ == "__main__":
    main()
