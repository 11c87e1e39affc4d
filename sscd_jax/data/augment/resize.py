"""Resizes a crop to a view as Pillow does: bilinear with antialiasing, in integer arithmetic."""

import functools
import itertools

import tensorflow as tf
from tensorflow import bitwise

from sscd_jax.data.augment.packed_pixels import weighted_sum, xla

# XLA compiles one resize for each bucket: the largest ratio of the crop's side to the view's, and its number of taps.
_BUCKETS = ((1.0, 2), (1.25, 3), (1.5, 3), (1.75, 4), (2.0, 4), (2.25, 5), (3.0, 6))
BUCKETS, MAX_TAPS = len(_BUCKETS), _BUCKETS[-1][1]


def resize_taps(length: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Computes the filter that resizes a line of pixels.

    Args:
        length: the number of pixels in the line, a float32 scalar.
        size: the number of pixels that it is resized to.

    Returns:
        For each new pixel, the positions in the line that it is computed from, int32 [MAX_TAPS, size], and their
        weights, uint16 [MAX_TAPS, size], which add up to 256. Products and sums then fit into 16 bits, and a vector
        register holds twice as many of these as integers of 32 bits. (Pillow's weights have 22 bits. This changes
        1.5 % of the values, by one gray level.)
    """
    scale = length / size
    support = tf.maximum(scale, 1.0)
    center = (tf.range(size, dtype=tf.float32) + 0.5) * scale
    first = tf.maximum(tf.floor(center - support + 0.5), 0.0)
    taps = first + tf.range(MAX_TAPS, dtype=tf.float32)[:, None]
    weights = tf.maximum(1 - tf.abs((taps + 0.5 - center) / support), 0.0)
    weights = tf.where(taps < length, weights, 0.0)
    # The cumulative sums are rounded, not the weights, so that the weights add up and the image does not shift.
    sums = tf.stack(list(itertools.accumulate(tf.unstack(weights))))
    sums = tf.cast(tf.round(256 * sums / sums[-1]), tf.int32)
    whole = sums - tf.concat([tf.zeros([1, size], tf.int32), sums[:-1]], 0)
    return tf.cast(tf.minimum(taps, length - 1), tf.int32), tf.cast(whole, tf.uint16)


def resize_bucket(sides: tf.Tensor, size: int) -> tf.Tensor:
    """Returns the bucket of a crop with these sides, or BUCKETS if it is too large for any: int32 [..., 2] -> [...]."""
    longest = tf.cast(tf.reduce_max(sides, -1), tf.float32)
    return tf.reduce_sum(tf.stack([tf.cast(longest > ratio * size, tf.int32) for ratio, _ in _BUCKETS]), 0)


def _u32(number: int) -> tf.Tensor:
    return tf.constant(number, tf.uint32)


@functools.cache
def _resizes(size: int):
    """Returns (side, rows, columns) for each bucket: the side of the padded crop, and two compiled functions.

    `rows` resizes along the first axis: uint8 [side, 3 * side] -> [size, 3 * side]. `columns` resizes along the other
    one and takes the result of `rows` transposed, four bytes in each uint32: [3 * side / 4, size] -> a packed view.
    """

    def compiled(ratio: float, count: int):
        side = -(-int(ratio * size) // 4) * 4
        taps = tf.TensorSpec([count, size], tf.int32), tf.TensorSpec([count, size], tf.uint16)

        @xla(tf.TensorSpec([side, 3 * side], tf.uint8), *taps)
        def rows(pixels, at, weights):
            return weighted_sum((weights[t, :, None], tf.gather(pixels, at[t])) for t in range(count))

        @xla(tf.TensorSpec([3 * side // 4, size], tf.uint32), *taps, tf.TensorSpec([], tf.bool))
        def columns(words, at, weights, flip):
            at, weights = (tf.where(flip, tf.reverse(taps, [1]), taps) for taps in (at, tf.cast(weights, tf.uint32)))
            red_blue, green = _u32(0x800080), _u32(0x80)  # sums of 16 bits; red and blue share an integer
            for t in range(count):
                first = bitwise.right_shift(3 * at[t], 2)  # the word in which the pixel begins, and the bit below
                start = tf.cast(8 * bitwise.bitwise_and(3 * at[t], 3), tf.uint32)[:, None]
                low = bitwise.right_shift(tf.gather(words, first), start)
                high = bitwise.left_shift(bitwise.left_shift(tf.gather(words, first + 1), _u32(24) - start), _u32(8))
                pixel, weight = bitwise.bitwise_or(low, high), weights[t, :, None]
                red_blue += weight * bitwise.bitwise_and(pixel, _u32(0xFF00FF))
                green += weight * bitwise.bitwise_and(bitwise.right_shift(pixel, _u32(8)), _u32(0xFF))
            red_blue = bitwise.bitwise_and(bitwise.right_shift(red_blue, _u32(8)), _u32(0xFF00FF))
            return tf.bitcast(bitwise.bitwise_or(red_blue, bitwise.bitwise_and(green, _u32(0xFF00))), tf.int32)

        return side, rows, columns

    return [compiled(*bucket) for bucket in _BUCKETS]


def resize(
    crop: tf.Tensor,
    bucket: tf.Tensor,
    rows: tuple[tf.Tensor, tf.Tensor],
    columns: tuple[tf.Tensor, tf.Tensor],
    flip: tf.Tensor,
) -> tf.Tensor:
    """Resizes a crop, and mirrors it if `flip` is true.

    Args:
        crop: uint8 [H, W, 3].
        bucket: the result of `resize_bucket`. A crop that is too large for any bucket is first resized by TensorFlow;
            the taps must then be those of a line of `size` pixels.
        rows, columns: the results of `resize_taps` for the height and the width.
        flip: whether to mirror left and right, bool.

    Returns:
        A packed view, int32 [size, size].
    """
    size = rows[0].shape[-1]
    resizes = _resizes(size)

    def by_bucket(pixels: tf.Tensor, number: int) -> tf.Tensor:
        side, resize_rows, resize_columns = resizes[number]
        count = _BUCKETS[number][1]
        height, width = tf.unstack(tf.shape(pixels)[:2])
        padded = tf.pad(tf.reshape(pixels, [height, 3 * width]), [[0, side - height], [0, 3 * (side - width)]])
        resized = resize_rows(tf.ensure_shape(padded, [side, 3 * side]), rows[0][:count], rows[1][:count])
        words = tf.bitcast(tf.reshape(resized, [size, 3 * side // 4, 4]), tf.uint32)
        return resize_columns(tf.transpose(words), columns[0][:count], columns[1][:count], flip)

    def large() -> tf.Tensor:
        small = tf.image.resize(crop, (size, size), antialias=True)
        return by_bucket(tf.cast(tf.round(small), tf.uint8), 0)

    branches = [functools.partial(by_bucket, crop, number) for number in range(len(resizes))]
    return tf.switch_case(bucket, [*branches, large])
