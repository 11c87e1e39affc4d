"""Jitter, gray, blur and mixing in the training step, for hosts with few cores: as on the host, but for roundings.

The host draws the numbers and sends them with uint8 views that are cropped and no more. Every operation runs on the
whole batch and is kept for the views that drew it, as accelerators want it. Values are whole numbers in float32
throughout.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

_REACH = 15  # pixels, of a blur of radius 5


def color_ops(images: Array, *, flags: Array, order: Array, factors: Array, hue: Array, radius: Array) -> Array:
    """Jitter, gray and blur of each view that its flags name (official transforms/settings.py).

    Args:
        images: uint8 [M, S, S, 3].
        flags: bool [M, 3], jitter, gray, blur.
        order: int32 [M, 4], of brightness 0, contrast 1, saturation 2, hue 3.
        factors: float32 [M, 3], of brightness, contrast, saturation.
        hue: float32 [M], turns.
        radius: float32 [M], of the blur, at most 5 pixels.

    Returns:
        uint8 [M, S, S, 3].
    """

    def one(image: Array, flags: Array, order: Array, factors: Array, hue: Array, radius: Array) -> Array:
        image = image.astype(jnp.float32)
        image = jnp.where(flags[0], _jitter(image, order, factors, hue), image)
        image = jnp.where(flags[1], _gray(image), image)
        return jnp.where(flags[2], _blur(image, radius), image)

    return jax.vmap(one)(images, flags, order, factors, hue, radius).astype(jnp.uint8)


def mix(images: Array, *, share: Array, box: Array, group: int, hosts: int = 1) -> Array:
    """Mixup and cutmix with each view's partner, as data/mixup.py does it on the host.

    Args:
        images: uint8 [M, S, S, 3]; the hosts' parts one after the other, first views before second views in each.
        share: float32 [M], the view's part in mixup; 1 where it is not mixed or cut.
        box: int32 [M, 4], top, left, bottom and right of what cutmix takes from the partner.
        group: images of a mixing group.
        hosts: that the batch comes from.

    Returns:
        uint8 [M, S, S, 3].
    """
    grouped = images.reshape(hosts, 2, -1, group, *images.shape[1:])
    partners = grouped[:, ::-1, :, ::-1].reshape(images.shape)  # from other devices, as uint8
    at = jnp.arange(images.shape[1])
    inside = [(at >= box[:, axis, None]) & (at < box[:, 2 + axis, None]) for axis in range(2)]
    cut = (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
    share = share[:, None, None, None]
    images, partners = images.astype(jnp.float32), partners.astype(jnp.float32)
    return jnp.round(jnp.where(cut, partners, share * images + (1 - share) * partners)).astype(jnp.uint8)


def _jitter(image: Array, order: Array, factors: Array, hue: Array) -> Array:
    def part(image: Array, which: Array) -> tuple[Array, None]:
        parts = [
            _blend(image, jnp.zeros(()), factors[0]),
            _blend(image, jnp.floor(_gray(image)[..., 0].mean() + 0.5), factors[1]),
            _blend(image, _gray(image), factors[2]),
            _turn_hue(image, hue),
        ]
        return lax.select_n(which, *parts), None

    return lax.scan(part, image, order)[0]


def _gray(image: Array) -> Array:
    """Pillow's convert("L"), for each channel."""
    red, green, blue = (image[..., i] for i in range(3))
    gray = jnp.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)
    return jnp.broadcast_to(gray[..., None], image.shape)


def _blend(image: Array, other: Array, factor: Array) -> Array:
    """Pillow's ImageEnhance."""
    return jnp.floor(jnp.clip(other + factor * (image - other), 0, 255))


def _turn_hue(image: Array, turns: Array) -> Array:
    """By way of Pillow's HSV of 8 bits."""
    red, green, blue = (image[..., i] for i in range(3))
    value = image.max(-1)
    chroma = value - image.min(-1)
    inverse = 1 / jnp.maximum(chroma, 1e-3)
    sixths = jnp.where(
        value == red,
        (green - blue) * inverse,
        jnp.where(value == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse),
    )
    hue = sixths / 6 + 1
    hue = jnp.floor(255 * (hue - jnp.floor(hue))) + jnp.trunc(255 * turns)
    hue -= 256 * jnp.floor(hue / 256)
    saturation = jnp.floor(255 * chroma / jnp.maximum(value, 1)) / 255
    k = (hue * (6 / 255))[..., None] + jnp.array([5.0, 3.0, 1.0])
    k -= 6 * jnp.floor(k / 6)
    trapezoid = jnp.clip(jnp.minimum(k, 4 - k), 0, 1)
    return jnp.floor(value[..., None] * (1 - saturation[..., None] * trapezoid) + 0.5)


def _blur(image: Array, radius: Array) -> Array:
    """Along the lines, then across them, edges repeated: products with a banded matrix, which accelerators do best.

    Pixels and weights are whole numbers of 8 bits, which products in bfloat16 with sums in float32 keep exactly.
    """
    size, weights = image.shape[0], _blur_weights(radius)
    reach = len(weights) // 2
    distance = jnp.arange(size)[:, None] - jnp.arange(-reach, size + reach)[None]
    spread = jnp.where(abs(distance) <= reach, weights[jnp.clip(distance + reach, 0, 2 * reach)], 0)
    band = spread[:, reach:-reach]
    band = band.at[:, 0].add(spread[:, :reach].sum(1)).at[:, -1].add(spread[:, -reach:].sum(1))
    image = jnp.floor((jnp.einsum("ij,wjc->wic", band, image) + 128) / 256)
    return jnp.floor((jnp.einsum("ij,jwc->iwc", band, image) + 128) / 256)


def _blur_weights(radius: Array) -> Array:
    """Of Pillow's GaussianBlur, three box blurs of fractional radius, in 256ths: float32 [2 reach + 1]."""
    variance = radius**2 / 3
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    distance = abs(jnp.arange(-_REACH, _REACH + 1))
    box = jnp.where(distance <= whole, 1.0, jnp.where(distance == whole + 1, part, 0.0)) / (2 * (whole + part) + 1)
    # No box reaches beyond a third: nothing is lost at the ends.
    thrice = jnp.convolve(jnp.convolve(box, box, "same", precision="highest"), box, "same", precision="highest")
    tails = jnp.round(256 * jnp.cumsum(thrice[:_REACH]))  # sums are rounded, not weights, as on the host
    sides = jnp.diff(tails, prepend=0)
    return jnp.concatenate([sides, 256 - 2 * tails[-1:], sides[::-1]])
