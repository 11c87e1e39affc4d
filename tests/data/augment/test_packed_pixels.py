"""Packed views and their compilation."""

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from sscd_jax.data.augment.packed_pixels import channels, packed, to_words, upright, weighted_sum


@pytest.mark.parametrize("size", [32, 33, 34, 35])
def test_a_packed_view_comes_back_upright(size):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3))
    view = packed(*(tf.constant(image[..., i].T, tf.float32) + 0.99 for i in range(3)))
    for i, channel in enumerate(channels(view)):
        np.testing.assert_array_equal(channel, image[..., i].T)
    np.testing.assert_array_equal(upright(to_words(size)(view)), image)


def test_sixteen_bits_hold_the_brightest_sum():
    white, weights = tf.fill([5], tf.constant(255, tf.uint8)), (100, 156)
    total = weighted_sum((tf.constant(weight, tf.uint16), white) for weight in weights)
    np.testing.assert_array_equal(total, white)


@pytest.mark.slow
def test_flags_of_jax_do_no_harm():
    """TensorFlow's XLA aborts on a flag that it does not know, and JAX's may know others."""
    code = """
import os
import tensorflow as tf
from sscd_jax.data.augment.packed_pixels import to_words
words = to_words(32)(tf.zeros([32, 32], tf.int32))
print(words.shape, os.environ["XLA_FLAGS"])
"""
    flags = os.environ | {"XLA_FLAGS": "--xla_flag_that_only_jax_knows=1"}
    done = subprocess.run([sys.executable, "-c", code], env=flags, capture_output=True, text=True)
    assert done.stdout.strip() == "(24, 32) --xla_flag_that_only_jax_knows=1", done.stderr[-500:]
