"""How the augmentations hold a view from its resizing to its colors, and how they are compiled.

A view in work is packed and turned: int32 [width, height], red | green << 8 | blue << 16. So a pixel is read and
written once, and colors are arithmetic on whole vectors of 32 bits. Functions are compiled by XLA, whose loops are
fused and vectorized; it needs static shapes, so they are made once for each size of view.
"""

import functools
import os
from collections.abc import Iterable

import tensorflow as tf
from tensorflow import bitwise


@functools.cache
def _start_xla() -> None:
    """Starts TensorFlow's XLA without XLA_FLAGS, which are JAX's: it would abort on a flag that it does not know."""
    flags = os.environ.pop("XLA_FLAGS", None)
    with tf.init_scope():
        tf.function(lambda: tf.constant(0) + 1, jit_compile=True)()
    if flags is not None:
        os.environ["XLA_FLAGS"] = flags


def xla(*signature: tf.TensorSpec):
    """A decorator: the function, compiled by XLA for arguments of these shapes."""
    _start_xla()
    return functools.partial(tf.function, jit_compile=True, input_signature=signature, autograph=False)


def byte(values: tf.Tensor, position: tf.Tensor | int) -> tf.Tensor:
    """A byte of each int32, 0 the lowest."""
    return bitwise.bitwise_and(bitwise.right_shift(values, 8 * position), 255)


def channels(view: tf.Tensor) -> list[tf.Tensor]:
    """Red, green and blue of a packed view, float32."""
    return [tf.cast(byte(view, i), tf.float32) for i in range(3)]


def packed(red: tf.Tensor, green: tf.Tensor, blue: tf.Tensor) -> tf.Tensor:
    """A packed view of three channels, float32 in [0, 256), rounded down; the sum is exact."""
    return tf.cast(tf.floor(red) + 256 * tf.floor(green) + 65536 * tf.floor(blue), tf.int32)


def words(view: tf.Tensor) -> tf.Tensor:
    """A packed view as bytes, four in each int32: [width, height] -> [3 width / 4, height]; width rounded up to 4."""
    view = tf.pad(view, [[0, -view.shape[0] % 4], [0, 0]])
    fours = tf.reshape(view, [-1, 4, view.shape[1]])
    at = tf.range(3)[None, :, None]
    low, high = bitwise.right_shift(fours[:, :3], 8 * at), bitwise.left_shift(fours[:, 1:], 24 - 8 * at)
    return tf.reshape(bitwise.bitwise_or(low, high), [-1, view.shape[1]])


@functools.cache
def to_words(size: int):
    """The compiled `words` of views of this size."""
    return xla(tf.TensorSpec([size, size], tf.int32))(words)


def weighted_sum(parts: Iterable[tuple[tf.Tensor, tf.Tensor]]) -> tf.Tensor:
    """Of weights and values in 16 bits, twice as many of which fit into a vector as of 32: rounded, uint8.

    The weights are uint16 and add up to 256; the values are uint8, or uint16 where one weight is for several.
    """
    total = sum((weights * tf.cast(values, tf.uint16) for weights, values in parts), tf.constant(128, tf.uint16))
    return tf.cast(bitwise.right_shift(total, tf.constant(8, tf.uint16)), tf.uint8)


def upright(words: tf.Tensor) -> tf.Tensor:
    """What `words` gives, as others hold images: uint8 [height, width, 3]. Transposed by fours, as bytes are slow."""
    height = words.shape[1]
    pixels = tf.bitcast(tf.transpose(words), tf.uint8)
    return tf.reshape(tf.reshape(pixels, [height, -1])[:, : 3 * height], [height, height, 3])
