"""The paper's augmentations, stateless: the same seed gives the same view, wherever and whenever it is made.

Every operation has the semantics of the official pipeline's torchvision and Pillow calls (transforms/settings.py), on
float32 pixels in [0, 255] that are rounded once, at the end. A view is held as planes, [3, S, S], so that arithmetic
runs along contiguous rows.
"""

import math

import tensorflow as tf

# Radius of the blur in pixels, the only difference between the two (official settings.py).
BLUR_RADIUS = {"SIMCLR": (0.1, 2.0), "STRONG_BLUR": (1.0, 5.0)}
_GREY = (0.299, 0.587, 0.114)  # ITU-R 601, as Pillow's convert("L")


def augment(
    image: tf.Tensor, seed: tf.Tensor, *, size: int, augmentation: str, min_crop_area: float = 0.08
) -> tf.Tensor:
    """One view: uint8 [H, W, 3] -> uint8 [size, size, 3].

    Args:
        image: the decoded picture.
        seed: int32 [2].
        size: side of the view in pixels.
        augmentation: a key of BLUR_RADIUS.
        min_crop_area: smallest share of the picture's area that the crop keeps.
    """
    seeds = tf.unstack(tf.random.split(seed, 6))
    view = random_resized_crop(image, seeds[0], size, min_crop_area)
    view = tf.cond(_chance(seeds[1], 0.5), lambda: view[..., ::-1], lambda: view)
    view = tf.cond(_chance(seeds[2], 0.8), lambda: color_jitter(view, seeds[2]), lambda: view)
    view = tf.cond(_chance(seeds[3], 0.2), lambda: tf.repeat(_grey(view), 3, 0), lambda: view)
    radius = tf.random.stateless_uniform([], seeds[5], *BLUR_RADIUS[augmentation])
    view = tf.cond(_chance(seeds[4], 0.5), lambda: gaussian_blur(view, radius), lambda: view)
    return tf.transpose(tf.cast(tf.round(view), tf.uint8), [1, 2, 0])


def _chance(seed: tf.Tensor, probability: float) -> tf.Tensor:
    return tf.random.stateless_uniform([], seed) < probability


def crop_box(height: tf.Tensor, width: tf.Tensor, seed: tf.Tensor, min_area: float) -> tf.Tensor:
    """A box of min_area to 1 of the area, of an aspect of 3/4 to 4/3: int32 [top, left, height, width].

    torchvision's RandomResizedCrop.get_params: the first of ten draws that fits, or else the largest central box whose
    aspect is in the range.
    """
    seeds = tf.unstack(tf.random.split(seed, 4))
    area = tf.cast(height, tf.float32) * tf.cast(width, tf.float32)
    areas = area * tf.random.stateless_uniform([10], seeds[0], min_area, 1.0)
    aspects = tf.exp(tf.random.stateless_uniform([10], seeds[1], math.log(3 / 4), math.log(4 / 3)))
    widths = tf.cast(tf.round(tf.sqrt(areas * aspects)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(areas / aspects)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)

    def drawn() -> tf.Tensor:
        first = tf.argmax(tf.cast(fits, tf.int32))
        h, w = heights[first], widths[first]
        top = tf.random.stateless_uniform([], seeds[2], 0, height - h + 1, tf.int32)
        left = tf.random.stateless_uniform([], seeds[3], 0, width - w + 1, tf.int32)
        return tf.stack([top, left, h, w])

    def central() -> tf.Tensor:
        def scaled(side: tf.Tensor, ratio: float) -> tf.Tensor:
            return tf.maximum(tf.cast(tf.round(tf.cast(side, tf.float32) * ratio), tf.int32), 1)

        h, w = tf.minimum(height, scaled(width, 4 / 3)), tf.minimum(width, scaled(height, 4 / 3))
        return tf.stack([(height - h) // 2, (width - w) // 2, h, w])

    return tf.cond(tf.reduce_any(fits), drawn, central)


def random_resized_crop(image: tf.Tensor, seed: tf.Tensor, size: int, min_area: float) -> tf.Tensor:
    """A random box, resized by antialiased bilinear: uint8 [H, W, 3] -> float32 [3, size, size]."""
    shape = tf.shape(image)
    top, left, height, width = tf.unstack(crop_box(shape[0], shape[1], seed, min_area))
    resized = tf.image.resize(image[top : top + height, left : left + width], (size, size), antialias=True)
    return tf.transpose(resized, [2, 0, 1])


def color_jitter(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """torchvision's ColorJitter(0.8, 0.8, 0.8, 0.2): the four in random order, each clipped; float32 [3, S, S]."""
    order_seed, factor_seed, hue_seed = tf.unstack(tf.random.split(tf.random.split(seed, 2)[1], 3))
    brightness, contrast, saturation = tf.unstack(tf.random.stateless_uniform([3], factor_seed, 0.2, 1.8))
    hue = tf.random.stateless_uniform([], hue_seed, -0.2, 0.2)
    for i in tf.unstack(tf.random.experimental.stateless_shuffle(tf.range(4), order_seed)):
        image = tf.switch_case(
            i,
            [
                lambda image=image: _blend(image, 0.0, brightness),
                lambda image=image: _blend(image, tf.round(tf.reduce_mean(_grey(image))), contrast),
                lambda image=image: _blend(image, _grey(image), saturation),
                lambda image=image: shift_hue(image, hue),
            ],
        )
    return image


def _blend(image: tf.Tensor, other: tf.Tensor | float, factor: tf.Tensor) -> tf.Tensor:
    """Pillow's ImageEnhance: factor 0 gives the other, 1 the image, more goes beyond it."""
    return tf.clip_by_value(other + factor * (image - other), 0, 255)


def _grey(image: tf.Tensor) -> tf.Tensor:
    red, green, blue = tf.unstack(image)
    return (_GREY[0] * red + _GREY[1] * green + _GREY[2] * blue)[None]


def shift_hue(image: tf.Tensor, turns: tf.Tensor | float) -> tf.Tensor:
    """Turns the hue, in HSV, keeping saturation and value: float32 [3, S, S]."""
    red, green, blue = tf.unstack(image)
    value = tf.reduce_max(image, 0)
    chroma = value - tf.reduce_min(image, 0)
    sixths = tf.where(
        value == red,
        tf.math.divide_no_nan(green - blue, chroma),
        tf.where(
            value == green,
            2 + tf.math.divide_no_nan(blue - red, chroma),
            4 + tf.math.divide_no_nan(red - green, chroma),
        ),
    )
    # Each channel of an HSV colour is its value less the chroma times a trapezoid of the hue.
    k = tf.math.floormod(sixths + 6 * turns + tf.constant([5.0, 3.0, 1.0])[:, None, None], 6)
    return value - chroma * tf.clip_by_value(tf.minimum(k, 4 - k), 0, 1)


def gaussian_blur(image: tf.Tensor, radius: tf.Tensor | float) -> tf.Tensor:
    """A Gaussian of standard deviation `radius` (at most 5) pixels, edges repeated: float32 [3, S, S].

    A blur of rows is one product with a banded matrix, which is far faster on a CPU than a convolution.
    """
    size = image.shape[-1]
    reach = 16  # beyond three times the largest radius
    centre, tap = tf.range(size, dtype=tf.float32)[:, None], tf.range(-reach, size + reach, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square((tap - centre) / radius))
    weights /= tf.reduce_sum(weights, 1, keepdims=True)
    left, inside, right = tf.split(weights, [reach, size, reach], 1)
    first = inside[:, :1] + tf.reduce_sum(left, 1, keepdims=True)
    last = inside[:, -1:] + tf.reduce_sum(right, 1, keepdims=True)
    band = tf.concat([first, inside[:, 1:-1], last], 1)
    rows = tf.matmul(tf.reshape(image, [3 * size, size]), band, transpose_b=True)
    return tf.matmul(tf.tile(band[None], [3, 1, 1]), tf.reshape(rows, [3, size, size]))
