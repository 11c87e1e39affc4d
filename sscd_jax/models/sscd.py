"""The SSCD network: a ResNet, GeM pooling, a linear projection, L2 normalization (official models/model.py)."""

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
    """Normalizes RGB images to what the network takes.

    Args:
        images: [..., 3], uint8 from 0 to 255, or float from 0 to 1.
        mean, std: the mean and the standard deviation of R, G and B, for pixels from 0 to 1.

    Returns:
        (images - mean) / std, float32 [..., 3].

    Raises:
        TypeError: the images are integers of another type than uint8.
    """
    images = jnp.asarray(images)
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise TypeError(f"images are {images.dtype}: they must be uint8, from 0 to 255, or float, from 0 to 1")
    scaled = images / 255 if images.dtype == jnp.uint8 else images
    return (scaled.astype(jnp.float32) - jnp.array(mean)) / jnp.array(std)


class SSCD(nn.Module):
    """Maps normalized images, float [B, H, W, 3], to descriptors of norm 1, float32 [B, dims].

    The descriptors are not L2-normalized if `normalized` is False. If `dims` is 0 there is no projection, and they are
    the pooled features.

    Images of several sizes share an array of the largest size, each in its upper left corner, and `sizes`, int32
    [B, 2], holds their heights and widths. The descriptor of an image then does not depend on what is around it; this
    holds for inference only (`train` False).

    Raises:
        TypeError: the images are integers, so they were not normalized; see `normalize`.
    """

    backbone: ResNet
    dims: int
    pool_param: float
    normalized: bool = True

    @nn.compact
    def __call__(self, images: Array, train: bool = False, sizes: Array | None = None) -> Array:
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise TypeError(
                f"the network takes normalized images, float [B, H, W, 3], and these are {images.dtype}: pass "
                "sscd_jax.models.normalize(images), or embed files and pixels by sscd_jax.load(...).embed(images)"
            )
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
    """Builds the network as a Linen module; see `SSCD` for its inputs and outputs.

    Args:
        backbone: "resnet18", "resnet50", "resnext101_32x4d" or "resnext101_32x8d".
        dims: the length of a descriptor; 0 leaves the projection out, so that descriptors are the pooled features.
        width: the number of channels of the first convolution, 64 in every published network; all other layers are
            proportional to it.
        pool_param: GeM's power p, 3 in the paper; 1 is mean pooling.
        dtype: the type of the activations; parameters, statistics, pooling and descriptors stay float32.
        remat: whether training recomputes the inside of residual blocks for the gradient, which needs less memory.

    Raises:
        ValueError: the backbone is unknown, or dims, width or pool_param are out of range.

    Examples:
        >>> model = build_model("resnet50")
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
        >>> model.apply(variables, normalize(images)).shape
        (8, 512)
    """
    if dims < 0 or width < 1 or not pool_param > 0:
        raise ValueError(
            f"dims must be at least 0, width at least 1 and pool_param positive, not {dims}, {width} and {pool_param}"
        )
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone {backbone!r}; choose one of {', '.join(BACKBONES)}")
    return SSCD(BACKBONES[backbone](width=width, dtype=jnp.dtype(dtype), remat=remat), dims, pool_param)


def transpose(variables: Any) -> Any:
    """Transposes all kernels, for images whose height and width are swapped.

    apply(transpose(variables), images.swapaxes(1, 2)) equals apply(variables, images), so that one compiled program
    serves both portrait and landscape images.
    """
    return jax.tree.map(lambda leaf: leaf.swapaxes(0, 1) if leaf.ndim == 4 else leaf, variables)


def describe(model: SSCD) -> dict[str, Any]:
    """Returns the arguments of `build_model` that make this network: backbone, dims, width and pool_param."""
    plain = model.backbone.clone(folded=False, remat=False)
    name = next(n for n, make in BACKBONES.items() if make(width=plain.width, dtype=plain.dtype) == plain)
    return {"backbone": name, "dims": model.dims, "width": plain.width, "pool_param": model.pool_param}
