"""Rotation and JPEG compression against Pillow, on a real photograph."""

import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from sscd_jax.data.augment import warp
from sscd_jax.data.sample import photograph_paths

PHOTOGRAPH = Image.open(photograph_paths()["coffee"]).convert("RGB").resize((360, 240))


@pytest.mark.parametrize("degrees", [0, 17, 90, 180, 200, 270, 359])
def test_rotation_equals_pillow(degrees):
    box = (30, 20, 250, 180)  # left, top, right, bottom
    pillow = np.asarray(PHOTOGRAPH.rotate(degrees, Image.Resampling.BILINEAR).crop(box)).astype(int)
    ours = warp.rotated_box(
        tf.constant(np.asarray(PHOTOGRAPH)), tf.constant(float(degrees)), tf.constant([20, 30, 160, 220])
    )
    assert np.abs(ours.numpy() - pillow).mean() < 0.3


@pytest.mark.parametrize("quarters", [1, 2, 3])
@pytest.mark.parametrize("size", [(360, 240), (240, 360), (200, 200)])
def test_quarters_equal_pillow(quarters, size):
    image = PHOTOGRAPH.resize(size)
    ours = warp.rotate_by_quarters(tf.constant(np.asarray(image)), tf.constant(quarters))
    np.testing.assert_array_equal(ours, image.rotate(90 * quarters, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("quality", [0, 1, 10, 50, 90, 100])
def test_jpeg_equals_pillow(quality):
    file = io.BytesIO()
    PHOTOGRAPH.save(file, "JPEG", quality=quality)
    ours = warp.jpeg(tf.constant(np.asarray(PHOTOGRAPH)), tf.constant(quality))
    np.testing.assert_array_equal(ours, Image.open(file))
