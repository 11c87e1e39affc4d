"""Convolution, batch normalization and pooling as torch computes them.

What XLA:CPU would compile to slow loops is said in another way there; `scripts/benchmarks/layers.py` measures it.
"""

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from sscd_jax.models.cpu import conv2d, stem_conv2d

BATCH_NORM_EPSILON = 1e-5
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # Kaiming normal


class Conv(nn.Module):
    """k x k convolution without bias, padded by k // 2 on every side: [B, H, W, C] -> [B, H', W', features].

    `inference`: the stem may be computed by what has no fast gradient.
    """

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    dtype: Any = jnp.float32
    inference: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        k = self.kernel_size
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", KERNEL_INIT, shape, jnp.float32)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.inference and (k, self.stride) == (7, 2):
            return stem_conv2d(x, kernel)
        return conv2d(x, kernel, self.stride, self.groups)


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, in float32.

    Flax's own keeps the biased variance as the running one; torch keeps the unbiased one. Under jit the mean over a
    batch sharded over devices is the mean over the global batch (synchronized batch normalization). Folded, it adds a
    bias (`models.folding`).
    """

    momentum: float = 0.9  # torch's 0.1
    epsilon: float = BATCH_NORM_EPSILON
    scale_init: nn.initializers.Initializer = nn.initializers.ones
    dtype: Any = jnp.float32
    folded: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        shape = (x.shape[-1],)
        bias = self.param("bias", nn.initializers.zeros, shape, jnp.float32)
        if self.folded:
            return x + bias.astype(self.dtype)
        scale = self.param("scale", self.scale_init, shape, jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)
        if not train:
            multiplier = scale * lax.rsqrt(running_var.value + self.epsilon)
            return (x * multiplier + (bias - running_mean.value * multiplier)).astype(self.dtype)
        constant = lax.stop_gradient(x)  # the gradient through both is in that of `_standardize`
        mean, mean_square = _channel_means(constant), _channel_means(constant, constant)
        var = jnp.maximum(mean_square - jnp.square(mean), 0.0)
        if not self.is_initializing():
            n = x.size // x.shape[-1]
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var * (n / max(n - 1, 1))
        return _standardize(x, scale, bias, mean, lax.rsqrt(var + self.epsilon)).astype(self.dtype)


@jax.custom_vjp
def _standardize(x: Array, scale: Array, bias: Array, mean: Array, inverse_std: Array) -> Array:
    """(x - mean) * inverse_std * scale + bias; its gradient takes mean and inverse_std for those of x itself."""
    multiplier = scale * inverse_std
    return x * multiplier + (bias - mean * multiplier)


def _standardize_forward(x: Array, scale: Array, bias: Array, mean: Array, inverse_std: Array) -> tuple[Array, Any]:
    return _standardize(x, scale, bias, mean, inverse_std), (x, scale, mean, inverse_std)


def _standardize_backward(saved: Any, d_out: Array) -> tuple[Array, Array, Array, None, None]:
    # Written out, as autodiff makes more passes over the activations (arXiv 1502.03167, section 3).
    x, scale, mean, inverse_std = saved
    n = x.size // x.shape[-1]
    mean_d = _channel_means(d_out)
    mean_d_x = (_channel_means(d_out, x) - mean * mean_d) * inverse_std  # of d_out times the standardized x
    multiplier = scale * inverse_std
    slope = multiplier * inverse_std * mean_d_x
    d_x = multiplier * d_out - slope * x + (slope * mean - multiplier * mean_d)
    d_x = compute_once(d_x, runtime_one(scale))  # both gradients of the convolution before take it
    return d_x.astype(x.dtype), n * mean_d_x, n * mean_d, None, None


_standardize.defvjp(_standardize_forward, _standardize_backward)


@partial(jax.jit, inline=True)  # traced once for each shape, not for each layer
def _channel_means(*factors: Array) -> Array:
    """Means of the product over all axes but the last: [B, H, W, C] each -> float32 [C]."""

    def product(factors: Sequence[Array]) -> Array:
        return reduce(jnp.multiply, [x.astype(jnp.float32) for x in factors])

    def by_rows(*factors: Array) -> Array:
        # XLA:CPU writes a product to memory before it sums it. It makes a sum of a few slices in one pass instead, and
        # what is left is a matrix product, which takes no such detour.
        batch, height, width, channels = factors[0].shape
        slices = next(n for n in range(8, 0, -1) if height % n == 0)
        split = [x.reshape(batch, slices, height // slices, width * channels) for x in factors]
        rows = reduce(jnp.add, [product([x[:, i] for x in split]) for i in range(slices)])
        rows = rows.reshape(-1, width * channels)
        return (jnp.ones(len(rows)) @ rows).reshape(width, channels).sum(0) / (batch * height * width)

    return lax.platform_dependent(*factors, cpu=by_rows, default=lambda *factors: product(factors).mean((0, 1, 2)))


def max_pool_3x3_stride_2(x: Array) -> Array:
    """torch's MaxPool2d(3, stride=2, padding=1): [B, H, W, C] -> [B, ceil(H/2), ceil(W/2), C]."""

    def windows(x: Array) -> Array:
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    if not all(isinstance(side, int) for side in x.shape):  # left open by `jax.export`
        return windows(x)
    # On the CPU the gradient of a window reduction is a scalar loop.
    return lax.platform_dependent(x, cpu=lambda x: _max_of_three(_max_of_three(x, 1), 2), default=windows)


def _max_of_three(x: Array, axis: int) -> Array:
    """Maxima of windows of 3, stride 2, padding 1, along an axis."""
    low = jnp.array(-jnp.inf, x.dtype)
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (0, x.shape[axis] % 2, 0)
    pairs = lax.pad(x, low, padding)
    pairs = pairs.reshape(*x.shape[:axis], -1, 2, *x.shape[axis + 1 :])
    even, odd = (lax.index_in_dim(pairs, i, axis + 1, keepdims=False) for i in range(2))
    padding[axis] = (1, -1, 0)
    return jnp.maximum(jnp.maximum(lax.pad(odd, low, padding), even), odd)


def zero_padding(x: Array, sizes: Array | None) -> Array:
    """Zero beyond each map's own height and width, int32 [B, 2], as a convolution pads it: [B, H, W, C] -> same."""
    if sizes is None:
        return x
    rows, columns = (lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:3], 1), axis) for axis in (1, 2))
    height, width = (sizes[:, side, None, None, None] for side in range(2))
    return jnp.where((rows < height) & (columns < width), x, jnp.zeros((), x.dtype))


def runtime_one(x: Array) -> Array:
    """1, float32, which XLA cannot know to be 1, for `compute_once`; x is any array that is not split over devices."""
    bits = lax.bitcast_convert_type(x.ravel()[0].astype(jnp.float32), jnp.int32)
    return ((bits | 1) != 0).astype(jnp.float32)


@jax.custom_vjp
def compute_once(x: Array, one: Array) -> Array:
    """x itself. XLA:CPU would compute a sum again wherever it is used, and all sums that are part of it.

    It does not do so with a division; scripts/benchmarks/layers.py measures it, at inference and in training.
    """
    return lax.platform_dependent(x, one, cpu=lambda x, one: x / one.astype(x.dtype), default=lambda x, _: x)


compute_once.defvjp(lambda x, one: (compute_once(x, one), None), lambda _, d_out: (d_out, None))


def halve(sizes: Array | None) -> Array | None:
    """Heights and widths after a convolution or a pooling of stride 2."""
    return None if sizes is None else -(-sizes // 2)


def gem_pool(x: Array, p: float, sizes: Array | None = None) -> Array:
    """Generalized mean over the map: [B, H, W, C] -> float32 [B, C] (arXiv 1711.02512; official gem_pooling.py).

    In float32 whatever the dtype of x: the floor 1e-6 to the power 3 underflows half precision. Where `sizes` are
    given, int32 [B, 2], the mean is over each map's own height and width.
    """
    x = jnp.power(jnp.maximum(x.astype(jnp.float32), 1e-6), p)
    if sizes is None:
        return jnp.power(x.mean((1, 2)), 1 / p)
    mean = zero_padding(x, sizes).sum((1, 2)) / sizes.prod(1)[:, None]
    return jnp.power(mean, 1 / p)


def l2_normalize(x: Array) -> Array:
    """Rows of norm 1, as torch's F.normalize: [..., D] -> float32 [..., D]."""
    x = x.astype(jnp.float32)
    # The square root's gradient at 0 is infinite; below the floor of 1e-12 the norm is a constant.
    squared = jnp.square(x).sum(-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squared, 1e-24))
