"""Edits that move the pixels: crop, rotate, flip, stretch, perspective."""

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling, Transform, Transpose

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits.common import Rng, graded, random_color, scaled


def crop(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Keeps a part of the area, anywhere: weak 85 to 95 %, medium 70 to 85 %, strong 50 to 85 %."""
    area = rng.uniform(*graded(strength, (0.85, 0.95), (0.70, 0.85), (0.50, 0.85)))
    reach = graded(strength, 0.05, 0.10, 0.15)
    stretch = np.exp(rng.uniform(-reach, reach))
    width = min(image.width, round(image.width * np.sqrt(area) * stretch))
    height = min(image.height, round(image.height * np.sqrt(area) / stretch))
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def rotate(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Turns either way: weak by 2 to 5 degrees, medium by 5 to 12, strong by 5 to 25.

    Strong turns one time in four by 90, 180 or 270 degrees instead. The corners laid bare take one
    plain color; half of the results are enlarged to hold the whole image.
    """
    if strength == "strong" and rng.integers(4) == 0:
        turns = (Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270)
        return image.transpose(turns[rng.integers(3)])
    angle = rng.uniform(*graded(strength, (2, 5), (5, 12), (5, 25))) * rng.choice([-1, 1])
    whole = bool(rng.integers(2))
    # A long strip, turned, needs many times its area; it is reduced so that four times are enough.
    radians = np.deg2rad(abs(angle))
    ratio = image.width / image.height
    grown = 1 + np.sin(radians) * np.cos(radians) * (ratio + 1 / ratio)
    if whole and grown > 4:
        image = image.resize(scaled(image, np.sqrt(4 / grown)), Resampling.BICUBIC)
    return image.rotate(angle, Resampling.BICUBIC, whole, fillcolor=random_color(rng))


def flip(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Mirrors left and right; there is nothing to draw or to grade."""
    del rng, strength
    return ImageOps.mirror(image)


def stretch(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Multiplies width / height, or divides it, at the same area.

    By a factor of 1.08 to 1.18 (weak), 1.2 to 1.4 (medium), 1.45 to 1.9 (strong).
    """
    factor = rng.uniform(*graded(strength, (1.08, 1.18), (1.2, 1.4), (1.45, 1.9)))
    side = np.sqrt(factor if rng.integers(2) else 1 / factor)
    size = max(1, round(image.width * side)), max(1, round(image.height / side))
    return image.resize(size, Resampling.BICUBIC)


def perspective(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Shows it at a slant, as in a photograph of a screen, on one plain color.

    Each corner moves inwards, across and down, each by a part of the side of its own: 1 to 6 %
    (weak), 2 to 14 % (medium), 4 to 27 % (strong).
    """
    size = np.array([image.width, image.height], float)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], float)
    inset = rng.uniform(*graded(strength, (0.01, 0.06), (0.02, 0.14), (0.04, 0.27)), (4, 2))
    moved = corners + inset * (1 - 2 * corners)
    coefficients = _homography(moved * size, corners * size)
    return image.transform(
        image.size, Transform.PERSPECTIVE, coefficients, Resampling.BICUBIC, fillcolor=random_color(rng)
    )


def _homography(source: np.ndarray, target: np.ndarray) -> list[float]:
    """(a, ..., h) that take (x, y) of each `source` to ((a x + b y + c) / n, (d x + e y + f) / n),
    its `target`, where n = g x + h y + 1. Pillow asks, for each pixel of the result, where it was.
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values)).tolist()
