"""Rotations that equal Pillow's, projective transforms, and JPEG compression."""

import functools
import math

import tensorflow as tf

from sscd_jax.data.augment.packed_pixels import xla

# The compiled rotation takes images of at most _PIXELS pixels. It is compiled for each of _SIDES, the sides of a box.
_PIXELS = 2**18
_SIDES = range(128, 513, 64)


def rotated_box(image: tf.Tensor, degrees: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Rotates an image as Pillow's rotate does, and returns a box of the result.

    The rotation is counterclockwise on the same canvas and bilinear, with black outside of the image.

    Args:
        image: uint8 [H, W, 3].
        degrees: the angle, float32.
        box: int32 [4], top, left, height and width of the box.

    Returns:
        uint8 [height, width, 3].
    """
    shape = tf.shape(image)
    pixels = shape[0] * shape[1]
    angle = degrees * (math.pi / 180)
    # The cosine is computed here, as XLA would compute it again for every pixel.
    inputs = tf.cast(shape[:2], tf.float32), tf.cos(angle), tf.sin(angle), tf.cast(box[:2], tf.float32)

    def compiled(side: int) -> tf.Tensor:
        flat = tf.pad(tf.reshape(image, [-1, 3]), [[0, _PIXELS - pixels], [0, 0]])
        return _rotation(side)(tf.ensure_shape(flat, [_PIXELS, 3]), *inputs)[: box[2], : box[3]]

    fits = [(pixels <= _PIXELS) & tf.reduce_all(box[2:] <= side) for side in _SIDES]
    number = tf.argmax(tf.cast(tf.stack([*fits, True]), tf.int32), output_type=tf.int32)
    branches = [functools.partial(compiled, side) for side in _SIDES]
    return tf.switch_case(number, [*branches, lambda: _rotated_by_warp(image, degrees, box)])


@functools.cache
def _rotation(side: int):
    """Returns the compiled function that rotates an image and returns a square box with this side.

    Its arguments are the pixels, uint8 [_PIXELS, 3]; height and width of the image, float32 [2]; cosine and sine of the
    angle; and top and left of the box, float32 [2].
    """
    scalar, two = tf.TensorSpec([]), tf.TensorSpec([2])

    @xla(tf.TensorSpec([_PIXELS, 3], tf.uint8), two, scalar, scalar, two)
    def function(flat, shape, cos, sin, corner):
        height, width = tf.unstack(shape)
        at = tf.range(side, dtype=tf.float32) + 0.5
        x, y = at + corner[1] - width / 2, (at + corner[0] - height / 2)[:, None]
        x, y = cos * x - sin * y + width / 2, sin * x + cos * y + height / 2
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        left, top = tf.floor(x - 0.5), tf.floor(y - 0.5)
        right_part, lower_part = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]

        def pixel(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
            row, column = (
                tf.cast(tf.clip_by_value(place, 0, end - 1), tf.int32)
                for place, end in ((row, height), (column, width))
            )
            return tf.cast(tf.cast(tf.gather(flat, row * tf.cast(width, tf.int32) + column), tf.int32), tf.float32)

        upper, lower = (
            pixel(row, left) * (1 - right_part) + pixel(row, left + 1) * right_part for row in (top, top + 1)
        )
        mixed = tf.where(inside[..., None], upper + (lower - upper) * lower_part, 0.0)
        return tf.cast(tf.cast(mixed, tf.int32), tf.uint8)

    return function


def _rotated_by_warp(image: tf.Tensor, degrees: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    """Does the same as `rotated_box` for images of any size, in twice the time."""
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    top, left = tf.cast(box[0], tf.float32), tf.cast(box[1], tf.float32)
    angle = degrees * (math.pi / 180)
    cos, sin = tf.cos(angle), tf.sin(angle)
    x, y = (width - 1) / 2, (height - 1) / 2
    # The transform from a position in the box to the position in the image.
    column = [cos, -sin, x + cos * (left - x) - sin * (top - y)]
    row = [sin, cos, y + sin * (left - x) + cos * (top - y)]
    return warp(image, tf.stack([*column, *row, 0.0, 0.0]), box[2:])


def warp(image: tf.Tensor, matrix: tf.Tensor, shape: tf.Tensor) -> tf.Tensor:
    """Applies a projective transform, bilinear, with black outside of the image.

    Args:
        image: uint8 [H, W, 3].
        matrix: float32 [8], from positions in the result to positions in the image (ImageProjectiveTransformV3).
        shape: int32 [2], height and width of the result.
    """
    warped = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[None],
        transforms=matrix[None],
        output_shape=shape,
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
    )
    return tf.ensure_shape(warped[0], [None, None, 3])


def rotate_by_quarters(image: tf.Tensor, quarters: tf.Tensor) -> tf.Tensor:
    """Rotates by multiples of 90 degrees as Pillow's rotate does: uint8 [H, W, 3] -> [H, W, 3].

    The canvas keeps its size, with black outside of the image.
    """
    height, width = tf.unstack(tf.shape(image)[:2])

    def upside_down(image: tf.Tensor) -> tf.Tensor:
        return tf.gather(image, tf.range(tf.shape(image)[0] - 1, -1, -1))  # copies whole lines, unlike tf.reverse

    def left() -> tf.Tensor:
        return upside_down(tf.transpose(image, [1, 0, 2]))

    def half() -> tf.Tensor:
        return tf.reshape(tf.reverse(tf.reshape(image, [1, -1, 3]), [1]), tf.shape(image))

    def right() -> tf.Tensor:
        return tf.transpose(upside_down(image), [1, 0, 2])

    rotated = tf.switch_case(quarters - 1, [left, half, right])
    return tf.image.resize_with_crop_or_pad(rotated, height, width)


def jpeg(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    """Compresses as JPEG with a quality of 0 to 100, int32, and decodes again: uint8 [H, W, 3] -> [H, W, 3]."""
    data = tf.raw_ops.EncodeJpegVariableQuality(images=image, quality=quality)
    decoded = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(decoded, image.shape)
