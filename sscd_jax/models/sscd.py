"""The SSCD network: a ResNet, GeM pooling, a linear projection, L2 (official models/model.py)."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from sscd_jax.models.layers import gem_pool, l2_normalize
from sscd_jax.models.resnet import BACKBONES, ResNet
from sscd_jax.presets import IMAGENET_MEAN, IMAGENET_STD


def normalize(
    images: ArrayLike,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Array:
    """RGB [..., 3], uint8 or float in [0, 1], to the network's float32 input: minus mean, over std."""
    images = jnp.asarray(images)
    scaled = images / 255 if images.dtype == jnp.uint8 else images
    return (scaled.astype(jnp.float32) - jnp.array(mean)) / jnp.array(std)


class SSCD(nn.Module):
    """Normalized images, float [B, H, W, 3], to descriptors of norm 1, float32 [B, dims].

    Without L2 where `normalized` is False; the pooled features themselves where `dims` is 0.

    Images of several sizes share an array of the largest, each in its upper left corner; `sizes`, int32 [B, 2], are
    their heights and widths. Each descriptor is that of the image alone (only with `train` False).
    """

    backbone: ResNet
    dims: int
    pool_param: float
    normalized: bool = True

    @nn.compact
    def __call__(self, images: Array, train: bool = False, sizes: Array | None = None) -> Array:
        x = self.backbone(images, train, sizes)
        x = gem_pool(x, self.pool_param, None if sizes is None else -(-sizes // 32))
        if self.dims:
            x = nn.Dense(self.dims, kernel_init=nn.initializers.xavier_uniform(), name="embeddings")(x)
        return l2_normalize(x) if self.normalized else x


def build_model(
    backbone: str = "resnet50",
    dims: int = 512,
    *,
    width: int = 64,
    pool_param: float = 3.0,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> SSCD:
    """The network as a Linen module; see `SSCD` for what it maps to what.

    Args:
        backbone: one of `BACKBONES`.
        dims: length of a descriptor; 0 leaves the projection out, for features of a network that has none.
        width: channels of the stem, 64 in every published network; less makes a narrow network.
        pool_param: GeM's power p, 3 in the paper; 1 is mean pooling.
        dtype: of the activations; parameters, statistics, pooling and descriptors stay float32.
        remat: whether training computes the inside of residual blocks again for the gradient, to need less memory.

    Raises:
        ValueError: the backbone is unknown, or there is no network of such dims, width or pool_param.
    """
    if dims < 0 or width < 1 or not pool_param > 0:
        raise ValueError(f"no network has dims {dims}, width {width} and pool_param {pool_param}")
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone {backbone!r}; choose one of {', '.join(BACKBONES)}")
    return SSCD(BACKBONES[backbone](width=width, dtype=jnp.dtype(dtype), remat=remat), dims, pool_param)


def transpose(variables: Any) -> Any:
    """Variables that give the same descriptors of images whose height and width have changed places.

    apply(transpose(variables), images.swapaxes(1, 2)) equals apply(variables, images), so that one compiled program
    serves both upright and wide images.
    """
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, variables)


def describe(model: SSCD) -> dict[str, Any]:
    """The arguments of `build_model` that make this network, less the dtype: backbone, dims, width, pool_param."""
    plain = model.backbone.clone(folded=False, remat=False)
    name = next(n for n, make in BACKBONES.items() if make(width=plain.width, dtype=plain.dtype) == plain)
    return {"backbone": name, "dims": model.dims, "width": plain.width, "pool_param": model.pool_param}
