"""Color jitter and grayscale that equal the Pillow calls of the official pipeline, and are several times as fast."""

import functools

import tensorflow as tf

from sscd_jax.data.augment.packed_pixels import byte, channels, packed, words, xla


def gray(view: tf.Tensor) -> tf.Tensor:
    """Converts to grayscale as Pillow's convert("L") does: a packed view -> float32, integers in [0, 255]."""
    red, green, blue = channels(view)
    return tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)  # exact in float32


def _blend(view: tf.Tensor, other: tf.Tensor | float, factor: tf.Tensor) -> tf.Tensor:
    """Blends as Pillow's ImageEnhance does: factor 0 gives `other`, 1 the view, and larger ones extrapolate."""
    return packed(*(tf.clip_by_value(other + factor * (channel - other), 0, 255) for channel in channels(view)))


def _contrast(view: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(tf.reduce_sum(gray(view), 0))  # a sum over the first axis is vectorized
    return _blend(view, tf.floor(total / (view.shape[0] * view.shape[1]) + 0.5), factor)


def _turn_hue(view: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """Turns the hue in Pillow's HSV, which has 8 bits a channel, as torchvision's adjust_hue does for Pillow images."""
    # Comparing integers, and multiplying instead of dividing, takes half of the time.
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
    chroma = value * saturation * (1 / 255)  # the chroma of the color in 8 bits

    # Each channel of an HSV color is the value minus the chroma times a trapezoid function of the hue.
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

    # If the loop were unrolled, XLA would compile each part four times.
    return tf.while_loop(lambda step, _: step < 4, part, (0, view))[1]


@functools.cache
def color_ops(size: int):
    """Returns the compiled function that applies color jitter and grayscale to a view of this size.

    Its arguments are a packed view, int32 [size, size]; whether to apply jitter and grayscale, bool [2]; the order of
    brightness, contrast, saturation and hue, int32 [4]; the factors of the first three, float32 [3]; and the turn of
    the hue as a share of a full turn, float32. It returns the view as `words`.
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
