"""Color jitter, grayscale, blur and mixing inside the training step, for machines with few CPU cores.

The results are those of `data.augment` on the CPU up to rounding. The CPU draws the random numbers, and sends them with
the uint8 views before these operations. Accelerators prefer regular work, so that every operation is computed for all
views and kept for those that drew it. Pixel values are integers in float32 throughout.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

_REACH = 15  # pixels that a blur of radius 5 reaches to each side


def color_ops(images: Array, *, flags: Array, order: Array, factors: Array, hue: Array, radius: Array) -> Array:
    """Applies color jitter, grayscale and blur to the views whose flags say so (official transforms/settings.py).

    Args:
        images: uint8 [M, S, S, 3].
        flags: bool [M, 3], whether jitter, grayscale and blur are applied.
        order: int32 [M, 4], the order of brightness (0), contrast (1), saturation (2) and hue (3).
        factors: float32 [M, 3], the factors of brightness, contrast and saturation.
        hue: float32 [M], the shift of the hue, in turns.
        radius: float32 [M], the radius of the blur in pixels, at most 5.

    Returns:
        uint8 [M, S, S, 3].
    """

    def one(image: Array, flags: Array, order: Array, factors: Array, hue: Array, radius: Array) -> Array:
        image = image.astype(jnp.float32)
        image = jnp.where(flags[0], _jitter(image, order, factors, hue), image)
        image = jnp.where(flags[1], _gray(image), image)
        return jnp.where(flags[2], _blur(image, radius), image)

    return jax.vmap(one)(images, flags, order, factors, hue, radius).astype(jnp.uint8)


def mix(images: Array, *, share: Array, box: Array, group: int, processes: int = 1) -> Array:
    """Applies mixup and cutmix to each view and its partner, as `data.augment.mixup` does on the CPU.

    Args:
        images: uint8 [M, S, S, 3], process by process; in each, the first views come before the second views.
        share: float32 [M], the weight of the view in mixup, where its partner has 1 - share; 1 without mixup.
        box: int32 [M, 4], top, left, bottom and right of the box that cutmix takes from the partner; empty without it.
        group: the number of images of a mixing group.
        processes: the number of processes that the batch comes from.

    Returns:
        uint8 [M, S, S, 3].
    """
    grouped = images.reshape(processes, 2, -1, group, *images.shape[1:])
    partners = grouped[:, ::-1, :, ::-1].reshape(images.shape)  # sent between devices as uint8
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
    """Computes Pillow's convert("L") and repeats it for each channel."""
    red, green, blue = (image[..., i] for i in range(3))
    gray = jnp.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)
    return jnp.broadcast_to(gray[..., None], image.shape)


def _blend(image: Array, other: Array, factor: Array) -> Array:
    """Interpolates between two images as Pillow's ImageEnhance does."""
    return jnp.floor(jnp.clip(other + factor * (image - other), 0, 255))


def _turn_hue(image: Array, turns: Array) -> Array:
    """Shifts the hue in the HSV of 8 bits that Pillow converts to."""
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
    """Blurs the rows, then the columns, with edge pixels repeated.

    Both are products with a banded matrix, which accelerators compute fast. Pixels and weights are integers of 8 bits,
    so that products in bfloat16 with sums in float32 are exact.
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
    """Returns the weights of Pillow's GaussianBlur, three box blurs of fractional radius.

    Args:
        radius: float32 scalar, pixels.

    Returns:
        float32 [2 * _REACH + 1], in 256ths.
    """
    variance = radius**2 / 3
    whole = jnp.floor((jnp.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - (whole + 1) ** 2))
    distance = abs(jnp.arange(-_REACH, _REACH + 1))
    box = jnp.where(distance <= whole, 1.0, jnp.where(distance == whole + 1, part, 0.0)) / (2 * (whole + part) + 1)
    # No box reaches beyond a third of _REACH, so that nothing is lost at the ends.
    thrice = jnp.convolve(jnp.convolve(box, box, "same", precision="highest"), box, "same", precision="highest")
    tails = jnp.round(256 * jnp.cumsum(thrice[:_REACH]))  # sums are rounded, not weights, as on the CPU
    sides = jnp.diff(tails, prepend=0)
    return jnp.concatenate([sides, 256 - 2 * tails[-1:], sides[::-1]])
