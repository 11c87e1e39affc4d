"""Pixel operations of the augmentations, equal to the Pillow calls of the official pipeline and several times as fast.

A view is held turned, uint8 [width, 3, height]: so every operation reads and writes whole rows of memory, and uint8 is
a quarter of the traffic of float32. Arithmetic is float32 and compiled by XLA, whose loops are vectorised and fused;
it needs static shapes, so the functions are made once for each size of view.
"""

import functools
import math
import os

import tensorflow as tf

# XLA compiles one resize for each of these: crops up to so many times the view's side, and the taps that takes.
_BUCKETS = ((1.0, 2), (1.25, 3), (1.5, 3), (1.75, 4), (2.0, 4), (2.25, 5), (3.0, 6))
BUCKETS, MAX_TAPS = len(_BUCKETS), _BUCKETS[-1][1]
# How far Pillow's Gaussian blur reaches, in pixels, for radii up to these; one loop is compiled for each.
_RADII = (math.sqrt(2), math.sqrt(6), math.sqrt(12), math.sqrt(20), 5.0)
_REACHES = (3, 6, 9, 12, 15)
MAX_REACH = _REACHES[-1]


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


def _float(pixels: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.cast(pixels, tf.int32), tf.float32)  # vectorised, unlike uint8 to float32


def _uint8(values: tf.Tensor) -> tf.Tensor:
    """Rounded down, as Pillow's blend does it; add 0.5 to round."""
    return tf.cast(tf.cast(values, tf.int32), tf.uint8)


# ---- Resizing.


def resize_taps(length: tf.Tensor, size: int) -> tuple[tf.Tensor, tf.Tensor]:
    """What each of `size` pixels takes from a line of `length` pixels: bilinear with antialiasing, as Pillow's resize.

    Returns:
        int32 and float32 [MAX_TAPS, size]: positions in the line and their weights.
    """
    scale = length / size
    support = tf.maximum(scale, 1.0)
    centre = (tf.range(size, dtype=tf.float32) + 0.5) * scale
    first = tf.maximum(tf.floor(centre - support + 0.5), 0.0)
    taps = first + tf.range(MAX_TAPS, dtype=tf.float32)[:, None]
    weights = tf.maximum(1 - tf.abs((taps + 0.5 - centre) / support), 0.0)
    weights = tf.where(taps < length, weights, 0.0)
    return tf.cast(tf.minimum(taps, length - 1), tf.int32), weights / tf.reduce_sum(weights, 0)


def resize_bucket(sides: tf.Tensor, size: int) -> tf.Tensor:
    """Which of the compiled resizes takes a crop of these sides; len(_BUCKETS) for none. int32 [..., 2] -> [...]."""
    longest = tf.cast(tf.reduce_max(sides, -1), tf.float32)
    return tf.reduce_sum(tf.stack([tf.cast(longest > ratio * size, tf.int32) for ratio, _ in _BUCKETS]), 0)


@functools.cache
def _resizes(size: int):
    """For each bucket its side, and rows: [side, 3 side] -> [size, 3 side], and columns: [3 side, size] -> a view."""

    def compiled(ratio: float, count: int):
        side = int(ratio * size)
        taps = tf.TensorSpec([count, size], tf.int32), tf.TensorSpec([count, size])

        @xla(tf.TensorSpec([side, 3 * side], tf.uint8), *taps)
        def rows(pixels, at, weights):
            return _uint8(sum(weights[t, :, None] * _float(tf.gather(pixels, at[t])) for t in range(count)) + 0.5)

        @xla(tf.TensorSpec([3 * side, size], tf.uint8), *taps, tf.TensorSpec([], tf.bool))
        def columns(pixels, at, weights, flip):
            at, weights = (tf.where(flip, tf.reverse(taps, [1]), taps) for taps in (at, weights))
            pixels = tf.reshape(pixels, [side, 3 * size])
            resized = sum(weights[t, :, None] * _float(tf.gather(pixels, at[t])) for t in range(count))
            return tf.reshape(_uint8(resized + 0.5), [size, 3, size])

        return side, rows, columns

    return [compiled(*bucket) for bucket in _BUCKETS]


def resize(
    crop: tf.Tensor,
    bucket: tf.Tensor,
    rows: tuple[tf.Tensor, tf.Tensor],
    columns: tuple[tf.Tensor, tf.Tensor],
    flip: tf.Tensor,
) -> tf.Tensor:
    """Resized by the taps of `resize_taps`, mirrored or not: uint8 [H, W, 3] -> uint8 view [size, 3, size].

    A crop beyond the last bucket is resized by TensorFlow first, and the taps must be those of a line of `size` pixels.
    """
    size = rows[0].shape[-1]
    resizes = _resizes(size)

    def by_bucket(pixels: tf.Tensor, number: int) -> tf.Tensor:
        side, resize_rows, resize_columns = resizes[number]
        count = _BUCKETS[number][1]
        height, width = tf.unstack(tf.shape(pixels)[:2])
        padded = tf.pad(tf.reshape(pixels, [height, 3 * width]), [[0, side - height], [0, 3 * (side - width)]])
        resized = resize_rows(tf.ensure_shape(padded, [side, 3 * side]), rows[0][:count], rows[1][:count])
        return resize_columns(tf.transpose(resized), columns[0][:count], columns[1][:count], flip)

    def large() -> tf.Tensor:
        small = tf.image.resize(crop, (size, size), antialias=True)
        return by_bucket(tf.cast(tf.round(small), tf.uint8), 0)

    branches = [functools.partial(by_bucket, crop, number) for number in range(len(resizes))]
    return tf.switch_case(bucket, [*branches, large])


# ---- Colours and blur.


def grey(pixels: tf.Tensor) -> tf.Tensor:
    """Pillow's convert("L"): a view -> float32 whole numbers [W, 1, H]."""
    red, green, blue = (_float(pixels[:, i]) for i in range(3))
    return tf.floor((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536)[:, None]  # exact in float32


def _blend(pixels: tf.Tensor, other: tf.Tensor | float, factor: tf.Tensor) -> tf.Tensor:
    """Pillow's ImageEnhance: factor 0 gives the other, 1 the view, more goes beyond it."""
    return _uint8(tf.clip_by_value(other + factor * (_float(pixels) - other), 0, 255))


def _contrast(pixels: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    total = tf.reduce_sum(tf.reduce_sum(grey(pixels), 0))  # over the first axis it is vectorised
    return _blend(pixels, tf.floor(total / (pixels.shape[0] * pixels.shape[2]) + 0.5), factor)


def _turn_hue(pixels: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    """By way of Pillow's HSV, which has 8 bits a channel, as torchvision's adjust_hue for Pillow images."""
    red, green, blue = (_float(pixels[:, i]) for i in range(3))
    value = tf.maximum(tf.maximum(red, green), blue)
    chroma = value - tf.minimum(tf.minimum(red, green), blue)
    inverse = 1 / tf.maximum(chroma, 1e-3)
    sixths = tf.where(
        value == red,
        (green - blue) * inverse,
        tf.where(value == green, 2 + (blue - red) * inverse, 4 + (red - green) * inverse),
    )
    hue = sixths / 6 + 1
    hue = tf.floor(255 * (hue - tf.floor(hue))) + tf.cast(tf.cast(255 * turns, tf.int32), tf.float32)
    hue -= 256 * tf.floor(hue / 256)
    saturation = tf.floor(255 * chroma / tf.maximum(value, 1)) / 255
    # Each channel of an HSV colour is its value less the chroma times a trapezoid of the hue.
    k = (hue * (6 / 255))[:, None] + tf.constant([5.0, 3.0, 1.0])[None, :, None]
    k -= 6 * tf.floor(k / 6)
    trapezoid = tf.clip_by_value(tf.minimum(k, 4 - k), 0, 1)
    return _uint8(value[:, None] * (1 - saturation[:, None] * trapezoid) + 0.5)


def _jitter(pixels: tf.Tensor, order: tf.Tensor, factors: tf.Tensor, turns: tf.Tensor) -> tf.Tensor:
    def part(step: tf.Tensor, pixels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        parts = [
            lambda: _blend(pixels, 0.0, factors[0]),
            lambda: _contrast(pixels, factors[1]),
            lambda: _blend(pixels, grey(pixels), factors[2]),
            lambda: _turn_hue(pixels, turns),
        ]
        return step + 1, tf.switch_case(tf.gather(order, step), parts)

    # Unrolled, XLA would compile each part four times.
    return tf.while_loop(lambda step, _: step < 4, part, (0, pixels))[1]


def blur_weights(radius: tf.Tensor) -> tf.Tensor:
    """Weights of Pillow's GaussianBlur, three box blurs of fractional radius: float32 [...] -> [..., MAX_REACH + 1].

    The first is the centre's, the others apply to both sides (Pillow's BoxBlur.c, after Gwosdek et al., "Theoretical
    foundations of Gaussian convolution by extended box filtering").
    """
    variance = tf.square(radius) / 3
    whole = tf.floor((tf.sqrt(12 * variance + 1) - 1) / 2)
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * variance) / (6 * (variance - tf.square(whole + 1)))
    at = tf.range(-MAX_REACH, MAX_REACH + 1, dtype=tf.float32)
    # Box weights as a function of the distance: 1 inside, the fraction on the rim, 0 beyond.
    whole, part = whole[..., None, None], part[..., None, None]
    distance = tf.abs(at[:, None] - at)
    box = tf.where(distance <= whole, 1.0, tf.where(distance == whole + 1, part, 0.0)) / (2 * (whole + part) + 1)
    thrice = tf.linalg.matvec(box, tf.linalg.matvec(box, box[..., MAX_REACH]))
    return thrice[..., MAX_REACH:]


def _blur(pixels: tf.Tensor, radius: tf.Tensor) -> tf.Tensor:
    """Columns, then rows, edges repeated."""
    size, weights = pixels.shape[0], blur_weights(radius)

    def along(axis: int, pixels: tf.Tensor, reach: int) -> tf.Tensor:
        first, *_, last = tf.split(pixels, [1, size - 2, 1], axis)
        padded = tf.concat([tf.repeat(first, reach, axis), pixels, tf.repeat(last, reach, axis)], axis)
        padded = tf.cast(padded, tf.int16)  # twice as many fit into a vector as of int32

        def shifted(by: int) -> tf.Tensor:
            return padded[by : by + size] if axis == 0 else padded[:, by : by + size]

        blurred = weights[0] * _float(pixels)
        for k in range(1, reach + 1):
            blurred += weights[k] * _float(shifted(reach - k) + shifted(reach + k))
        return _uint8(blurred + 0.5)

    def both(reach: int) -> tf.Tensor:
        rows = along(0, tf.reshape(pixels, [size, 3 * size]), reach)
        return tf.reshape(along(1, tf.reshape(rows, [3 * size, size]), reach), [size, 3, size])

    bucket = tf.reduce_sum(tf.cast(radius > tf.constant(_RADII[:-1]), tf.int32))
    return tf.switch_case(bucket, [functools.partial(both, reach) for reach in _REACHES])


@functools.cache
def recolour(size: int):
    """The compiled function that jitters, greys and blurs a view of this size where its flags say so.

    Of uint8 [size, 3, size], bool [3] (jitter, grey, blur), int32 [4] (order of brightness, contrast, saturation, hue),
    float32 [3] (their factors), float32 (turns of the hue), float32 (radius of the blur, at most 5); gives a view.
    """

    @xla(
        tf.TensorSpec([size, 3, size], tf.uint8),
        tf.TensorSpec([3], tf.bool),
        tf.TensorSpec([4], tf.int32),
        tf.TensorSpec([3]),
        tf.TensorSpec([]),
        tf.TensorSpec([]),
    )
    def function(pixels, flags, order, factors, turns, radius):
        pixels = tf.cond(flags[0], lambda: _jitter(pixels, order, factors, turns), lambda: pixels)
        pixels = tf.cond(flags[1], lambda: tf.repeat(_uint8(grey(pixels)), 3, 1), lambda: pixels)
        return tf.cond(flags[2], lambda: _blur(pixels, radius), lambda: pixels)

    return function


def upright(view: tf.Tensor) -> tf.Tensor:
    """A view as others hold pictures: uint8 [W, 3, H] -> uint8 [H, W, 3]."""
    width, channels, height = view.shape
    return tf.reshape(tf.transpose(tf.reshape(view, [width * channels, height])), [height, width, channels])
