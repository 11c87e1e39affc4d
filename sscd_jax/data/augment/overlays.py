"""Text and emoji on an image, by graph operations (official transforms/overlay_text.py and overlay_emoji.py).

Emoji are composited by their own alpha. (The official code pastes most of them with their transparent part as a black
square, as AugLy's files are palette images.)
"""

import functools
from typing import Any

import tensorflow as tf

from sscd_jax.data.augment.glyph_atlas import FONT_SIZE, load_atlas

LONGEST_TEXT = 99  # letters


@functools.cache
def _atlas() -> dict[str, tf.Tensor]:
    """The atlas as tensors that graphs refer to; as constants they would be in every graph."""
    atlas = load_atlas()
    with tf.init_scope():
        names = ("ink", "letter_columns", "font_letters", "emoji")
        return {name: tf.constant(getattr(atlas, name)) for name in names}


def composite(image: tf.Tensor, color: tf.Tensor, alpha: tf.Tensor, fx: tf.Tensor, fy: tf.Tensor) -> tf.Tensor:
    """A layer over a part of the image.

    Args:
        image: uint8 [H, W, 3].
        color: float32 [h, w, 3] in [0, 255], times alpha.
        alpha: float32 [h, w, 3] in [0, 1], a number for each channel, as broadcasting takes several times as long;
            h <= H and w <= W.
        fx, fy: float32, where between the leftmost and the rightmost place, and between the top and the bottom.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    h, w = tf.unstack(tf.shape(alpha)[:2])
    top = tf.cast(fy * tf.cast(height - h, tf.float32), tf.int32)
    left = tf.cast(fx * tf.cast(width - w, tf.float32), tf.int32)
    band = image[top : top + h]
    under = tf.cast(band[:, left : left + w], tf.float32)
    mixed = tf.cast(tf.round(under * (1 - alpha) + color), tf.uint8)
    band = tf.concat([band[:, :left], mixed, band[:, left + w :]], 1)
    return tf.concat([image[:top], band, image[top + h :]], 0)


def overlay_text(image: tf.Tensor, text: dict[str, Any]) -> tf.Tensor:
    """Random letters of one font in one color: uint8 [H, W, 3] -> [H, W, 3].

    As many letters as fit, or fewer; none where not even the first fits.

    Args:
        image: the image.
        text: `font` and `length` in [0, 1): which font, and how much of what fits; `seed` int32 [2] of the letters;
            `size` of the font over the short side; `opacity`; `color` float32 [3] in [0, 255]; `fx`, `fy`: where.
    """
    letter_columns, font_letters = _atlas()["letter_columns"], _atlas()["font_letters"]
    height, width = tf.unstack(tf.shape(image)[:2])
    short = tf.cast(tf.minimum(height, width), tf.float32)
    scale = tf.maximum(tf.floor(short * text["size"]), 1) / FONT_SIZE

    font = _index(text["font"], font_letters.shape[0] - 1)
    first, end = font_letters[font], font_letters[font + 1]
    numbers = tf.random.stateless_uniform([LONGEST_TEXT], text["seed"])
    letters = first + _index(numbers, end - first)
    starts, ends = tf.gather(letter_columns, letters), tf.gather(letter_columns, letters + 1)
    widths = tf.cast(tf.cumsum(ends - starts), tf.float32) * scale
    fitting = tf.reduce_sum(tf.cast(widths <= tf.cast(width, tf.float32), tf.int32))

    def drawn() -> tf.Tensor:
        length = 1 + _index(text["length"], fitting)
        columns = tf.ragged.range(starts[:length], ends[:length]).flat_values
        ink = tf.transpose(tf.gather(_atlas()["ink"], columns))
        rows = tf.where(tf.reduce_max(ink, 1) > 0)[:, 0]
        ink = ink[rows[0] : rows[-1] + 1]
        size = tf.cast(tf.round(tf.cast(tf.shape(ink), tf.float32) * scale), tf.int32)
        size = tf.clip_by_value(size, 1, tf.stack([height, width]))
        alpha = tf.repeat(resized(ink[..., None], size) * (text["opacity"] / 255), 3, 2)
        lines = tf.reshape(alpha, [size[0], 3 * size[1]])
        color = tf.reshape(lines * tf.tile(text["color"], size[1:]), tf.shape(alpha))
        return composite(image, color, alpha, text["fx"], text["fy"])

    return tf.cond(fitting > 0, drawn, lambda: image)


def overlay_emoji(image: tf.Tensor, emoji: dict[str, Any]) -> tf.Tensor:
    """An emoji on an image: uint8 [H, W, 3] -> [H, W, 3].

    Args:
        image: the image.
        emoji: `which` in [0, 1); `size` over the largest that fits; `opacity`; `fx`, `fy`: where.
    """
    images = _atlas()["emoji"]
    short = tf.cast(tf.reduce_min(tf.shape(image)[:2]), tf.float32)
    side = tf.maximum(tf.cast(short * emoji["size"], tf.int32), 1)
    pixels = tf.cast(tf.gather(images, _index(emoji["which"], images.shape[0])), tf.float32)
    alpha = tf.tile(pixels[..., 3:] / 255, [1, 1, 3])
    color, alpha = (
        resized(layer, tf.stack([side, side])) * emoji["opacity"] for layer in (pixels[..., :3] * alpha, alpha)
    )
    return composite(image, color, alpha, emoji["fx"], emoji["fy"])


def resized(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Bilinear with antialiasing: [h, w, C] and int32 [2] -> float32 [*size, C]."""

    def by(antialias: bool) -> tf.Tensor:
        return tf.image.resize(image, size, antialias=antialias)

    # Where nothing shrinks, antialiasing changes nothing and takes three times as long.
    return tf.cond(tf.reduce_all(size >= tf.shape(image)[:2]), lambda: by(False), lambda: by(True))


def _index(number: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """[0, 1) to int32 [0, count)."""
    return tf.minimum(tf.cast(number * tf.cast(count, tf.float32), tf.int32), count - 1)
