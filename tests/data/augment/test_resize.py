"""Resizing against Pillow, on a real photograph, and whatever size comes."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sscd_jax.data.augment import resize as resizing
from sscd_jax.data.augment.packed_pixels import to_words, upright
from sscd_jax.data.sample import photograph_paths

SIZE = 96
PHOTOGRAPH = Image.open(photograph_paths()["coffee"]).convert("RGB").resize((360, 240))


def resize(image: Image.Image, flip: bool = False, size: int = SIZE) -> np.ndarray:
    pixels = tf.constant(np.asarray(image))
    bucket = resizing.resize_bucket(tf.shape(pixels)[:2], size)
    sides = [size, size] if bucket == resizing.BUCKETS else pixels.shape[:2]
    rows, columns = (resizing.resize_taps(tf.constant(float(side)), size) for side in sides)
    view = resizing.resize(pixels, bucket, rows, columns, tf.constant(flip))
    return upright(to_words(size)(view)).numpy()


def difference(ours: np.ndarray, pillow: Image.Image) -> np.ndarray:
    return np.abs(ours.astype(int) - np.asarray(pillow))


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
    whole = resize(PHOTOGRAPH)
    np.testing.assert_array_equal(resize(PHOTOGRAPH, flip=True), whole[:, ::-1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (1200, 900), (97, 289)])
def test_any_shape_can_be_resized(shape):
    image = PHOTOGRAPH.resize(shape[::-1])
    found = difference(resize(image), image.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    assert found.max() <= 3
    assert found.mean() < 0.5


def test_every_bucket_was_tested():
    sides = tf.constant([[96, 96], [97, 3], [3, 122], [150, 2], [192, 192], [193, 1], [288, 1], [289, 1]])
    np.testing.assert_array_equal(resizing.resize_bucket(sides, SIZE), [0, 1, 2, 3, 4, 5, 6, resizing.BUCKETS])


@pytest.mark.parametrize("size", [61, 62, 63])
def test_a_view_need_not_have_a_side_of_whole_words(size):
    found = difference(resize(PHOTOGRAPH, size=size), PHOTOGRAPH.resize((size, size), Image.Resampling.BILINEAR))
    assert found.max() <= 3
    assert found.mean() < 0.5


@settings(max_examples=200)
@given(length=st.integers(1, 3 * SIZE))
def test_weights_add_up_and_are_those_of_pillow(length):
    places, weights = (taps.numpy() for taps in resizing.resize_taps(tf.constant(float(length)), SIZE))
    assert (weights.astype(int).sum(0) == 256).all()
    assert places.min() >= 0
    assert places.max() <= length - 1
    # Pillow's own weights, from an image of one bright pixel in each row.
    pillow = np.asarray(
        Image.fromarray(255 * np.eye(length, dtype=np.uint8)).resize((SIZE, length), Image.Resampling.BILINEAR)
    )
    ours = np.zeros((length, SIZE))
    np.add.at(ours, (places, np.arange(SIZE)[None]), weights)
    assert np.abs(ours * 255 / 256 - pillow).max() <= 1.5
