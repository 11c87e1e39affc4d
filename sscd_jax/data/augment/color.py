"""Jitter and gray, equal to the Pillow calls of the official pipeline and several times as fast."""

import functools

import tensorflow as tf

from sscd_jax.data.augment.packed_pixels import byte, channels, packed, words, xla


def gray(view: tf.Tensor) -> tf.Tensor:
    """Pillow's convert("L"): a packed view -> float32 whole numbers."""
    red, green, blue = channels(view)
    return tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)  # exact in float32


def _blend(view: tf.Tensor, other: tf.Tensor | float, factor: tf.Tensor) -> tf.Tensor:
    """Pillow's ImageEnhance: factor 0 gives the other, 1 the view, more goes beyond it."""
    return packed(*(tf.clip_by_value(other + factor * (channel - other), 0, 255) for channel in channels(view)))


def _contrast(view: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(tf.reduce_sum(gray(view), 0))  # over the first axis it is vectorized
    return _blend(view, tf.floor(total / (view.shape[0] * view.shape[1]) + 0.5), factor)


def _turn_hue(view: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """By way of Pillow's HSV, which has 8 bits a channel, as torchvision's adjust_hue for Pillow images."""
    # Compared as whole numbers, and multiplied where one could divide: that is half of the time.
    red, green, blue = (byte(view, i) for i in range(3))
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    is_red, is_green = value == red, value == green
    difference = tf.where(is_red, green - blue, tf.where(is_green, blue - red, red - green))
    third = tf.where(is_red, 1.0, tf.where(is_green, 1 + 1 / 3, 1 + 2 / 3))
    hue = third + tf.cast(difference, tf.float32) / tf.cast(6 * tf.maximum(chroma, 1), tf.float32)
    hue = tf.floor(255 * (hue - tf.floor(hue))) + tf.cast(tf.cast(255 * turns, tf.int32), tf.float32)
    hue = (hue - 256 * tf.floor(hue * (1 / 256))) * (6 / 255)
    saturation = tf.floor(tf.cast(255 * chroma, tf.float32) / tf.cast(tf.maximum(value, 1), tf.float32))
    value = tf.cast(value, tf.float32)
    chroma = value * saturation * (1 / 255)  # of the color in 8 bits

    # Each channel of an HSV color is its value less the chroma times a trapezoid of the hue.
    def channel(start: float) -> tf.Tensor:
        k = hue + start
        k = tf.where(k >= 6, k - 6, k)
        return value - chroma * tf.clip_by_value(tf.minimum(k, 4 - k), 0, 1) + 0.5

    return packed(*(channel(start) for start in (5.0, 3.0, 1.0)))


def _jitter(view: tf.Tensor, order: tf.Tensor, factors: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    def part(step: tf.Tensor, view: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parts = [
            lambda: _blend(view, 0.0, factors[0]),
            lambda: _contrast(view, factors[1]),
            lambda: _blend(view, gray(view), factors[2]),
            lambda: _turn_hue(view, turns),
        ]
        return step + 1, tf.switch_case(tf.gather(order, step), parts)

    # Unrolled, XLA would compile each part four times.
    return tf.while_loop(lambda step, _: step < 4, part, (0, view))[1]


@functools.cache
def color_ops(size: int):
    """The compiled function that jitters and grays a view of this size where its flags say so.

    Of a packed view, int32 [size, size], bool [2] (jitter, gray), int32 [4] (order of brightness, contrast, saturation,
    hue), float32 [3] (their factors), float32 (turns of the hue); gives `words`.
    """

    @xla(
        tf.TensorSpec([size, size], tf.int32),
        tf.TensorSpec([2], tf.bool),
        tf.TensorSpec([4], tf.int32),
        tf.TensorSpec([3]),
        tf.TensorSpec([]),
    )
    def function(view, flags, order, factors, turns):
        view = tf.cond(flags[0], lambda: _jitter(view, order, factors, turns), lambda: view)
        return words(tf.cond(flags[1], lambda: packed(*[gray(view)] * 3), lambda: view))

    return function
