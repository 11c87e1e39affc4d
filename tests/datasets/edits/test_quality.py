"""Edits that reduce the quality, by the statistics of what they change."""

import numpy as np
import pytest
from PIL import Image

from sscd_jax.datasets.edits import quality

SEEDS = range(8)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def test_noise_has_the_deviation_that_it_says_and_no_bias():
    gray = Image.new("RGB", (300, 200), (128, 128, 128))
    for strength, least, most in (("weak", 8, 15), ("medium", 20, 32), ("strong", 40, 60)):
        for seed in SEEDS:
            levels = _pixels(quality.noise(gray, np.random.default_rng(seed), strength)) - 128
            drawn = np.random.default_rng(seed).uniform(least, most)
            # Beyond two deviations of the strongest noise, black and white cut it.
            assert levels.std() == pytest.approx(drawn, rel=0.04)
            assert abs(levels.mean()) < 5 * drawn / np.sqrt(levels.size)
            assert abs(np.corrcoef(levels.reshape(-1, 3).T)[0, 1]) < 0.03
    # In a large image the grain is larger than a pixel, so that it is still there when reduced.
    large = quality.noise(gray.resize((1800, 1200)), np.random.default_rng(0), "weak")
    small = quality.noise(gray.resize((600, 400)), np.random.default_rng(0), "weak")
    reduced = _pixels(large.resize((600, 400), Image.Resampling.BOX))
    assert (reduced - 128).std() == pytest.approx((_pixels(small) - 128).std(), rel=0.05)


def test_pixelate_is_the_mean_of_each_block():
    levels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # A side of 40 alone divides these; then blocks are 2x2.
        if rng.integers(40, 61) == 40 and rng.integers(2):
            means = levels.reshape(40, 2, 60, 2, 3).mean((1, 3), dtype=np.float64)
            result = _pixels(quality.pixelate(Image.fromarray(levels), np.random.default_rng(seed), "medium"))
            # Pillow reduces rows, then columns, and rounds after each: by a half and a half.
            np.testing.assert_allclose(result, means.repeat(2, 0).repeat(2, 1), atol=1)
            found += 1
    assert found
