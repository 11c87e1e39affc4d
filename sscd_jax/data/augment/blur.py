"""Gaussian blur that equals Pillow's, in integer arithmetic."""

import functools
import math
from collections.abc import Callable

import tensorflow as tf

from sscd_jax.data.augment.packed_pixels import weighted_sum, xla

# Pillow's Gaussian blur of at most each radius reaches this many pixels to each side. One loop is compiled for each.
_RADII = (math.sqrt(6), 5.0)
_REACHES = (6, 15)
MAX_REACH = _REACHES[-1]


def kernel(radius: tf.Tensor) -> tf.Tensor:
    """Returns half of the kernel of Pillow's GaussianBlur, from the rim to the center: float32 [] -> [MAX_REACH + 1].

    It is that of three box blurs of fractional radius (Pillow's BoxBlur.c, after Gwosdek et al., "Theoretical
    foundations of Gaussian convolution by extended box filtering").
    """
    variance = tf.square(radius) / 3
    whole = tf.floor((tf.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - tf.square(whole + 1)))
    at = tf.range(-MAX_REACH, MAX_REACH + 1, dtype=tf.float32)
    # The weight of a box at a distance is 1 inside, a fraction on the rim, and 0 outside.
    distance = tf.abs(at[:, None] - at)
    box = tf.where(distance <= whole, 1.0, tf.where(distance == whole + 1, part, 0.0)) / (2 * (whole + part) + 1)
    return tf.linalg.matvec(box, tf.linalg.matvec(box, box[MAX_REACH]))[: MAX_REACH + 1]


def blur_weights(radius: tf.Tensor) -> tf.Tensor:
    """Returns the kernel in 256ths, so that 16 bits hold the sums: float32 [] -> uint16 [MAX_REACH + 1].

    The first weight is that of the center. The others apply to both sides, and all of them add up to 256.
    """
    # The sums from the rim inwards are rounded, not the weights. This keeps the spread within 2 % of radii from 0.7 on.
    tails = tf.round(256 * tf.cumsum(kernel(radius)[:-1]))
    sides = tails - tf.concat([[0.0], tails[:-1]], 0)
    weights = tf.concat([256 - 2 * tails[-1:], tf.reverse(sides, [0])], 0)
    return tf.cast(tf.cast(weights, tf.int32), tf.uint16)


def blur(view: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """Blurs a view as Pillow's GaussianBlur does, with a radius of at most 5 pixels: uint8 [S, S, 3] -> [S, S, 3]."""
    return _blur(view.shape[0])(view, radius)


@functools.cache
def _blur(size: int):
    """Returns the compiled function for views of this size."""

    @xla(tf.TensorSpec([size, size, 3], tf.uint8), tf.TensorSpec([]))
    def function(view, radius):
        weights = blur_weights(radius)

        def blurred(reach: int, neighbors: Callable[[int], tf.Tensor]) -> tf.Tensor:
            pairs = (
                (weights[k], tf.cast(neighbors(-k), tf.uint16) + tf.cast(neighbors(k), tf.uint16))
                for k in range(1, reach + 1)
            )
            return weighted_sum([(weights[0], neighbors(0)), *pairs])

        def along(lines: tf.Tensor, reach: int) -> tf.Tensor:
            first, last = tf.tile(lines[:, :3], [1, reach]), tf.tile(lines[:, -3:], [1, reach])
            padded = tf.concat([first, lines, last], 1)
            return blurred(reach, lambda k: padded[:, 3 * (reach + k) : 3 * (reach + k + size)])

        def across(lines: tf.Tensor, reach: int) -> tf.Tensor:
            at = tf.range(size)
            return blurred(reach, lambda k: tf.gather(lines, tf.clip_by_value(at + k, 0, size - 1)))

        def both(reach: int) -> tf.Tensor:
            def step(number: tf.Tensor, lines: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
                return number + 1, tf.switch_case(number, [lambda: along(lines, reach), lambda: across(lines, reach)])

            # A loop keeps XLA from fusing both steps and computing the first again for each neighbor of the second.
            lines = tf.reshape(view, [size, 3 * size])
            return tf.while_loop(lambda number, _: number < 2, step, (0, lines))[1]

        bucket = tf.reduce_sum(tf.cast(radius > tf.constant(_RADII[:-1]), tf.int32))
        return tf.reshape(tf.switch_case(bucket, [functools.partial(both, reach) for reach in _REACHES]), view.shape)

    return function
