"""Decodes images in a TensorFlow graph, for training. For inference, `data.images` decodes them."""

import numpy as np
import tensorflow as tf

from sscd_jax.data.images import MAX_PIXELS, open_header, to_rgb
from sscd_jax.data.pixel_budget import FREE_PIXELS, PixelBudget

_budget = PixelBudget()


@tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
def decode(data: tf.Tensor) -> tf.Tensor:
    """Decodes an image of any format that `open_image` reads to the same RGB pixels: string -> uint8 [H, W, 3].

    EXIF orientation is ignored, as in the official code. TensorFlow decodes JPEG and PNG of 8 or 16 bits, and Pillow
    everything else: TensorFlow's decoders are wrong on PNGs of 1 bit and on palette BMPs, and refuse WebP with alpha.
    Pillow also decodes PNGs of over FREE_PIXELS, of which TensorFlow would hold several copies.

    Raises:
        tf.errors.OpError: when the graph runs, on bytes that are not an image, are truncated, or have more than
            MAX_PIXELS pixels.
    """
    image = tf.case(
        [(tf.io.is_jpeg(data), lambda: _decode_jpeg(data)), (_is_deep_png(data), lambda: _decode_png(data))],
        default=lambda: _decode_by_pillow(data),
    )
    return tf.ensure_shape(image, [None, None, 3])


def _decode_by_pillow(data: tf.Tensor) -> tf.Tensor:
    def pixels_or_reason(data: bytes) -> tuple[np.ndarray, str]:
        # No exception is raised here, because TensorFlow would print its traceback.
        try:
            opened = open_header(data)
            with _budget.take(opened.width * opened.height):
                return np.asarray(to_rgb(opened)), ""
        except ValueError as error:
            return np.zeros((0, 0, 3), np.uint8), str(error)

    image, reason = tf.numpy_function(pixels_or_reason, [data], (tf.uint8, tf.string), stateful=False)
    with tf.control_dependencies([tf.debugging.Assert(tf.size(image) > 0, [reason])]):
        return tf.ensure_shape(image, [None, None, 3])


def _decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    height, width = tf.unstack(tf.image.extract_jpeg_shape(data)[:2])
    with tf.control_dependencies([_check_size(height, width)]):
        return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")  # the method of Pillow


def _is_deep_png(data: tf.Tensor) -> tf.Tensor:
    """Returns whether this is a PNG of at least 8 bits a channel and at most FREE_PIXELS.

    Byte 24, in the header, is the number of bits.
    """

    def is_deep() -> tf.Tensor:
        signature, depth = tf.strings.substr(data, 0, 8), tf.io.decode_raw(tf.strings.substr(data, 24, 1), tf.uint8)
        width, height = _png_size(data)
        small = tf.cast(width, tf.int64) * tf.cast(height, tf.int64) <= FREE_PIXELS
        return (signature == b"\x89PNG\r\n\x1a\n") & (depth[0] >= 8) & small

    return tf.cond(tf.strings.length(data) > 32, is_deep, lambda: False)


def _png_size(data: tf.Tensor) -> list[tf.Tensor]:
    return tf.unstack(tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False), 2)


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    width, height = _png_size(data)
    with tf.control_dependencies([_check_size(height, width)]):
        rgba = tf.io.decode_png(data, channels=4)
    rgb, alpha = rgba[..., :3], tf.cast(rgba[..., 3:], tf.float32) / 255

    def on_white() -> tf.Tensor:
        mixed = tf.cast(rgb, tf.float32) * alpha + 255 * (1 - alpha)
        return tf.cast(tf.round(mixed), tf.uint8)

    return tf.cond(tf.reduce_all(rgba[..., 3] == 255), lambda: rgb, on_white)


def _check_size(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
    return tf.debugging.assert_less_equal(pixels, tf.constant(MAX_PIXELS, tf.int64), "too many pixels")
