"""The pixel operations against Pillow, on a real photograph, and whatever size comes."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageFilter
from scipy import stats

from sscd_jax.data import operations
from sscd_jax.photographs import photograph_paths

SIZE = 96
PHOTOGRAPH = Image.open(photograph_paths()["coffee"]).convert("RGB").resize((360, 240))
SQUARE = PHOTOGRAPH.resize((SIZE, SIZE))
OFF = {"flags": [False] * 3, "order": [0, 1, 2, 3], "factors": [1.0] * 3, "hue": 0.0, "radius": 1.0}


def turned(image: Image.Image) -> tf.Tensor:
    """A picture as a view: [W, 3, H]."""
    return tf.constant(np.asarray(image).transpose(1, 2, 0))


def difference(ours: tf.Tensor, pillow: Image.Image) -> np.ndarray:
    return np.abs(operations.upright(ours).numpy().astype(int) - np.asarray(pillow))


def recolour(image: Image.Image, **settings) -> tf.Tensor:
    s = OFF | settings
    return operations.recolour(SIZE)(turned(image), s["flags"], s["order"], s["factors"], s["hue"], s["radius"])


def resize(image: Image.Image, flip: bool = False, size: int = SIZE) -> tf.Tensor:
    pixels = tf.constant(np.asarray(image))
    bucket = operations.resize_bucket(tf.shape(pixels)[:2], size)
    sides = [size, size] if bucket == operations.BUCKETS else pixels.shape[:2]
    rows, columns = (operations.resize_taps(tf.constant(float(side)), size) for side in sides)
    return operations.resize(pixels, bucket, rows, columns, tf.constant(flip))


@pytest.mark.parametrize(
    "box",
    [
        (0, 0, 360, 240),
        (0, 0, 288, 9),
        (10, 20, 220, 180),
        (10, 20, 190, 180),
        (0, 0, 120, 160),
        (0, 0, 120, 140),
        (5, 5, 101, 101),
        (3, 4, 50, 30),
    ],
)
def test_resize_equals_pillow(box):
    crop = PHOTOGRAPH.crop(box)
    found = difference(resize(crop), crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert found.max() <= 2, "both round to 8 bits in between, Pillow after the rows and we after the columns"
    assert found.mean() < 0.3


def test_flip_is_a_mirror():
    whole = operations.upright(resize(PHOTOGRAPH)).numpy()
    np.testing.assert_array_equal(operations.upright(resize(PHOTOGRAPH, flip=True)), whole[:, ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (1200, 900), (97, 289)])
def test_any_shape_can_be_resized(shape):
    image = PHOTOGRAPH.resize(shape[::-1])
    found = difference(resize(image), image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert found.max() <= 3
    assert found.mean() < 0.5


def test_every_bucket_was_tested():
    sides = tf.constant([[96, 96], [97, 3], [3, 122], [150, 2], [192, 192], [193, 1], [288, 1], [289, 1]])
    np.testing.assert_array_equal(operations.resize_bucket(sides, SIZE), [0, 1, 2, 3, 4, 5, 6, operations.BUCKETS])


@pytest.mark.parametrize(("part", "enhance"), [(0, "Brightness"), (1, "Contrast"), (2, "Color")])
@pytest.mark.parametrize("amount", [0.2, 0.7, 1.0, 1.4, 1.8])
def test_enhancement_equals_pillow(part, enhance, amount):
    factors = [1.0] * 3
    factors[part] = amount
    ours = recolour(SQUARE, flags=[True, False, False], factors=factors)
    # The hue that does not turn goes to Pillow's HSV and back too.
    pillow = turn_hue(getattr(ImageEnhance, enhance)(SQUARE).enhance(amount), 0.0)
    assert difference(ours, pillow).mean() < 0.05


def turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """torchvision's adjust_hue for Pillow images."""
    hue, saturation, value = image.convert("HSV").split()
    moved = np.asarray(hue) + np.int32(turns * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(moved.astype(np.uint8)), saturation, value)).convert("RGB")


@pytest.mark.parametrize("turns", [-0.2, -0.05, 0.0, 0.1, 0.2])
def test_hue_equals_pillow(turns):
    ours = recolour(SQUARE, flags=[True, False, False], hue=turns)
    assert difference(ours, turn_hue(SQUARE, turns)).mean() < 0.05


def test_the_order_of_the_jitter_is_kept():
    settings = {"flags": [True, False, False], "factors": [1.7, 0.5, 1.6]}
    one, other = (recolour(SQUARE, order=order, **settings) for order in ([0, 1, 2, 3], [2, 1, 0, 3]))
    bright = ImageEnhance.Brightness(SQUARE).enhance(1.7)
    pillow = ImageEnhance.Color(ImageEnhance.Contrast(bright).enhance(0.5)).enhance(1.6)
    assert difference(one, turn_hue(pillow, 0.0)).mean() < 0.1
    assert difference(other, turn_hue(pillow, 0.0)).mean() > 3


def test_grey_equals_pillow():
    ours = recolour(SQUARE, flags=[False, True, False])
    assert difference(ours, SQUARE.convert("L").convert("RGB")).max() == 0


@pytest.mark.parametrize("radius", [0.1, 0.5, 1.0, 1.41, 1.42, 2.44, 2.45, 3.46, 3.47, 4.47, 4.48, 5.0])
def test_blur_equals_pillow(radius):
    ours = recolour(SQUARE, flags=[False, False, True], radius=radius)
    found = difference(ours, SQUARE.filter(ImageFilter.GaussianBlur(radius)))
    assert found.mean() < 0.6
    assert found[16:-16, 16:-16].mean() < 0.5, "Pillow repeats the edges at each of its three passes"


@pytest.mark.parametrize("radius", [0.7, 1.0, 2.0, 3.3, 5.0])
def test_blur_has_the_spread_of_its_radius(radius):
    half = operations.blur_weights(tf.constant(radius)).numpy()
    weights, at = np.concatenate([half[:0:-1], half]), np.arange(1 - len(half), len(half))
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert np.sqrt((weights * at**2).sum()) == pytest.approx(radius, rel=1e-3)
    gaussian = stats.norm.pdf(at, scale=radius)
    assert np.abs(weights - gaussian).max() < 0.1 * gaussian.max() or radius < 1
    assert half.min() > -1e-7


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.3, 5.0])
def test_a_blurred_edge_has_the_spread_of_the_radius(radius):
    edge = Image.new("RGB", SQUARE.size)
    edge.paste("white", (edge.width // 2, 0, edge.width, edge.height))
    for axis, picture in enumerate((edge.transpose(Image.Transpose.TRANSPOSE), edge)):
        blurred = operations.upright(recolour(picture, flags=[False, False, True], radius=radius)).numpy()
        profile = blurred[..., 0].mean(1 - axis)
        steps, at = np.diff(profile) / 255, np.arange(len(profile) - 1)
        assert steps.sum() == pytest.approx(1)
        centre = (steps * at).sum()
        assert np.sqrt((steps * (at - centre) ** 2).sum()) == pytest.approx(radius, rel=0.03)


def test_flags_of_jax_do_no_harm():
    """TensorFlow's XLA aborts on a flag that it does not know, and JAX's may know others."""
    code = """
import os
import tensorflow as tf
from sscd_jax.data import operations
views = operations.recolour(32)(
    tf.zeros([32, 3, 32], tf.uint8), [True] * 3, [0, 1, 2, 3], [1.0] * 3, 0.0, 1.0
)
print(views.shape, os.environ["XLA_FLAGS"])
"""
    flags = os.environ | {"XLA_FLAGS": "--xla_flag_that_only_jax_knows=1"}
    done = subprocess.run([sys.executable, "-c", code], env=flags, capture_output=True, text=True)
    assert done.stdout.strip() == "(32, 3, 32) --xla_flag_that_only_jax_knows=1", done.stderr[-500:]
