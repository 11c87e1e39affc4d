"""A padded convolution whose three products (output, two gradients) are fast on every platform.

XLA:CPU has fast kernels for most convolutions, but runs 3x3 on a 2x2 map, and the gradient of a strided convolution
with respect to its input, at a twentieth of the machine's speed: there a convolution is written as one matrix product
for each tap. A 3x3 on a map of at most 2x2 is one product: four pixels times four, where nine taps times four pixels
meet mostly padding. Gradients are written out: autodiff's form of them, inside a loop as when a batch is computed in
pieces, is one that XLA:CPU has no fast kernel for.
`scripts/benchmarks/layers.py` measures it.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array, lax

_ORDER = ("NHWC", "HWIO", "NHWC")  # any other is slow on the CPU, where XLA does not reorder it: inside loops


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(x: Array, kernel: Array, stride: int = 1, groups: int = 1) -> Array:
    """Convolution padded by k // 2 on every side: [B, H, W, C] * [k, k, C / groups, O] -> [B, H', W', O]."""
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
    if k == 1:  # as a convolution it would transpose all maps
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
    """conv2d of a 7x7 kernel and stride 2, for inference: [B, H, W, 3] * [7, 7, 3, O] -> [B, H', W', O]."""
    native = partial(_native, stride=2, groups=1)
    if not all(isinstance(side, int) for side in x.shape):  # left open by `jax.export`
        return native(x, kernel)
    return lax.platform_dependent(x, kernel, cpu=_by_cells, default=native)


def _by_cells(x: Array, kernel: Array) -> Array:
    """Cells of 2x2 pixels as one pixel of four times the channels: a 4x4 convolution, which has less to gather."""
    batch, height, width, channels = x.shape
    rows, columns = -(-height // 2), -(-width // 2)
    x = jnp.pad(x, ((0, 0), (4, 2 * rows - height + 2), (4, 2 * columns - width + 2), (0, 0)))
    x = x.reshape(batch, rows + 3, 2, columns + 3, 2, channels).swapaxes(2, 3)
    x = x.reshape(batch, rows + 3, columns + 3, 4 * channels)
    kernel = jnp.pad(kernel, ((1, 0), (1, 0), (0, 0), (0, 0)))
    kernel = kernel.reshape(4, 2, 4, 2, channels, -1).swapaxes(1, 2).reshape(4, 4, 4 * channels, -1)
    return lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=_ORDER)


def _is_small(x: Array) -> bool:
    """Whether a map is at most 2 high or wide; a size left open by `jax.export` is taken for larger."""
    return any(isinstance(side, int) and side <= 2 for side in x.shape[1:3])


def _is_dense(x: Array, kernel: Array, stride: int) -> bool:
    """Whether each pixel of the output takes from all of the input: 3x3 on a map of at most 2x2."""
    return kernel.shape[0] == 3 and stride == 1 and all(isinstance(side, int) and side <= 2 for side in x.shape[1:3])


def _on_small(x: Array, kernel: Array, *, stride: int) -> Array:
    return _dense(x, kernel) if _is_dense(x, kernel, stride) else _by_taps(x, kernel, stride=stride)


def _dense(x: Array, kernel: Array) -> Array:
    """One product with the matrix of all pixels of the input times all of the output."""
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
