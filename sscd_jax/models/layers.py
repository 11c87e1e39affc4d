"""Convolution, batch normalization and pooling as torch computes them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from sscd_jax.models.cpu import channel_means, compute_once, conv2d, runtime_one, stem_conv2d

BATCH_NORM_EPSILON = 1e-5
KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")  # Kaiming normal


class Conv(nn.Module):
    """Convolution without bias, k x k, padded by k // 2 on every side: [B, H, W, C] -> [B, H', W', features].

    With `inference` the network's first convolution is computed in a way that is faster but has no fast gradient.
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
    """Batch normalization over all axes but the last, computed in float32.

    The running variance is the unbiased one, as in torch; flax.linen.BatchNorm keeps the biased one. Under jit the mean
    over a batch that is sharded over devices is the mean over the global batch (synchronized batch normalization).
    With `folded` it only adds a bias (see `models.folding`).
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
        constant = lax.stop_gradient(x)  # `_standardize` has the gradient through mean and variance
        mean, mean_square = channel_means(constant), channel_means(constant, constant)
        var = jnp.maximum(mean_square - jnp.square(mean), 0.0)
        if not self.is_initializing():
            n = x.size // x.shape[-1]
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var * (n / max(n - 1, 1))
        return _standardize(x, scale, bias, mean, lax.rsqrt(var + self.epsilon)).astype(self.dtype)


@jax.custom_vjp
def _standardize(x: Array, scale: Array, bias: Array, mean: Array, inverse_std: Array) -> Array:
    """Returns (x - mean) * inverse_std * scale + bias.

    Its gradient with respect to x includes that through mean and inverse_std, which must be those of x.
    """
    multiplier = scale * inverse_std
    return x * multiplier + (bias - mean * multiplier)


def _standardize_forward(x: Array, scale: Array, bias: Array, mean: Array, inverse_std: Array) -> tuple[Array, Any]:
    return _standardize(x, scale, bias, mean, inverse_std), (x, scale, mean, inverse_std)


def _standardize_backward(saved: Any, d_out: Array) -> tuple[Array, Array, Array, None, None]:
    # Written by hand (arXiv 1502.03167, section 3), as autodiff makes more passes over the activations.
    x, scale, mean, inverse_std = saved
    n = x.size // x.shape[-1]
    mean_d = channel_means(d_out)
    mean_d_x = (channel_means(d_out, x) - mean * mean_d) * inverse_std  # mean of d_out times the standardized x
    multiplier = scale * inverse_std
    slope = multiplier * inverse_std * mean_d_x
    d_x = multiplier * d_out - slope * x + (slope * mean - multiplier * mean_d)
    d_x = compute_once(d_x, runtime_one(scale))  # both gradients of the preceding convolution use it
    return d_x.astype(x.dtype), n * mean_d_x, n * mean_d, None, None


_standardize.defvjp(_standardize_forward, _standardize_backward)


def zero_padding(x: Array, sizes: Array | None) -> Array:
    """Sets [B, H, W, C] maps to zero beyond their own heights and widths, `sizes`, int32 [B, 2], as padding would."""
    if sizes is None:
        return x
    rows, columns = (lax.broadcasted_iota(jnp.int32, (1, *x.shape[1:3], 1), axis) for axis in (1, 2))
    height, width = (sizes[:, side, None, None, None] for side in range(2))
    return jnp.where((rows < height) & (columns < width), x, jnp.zeros((), x.dtype))


def halve(sizes: Array | None) -> Array | None:
    """Returns heights and widths after a convolution or a pooling of stride 2."""
    return None if sizes is None else -(-sizes // 2)


def gem_pool(x: Array, p: float, sizes: Array | None = None) -> Array:
    """Computes generalized-mean pooling: [B, H, W, C] -> float32 [B, C] (arXiv 1711.02512; official gem_pooling.py).

    It is computed in float32 whatever the dtype of x, as the floor of 1e-6 to the power of 3 underflows half precision.
    If `sizes`, int32 [B, 2], is given, each mean is over that height and width of its map.
    """
    x = jnp.power(jnp.maximum(x.astype(jnp.float32), 1e-6), p)
    if sizes is None:
        return jnp.power(x.mean((1, 2)), 1 / p)
    mean = zero_padding(x, sizes).sum((1, 2)) / sizes.prod(1)[:, None]
    return jnp.power(mean, 1 / p)


def l2_normalize(x: Array) -> Array:
    """Scales vectors to norm 1, as torch's F.normalize: [..., D] -> float32 [..., D]."""
    x = x.astype(jnp.float32)
    # The floor is under the root, whose gradient at 0 is infinite. It is the floor of 1e-12 on the norm, squared.
    squared = jnp.square(x).sum(-1, keepdims=True)
    return x * lax.rsqrt(jnp.maximum(squared, 1e-24))
