"""The format of pixels between resizing and the color operations, and compilation by XLA.

Between these steps a view is packed and transposed: int32 [width, height], each red | green << 8 | blue << 16. A pixel
is thus read and written once, and color operations are arithmetic on vectors of 32-bit integers. XLA compiles the
functions to fused, vectorized loops. It needs static shapes, so each function is compiled once for each size of view.
"""

import functools
import os
from collections.abc import Iterable

import tensorflow as tf
from tensorflow import bitwise


@functools.cache
def _start_xla() -> None:
    """Starts TensorFlow's XLA without XLA_FLAGS, which are meant for JAX's: it aborts on flags it does not know."""
    flags = os.environ.pop("XLA_FLAGS", None)
    with tf.init_scope():
        tf.function(lambda: tf.constant(0) + 1, jit_compile=True)()
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags


def xla(*signature: tf.TensorSpec):
    """Returns a decorator with which XLA compiles a function, for arguments of these shapes and types."""
    _start_xla()
    return functools.partial(tf.function, jit_compile=True, input_signature=signature, autograph=False)


def byte(values: tf.Tensor, position: tf.Tensor | int) -> tf.Tensor:
    """Returns a byte of each int32, counted from the lowest."""
    return bitwise.bitwise_and(bitwise.right_shift(values, 8 * position), 255)


def channels(view: tf.Tensor) -> list[tf.Tensor]:
    """Returns red, green and blue of a packed view, float32 [width, height] each."""
    return [tf.cast(byte(view, i), tf.float32) for i in range(3)]


def packed(red: tf.Tensor, green: tf.Tensor, blue: tf.Tensor) -> tf.Tensor:
    """Packs three channels, float32 in [0, 256), which are rounded down. The sum in float32 is exact."""
    return tf.cast(tf.floor(red) + 256 * tf.floor(green) + 65536 * tf.floor(blue), tf.int32)


def words(view: tf.Tensor) -> tf.Tensor:
    """Stores a packed view as bytes, four in each int32: [width, height] -> [3 * width / 4, height].

    The width is padded to a multiple of 4.
    """
    view = tf.pad(view, [[0, -view.shape[0] % 4], [0, 0]])
    fours = tf.reshape(view, [-1, 4, view.shape[1]])
    at = tf.range(3)[None, :, None]
    low, high = bitwise.right_shift(fours[:, :3], 8 * at), bitwise.left_shift(fours[:, 1:], 24 - 8 * at)
    return tf.reshape(bitwise.bitwise_or(low, high), [-1, view.shape[1]])


@functools.cache
def to_words(size: int):
    """Returns `words`, compiled for views of this size."""
    return xla(tf.TensorSpec([size, size], tf.int32))(words)


def weighted_sum(parts: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Returns a weighted sum, rounded to uint8.

    It is computed in 16 bits, because a vector register holds twice as many integers of 16 bits as of 32 bits.

    Args:
        parts: weights and values. The weights are uint16 and add up to 256. The values are uint8, or uint16 if they
            are sums of pixels that have the same weight.
    """
    total = sum((weights * tf.cast(values, tf.uint16) for weights, values in parts), tf.constant(128, tf.uint16))
    return tf.cast(bitwise.right_shift(total, tf.constant(8, tf.uint16)), tf.uint8)


def upright(words: tf.Tensor) -> tf.Tensor:
    """Converts the result of `words` to the usual format: [3 * width / 4, height] -> uint8 [height, width, 3].

    Four bytes at a time are transposed, because transposing single bytes is slow.
    """
    height = words.shape[1]
    pixels = tf.bitcast(tf.transpose(words), tf.uint8)
    return tf.reshape(tf.reshape(pixels, [height, -1])[:, : 3 * height], [height, height, 3])
