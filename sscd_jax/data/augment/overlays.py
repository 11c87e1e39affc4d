"""Overlays text and emoji on an image (official transforms/overlay_text.py and overlay_emoji.py).

Emoji are composited with their own alpha. (The official code pastes most of them on a black square, as it ignores the
transparency of AugLy's palette images.)
"""

import functools
from typing import Any

import tensorflow as tf

from sscd_jax.data.augment.glyph_atlas import FONT_SIZE, load_atlas

LONGEST_TEXT = 99  # letters


@functools.cache
def _atlas() -> dict[str, tf.Tensor]:
    """Returns the atlas as tensors that graphs refer to. As constants, they would be copied into every graph."""
    atlas = load_atlas()
    with tf.init_scope():
        names = ("ink", "letter_columns", "font_letters", "emoji")
        return {name: tf.constant(getattr(atlas, name)) for name in names}


def composite(image: tf.Tensor, color: tf.Tensor, alpha: tf.Tensor, fx: tf.Tensor, fy: tf.Tensor) -> tf.Tensor:
    """Composites a layer onto a part of an image.

    Args:
        image: uint8 [H, W, 3].
        color: float32 [h, w, 3] in [0, 255], premultiplied by alpha; h <= H and w <= W.
        alpha: float32 [h, w, 3] in [0, 1]. It has a value for each channel, as broadcasting would be slow.
        fx: float32, the horizontal position of the layer, from 0 at the left edge to 1 at the right.
        fy: float32, the vertical position of the layer, from 0 at the top to 1 at the bottom.

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
    """Writes random letters of one font in one color onto an image: uint8 [H, W, 3] -> [H, W, 3].

    Args:
        image: the image.
        text: a dict of
          * font: in [0, 1), selects the font.
          * length: in [0, 1), selects how many of the letters that fit are written. If the first letter does not fit,
            nothing is written.
          * seed: int32 [2], the random seed of the letters.
          * size: the font size, as a share of the short side.
          * opacity: in [0, 1].
          * color: float32 [3] in [0, 255].
          * fx, fy: the position, as in `composite`.
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
    """Pastes an emoji onto an image: uint8 [H, W, 3] -> [H, W, 3].

    Args:
        image: the image.
        emoji: a dict of
          * which: in [0, 1), selects the emoji.
          * size: its side, as a share of the short side.
          * opacity: in [0, 1].
          * fx, fy: the position, as in `composite`.
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
    """Resizes bilinearly with antialiasing: [h, w, C] and int32 [2] -> float32 [*size, C]."""

    def by(antialias: bool) -> tf.Tensor:
        return tf.image.resize(image, size, antialias=antialias)

    # Enlarging needs no antialiasing, which takes three times as long.
    return tf.cond(tf.reduce_all(size >= tf.shape(image)[:2]), lambda: by(False), lambda: by(True))


def _index(number: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Returns the integer in [0, count) that a number in [0, 1) stands for, int32."""
    return tf.minimum(tf.cast(number * tf.cast(count, tf.float32), tf.int32), count - 1)
