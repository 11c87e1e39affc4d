"""Edits that change the color of each pixel."""

import numpy as np
from PIL import Image

from sscd_jax.datasets.edits import color

SEEDS = range(8)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def test_gray_tones_and_invert_channel(china):
    toned = _pixels(color.gray(china, np.random.default_rng(0), "strong")).reshape(-1, 3)
    luma = _pixels(china.convert("L")).ravel()
    for channel in toned.T:  # a toning is the luma times a constant, but for rounding
        assert np.abs(channel - luma * channel.max() / luma.max()).max() < 2.5

    inverted = _pixels(color.invert_channel(china, np.random.default_rng(0), "strong"))
    changed = [c for c in range(3) if not np.array_equal(inverted[..., c], _pixels(china)[..., c])]
    assert len(changed) == 1
    np.testing.assert_array_equal(inverted[..., changed[0]], 255 - _pixels(china)[..., changed[0]])
