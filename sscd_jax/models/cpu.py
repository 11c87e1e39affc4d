"""Operations that are written differently for XLA:CPU; on other platforms, XLA's own operations are used.

In the version `MEASURED_ON`, XLA:CPU had these weaknesses, as `scripts/benchmarks/layers.py` measures:

* 3x3 convolutions on maps of at most 2x2, and the gradient of a strided convolution with respect to its input, ran at a
  twentieth of the machine's speed. They are written as one matrix product per tap of the kernel; a 3x3 on a map of at
  most 2x2 is one product, of four pixels by four, because most of its nine taps meet only padding.
* Gradients of convolutions in a loop (for example, when a batch is computed in pieces) had no fast kernel in the form
  that autodiff gives them. They are written by hand.
* The 7x7 convolution of stride 2 on 3 channels gathered slowly. At inference it is a 4x4 convolution of 12 channels.
* The gradient of max-pooling was a scalar loop, means of products wrote the products to memory, and sums were computed
  again wherever they were used.

Once none of this is faster any more, replace `conv2d` by `_native`, `channel_means` by a mean, and
`max_pool_3x3_stride_2` by flax.linen.max_pool, and remove `compute_once` and `stem_conv2d`. tests/models/test_cpu.py
says when to measure again.
"""

from collections.abc import Sequence
from functools import partial, reduce

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

MEASURED_ON = "0.10.2"  # version of jaxlib

_ORDER = ("NHWC", "HWIO", "NHWC")  # XLA:CPU does not reorder axes inside of loops, and any other order is slow there


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: Array, kernel: Array, stride: int = 1, groups: int = 1) -> Array:
    """Convolves with padding of k // 2 on every side: [B, H, W, C] * [k, k, C / groups, O] -> [B, H', W', O]."""
    if groups == 1 and kernel.shape[0] > 1 and _is_small(x):
        return lax.platform_dependent(
            x,
            kernel,
            cpu=partial(_on_small, stride=stride),
            default=partial(_native, stride=stride, groups=groups),
        )
    return _native(x, kernel, stride=stride, groups=groups)


def _forward(x: Array, kernel: Array, stride: int, groups: int) -> tuple[Array, tuple[Array, Array]]:
    return conv2d(x, kernel, stride, groups), (x, kernel)


@partial(jax.jit, static_argnums=(0, 1), inline=True)  # traced once for each shape, not for each layer
def _backward(stride: int, groups: int, saved: tuple[Array, Array], d_out: Array) -> tuple[Array, Array]:
    x, kernel = saved

    def native(d_out: Array) -> tuple[Array, Array]:
        return jax.vjp(partial(_native, stride=stride, groups=groups), x, kernel)[1](d_out)

    def on_cpu(d_out: Array) -> tuple[Array, Array]:
        return _d_input(x, kernel, d_out, stride), _d_kernel(x, kernel, d_out, stride)

    return native(d_out) if groups > 1 else lax.platform_dependent(d_out, cpu=on_cpu, default=native)


def _d_input(x: Array, kernel: Array, d_out: Array, stride: int) -> Array:
    if stride > 1 or (kernel.shape[0] > 1 and _is_small(x)):
        return jax.vjp(lambda x: _on_small(x, kernel, stride=stride), x)[1](d_out)[0]
    return _native(d_out, kernel[::-1, ::-1].swapaxes(2, 3), stride=1, groups=1)


def _d_kernel(x: Array, kernel: Array, d_out: Array, stride: int) -> Array:
    k = kernel.shape[0]
    if k == 1:  # a convolution would transpose all maps
        x = x[:, ::stride, ::stride]
        return (x.reshape(-1, x.shape[-1]).T @ d_out.reshape(-1, d_out.shape[-1])).reshape(kernel.shape)
    if _is_dense(x, kernel, stride):
        return jax.vjp(lambda kernel: _dense(x, kernel), kernel)[1](d_out)[0]
    x, d_out = x.transpose(3, 1, 2, 0), d_out.transpose(1, 2, 0, 3)
    padding = [(k // 2, k // 2 - (side - 1) % stride) for side in x.shape[1:3]]
    out = lax.conv_general_dilated(x, d_out, (1, 1), padding, rhs_dilation=(stride, stride), dimension_numbers=_ORDER)
    return out.transpose(1, 2, 0, 3)


conv2d.defvjp(_forward, _backward)


def stem_conv2d(x: Array, kernel: Array) -> Array:
    """Computes conv2d with a 7x7 kernel and stride 2, at inference: [B, H, W, 3] * [7, 7, 3, O] -> [B, H', W', O]."""
    native = partial(_native, stride=2, groups=1)
    if not all(isinstance(side, int) for side in x.shape):  # symbolic sizes of `jax.export`
        return native(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_by_cells, default=native)


def _by_cells(x: Array, kernel: Array) -> Array:
    """Treats cells of 2x2 pixels as one pixel with four times the channels: a 4x4 convolution, with less to gather."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (4, 2 * rows - height + 2), (4, 2 * columns - width + 2), (0, 0)))
    x = x.reshape(batch, rows + 3, 2, columns + 3, 2, channels).swapaxes(2, 3)
    x = x.reshape(batch, rows + 3, columns + 3, 4 * channels)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).swapaxes(1, 2).reshape(4, 4, 4 * channels, -1)
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_ORDER)


def _is_small(x: Array) -> bool:
    """Returns whether maps are at most 2 high or wide; a symbolic size of `jax.export` counts as larger."""
    return any(isinstance(side, int) and side <= 2 for side in x.shape[1:3])


def _is_dense(x: Array, kernel: Array, stride: int) -> bool:
    """Returns whether each output pixel depends on every input pixel: 3x3 on a map of at most 2x2."""
    return kernel.shape[0] == 3 and stride == 1 and all(isinstance(side, int) and side <= 2 for side in x.shape[1:3])


def _on_small(x: Array, kernel: Array, *, stride: int) -> Array:
    return _dense(x, kernel) if _is_dense(x, kernel, stride) else _by_taps(x, kernel, stride=stride)


def _dense(x: Array, kernel: Array) -> Array:
    """Computes one matrix product, of all input pixels by all output pixels."""
    batch, height, width, channels = x.shape
    reach = [kernel[1 - i : 1 - i + height, 1 - j : 1 - j + width] for i in range(height) for j in range(width)]
    matrix = jnp.stack(reach, -2).reshape(height * width * channels, -1)
    return (x.reshape(batch, -1) @ matrix).reshape(batch, height, width, -1)


def _native(x: Array, kernel: Array, *, stride: int, groups: int) -> Array:
    pad = kernel.shape[0] // 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=_ORDER,
        feature_group_count=groups,
    )


def _by_taps(x: Array, kernel: Array, *, stride: int) -> Array:
    k = kernel.shape[0]
    height, width = (x.shape[1] - 1) // stride + 1, (x.shape[2] - 1) // stride + 1
    pad = k // 2
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = stride * (height - 1) + 1, stride * (width - 1) + 1
    taps = [x[:, i : i + rows : stride, j : j + columns : stride] @ kernel[i, j] for i in range(k) for j in range(k)]
    return sum(taps[1:], taps[0])


@partial(jax.jit, inline=True)  # traced once for each shape, not for each layer
def channel_means(*factors: Array) -> Array:
    """Returns the means over all axes but the last of a product: [B, H, W, C] each -> float32 [C]."""

    def product(factors: Sequence[Array]) -> Array:
        return reduce(jnp.multiply, [x.astype(jnp.float32) for x in factors])

    def by_rows(*factors: Array) -> Array:
        # XLA:CPU writes a product to memory before it sums it, except for a sum of a few slices, which it computes in
        # one pass. The rest of the sum is a matrix product, which reads its operands once.
        batch, height, width, channels = factors[0].shape
        slices = next(n for n in range(8, 0, -1) if height % n == 0)
        split = [x.reshape(batch, slices, height // slices, width * channels) for x in factors]
        rows = reduce(jnp.add, [product([x[:, i] for x in split]) for i in range(slices)])
        rows = rows.reshape(-1, width * channels)
        return (jnp.ones(len(rows)) @ rows).reshape(width, channels).sum(0) / (batch * height * width)

    return lax.platform_dependent(*factors, cpu=by_rows, default=lambda *factors: product(factors).mean((0, 1, 2)))


def max_pool_3x3_stride_2(x: Array) -> Array:
    """Pools as torch's MaxPool2d(3, stride=2, padding=1): [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C]."""

    def windows(x: Array) -> Array:
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    if not all(isinstance(side, int) for side in x.shape):  # symbolic sizes of `jax.export`
        return windows(x)
    # On the CPU the gradient of a window reduction would be a scalar loop.
    return lax.platform_dependent(x, cpu=lambda x: _max_of_three(_max_of_three(x, 1), 2), default=windows)


def _max_of_three(x: Array, axis: int) -> Array:
    """Returns the maxima of windows of 3 with stride 2 and padding 1 along one axis."""
    low = jnp.array(-jnp.inf, x.dtype)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (0, x.shape[axis] % 2, 0)
    pairs = lax.pad(x, low, padding)
    pairs = pairs.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    padding[axis] = (1, -1, 0)
    return jnp.maximum(jnp.maximum(lax.pad(odd, low, padding), even), odd)


def runtime_one(x: Array) -> Array:
    """Returns 1.0 in a form that XLA cannot simplify, for `compute_once`; x is any array that is not sharded."""
    bits = lax.bitcast_convert_type(x.ravel()[0].astype(jnp.float32), jnp.int32)
    return ((bits | 1) != 0).astype(jnp.float32)


@jax.custom_vjp
def compute_once(x: Array, one: Array) -> Array:
    """Returns x, and keeps XLA:CPU from computing it again at each use.

    XLA:CPU fuses a sum, and all sums that are part of it, into every operation that uses it, but it computes a division
    only once. So x is divided by `one`, which is `runtime_one`.
    """
    return lax.platform_dependent(x, one, cpu=lambda x, one: x / one.astype(x.dtype), default=lambda x, _: x)


compute_once.defvjp(lambda x, one: (compute_once(x, one), None), lambda _, d_out: (d_out, None))
