"""Edits that move the pixels, against numpy and by what their docstrings say."""

import numpy as np
import pytest
from PIL import Image

from sscd_jax.datasets.edits import geometry

SEEDS = range(8)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


def test_crop_is_a_part_of_the_image(china):
    whole = np.asarray(china)
    for seed in SEEDS:
        part = np.asarray(geometry.crop(china, np.random.default_rng(seed), "strong"))
        height, width = part.shape[:2]
        assert 0.49 < height * width / (whole.shape[0] * whole.shape[1]) < 0.86
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (height, width))
        assert (windows == part[..., 0]).all(axis=(2, 3)).any()


def test_flip_and_quarter_turns_are_numpys(china):
    whole = np.asarray(china)
    flipped = geometry.flip(china, np.random.default_rng(0), "strong")
    np.testing.assert_array_equal(np.asarray(flipped), whole[:, ::-1])

    turned = [np.asarray(geometry.rotate(china, np.random.default_rng(seed), "strong")) for seed in range(200)]
    quarters = [np.rot90(whole, k) for k in (1, 2, 3)]
    found = [sum(np.array_equal(t, quarter) for t in turned) for quarter in quarters]
    assert min(found) > 0
    # 50 expected of 200; four standard deviations either way.
    assert abs(sum(found) - 50) < 4 * np.sqrt(200 / 4 * 3 / 4)


@pytest.mark.parametrize(
    ("strength", "least", "most"), [("weak", 1.08, 1.18), ("medium", 1.2, 1.4), ("strong", 1.45, 1.9)]
)
def test_stretch_changes_the_aspect_ratio_and_not_the_area(strength, least, most):
    ratios = []
    for seed in range(20):
        result = geometry.stretch(Image.new("RGB", (900, 600)), np.random.default_rng(seed), strength)
        assert result.width * result.height == pytest.approx(900 * 600, rel=0.003)
        ratios.append(result.width / result.height / 1.5)
    assert {ratio > 1 for ratio in ratios} == {True, False}
    factors = [max(ratio, 1 / ratio) for ratio in ratios]
    assert least - 0.01 < min(factors) < max(factors) < most + 0.01


def test_perspective_puts_the_corners_where_it_says():
    """Squares in the corners are found again where a homography, solved by its null space, takes them."""
    image = Image.new("RGB", (300, 200), "black")
    centers = np.array([[30, 30], [270, 30], [270, 170], [30, 170]])
    for color, (x, y) in zip(("red", "lime", "blue", "white"), centers.tolist(), strict=True):
        image.paste(color, (x - 8, y - 8, x + 8, y + 8))
    for seed in SEEDS:
        inset = np.random.default_rng(seed).uniform(0.04, 0.27, (4, 2)) * (300, 200)
        corners = np.array([[0, 0], [300, 0], [300, 200], [0, 200]])
        moved = corners + inset * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        rows = []
        for (x, y), (u, v) in zip(corners, moved, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, -u], [0, 0, 0, x, y, 1, -v * x, -v * y, -v]]
        matrix = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
        result = _pixels(geometry.perspective(image, np.random.default_rng(seed), "strong"))
        for color, center in zip(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)), centers, strict=True):
            x, y, n = matrix @ (*center, 1)
            np.testing.assert_allclose(result[int(y / n), int(x / n)], color, atol=8)
