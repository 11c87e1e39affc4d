"""Edits that move the pixels: crop, rotate, flip, stretch, perspective."""

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling, Transform, Transpose

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits.common import Rng, graded, random_color, scaled


def crop(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Crops anywhere to 85 to 95 % (weak), 70 to 85 % (medium) or 50 to 85 % of the area (strong)."""
    area = rng.uniform(*graded(strength, (0.85, 0.95), (0.70, 0.85), (0.50, 0.85)))
    reach = graded(strength, 0.05, 0.10, 0.15)
    stretch = np.exp(rng.uniform(-reach, reach))
    width = min(image.width, round(image.width * np.sqrt(area) * stretch))
    height = min(image.height, round(image.height * np.sqrt(area) / stretch))
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def rotate(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Rotates either way by 2 to 5 (weak), 5 to 12 (medium) or 5 to 25 degrees (strong).

    A quarter of the strong rotations are by 90, 180 or 270 degrees instead. Uncovered corners get one random color.
    Half of the results are enlarged so that they show the complete image.
    """
    if strength == "strong" and rng.integers(4) == 0:
        turns = (Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270)
        return image.transpose(turns[rng.integers(3)])
    angle = rng.uniform(*graded(strength, (2, 5), (5, 12), (5, 25))) * rng.choice([-1, 1])
    expand = bool(rng.integers(2))
    # A long image that is rotated needs many times its area. It is reduced so that four times are enough.
    radians = np.deg2rad(abs(angle))
    ratio = image.width / image.height
    grown = 1 + np.sin(radians) * np.cos(radians) * (ratio + 1 / ratio)
    if expand and grown > 4:
        image = image.resize(scaled(image, np.sqrt(4 / grown)), Resampling.BICUBIC)
    return image.rotate(angle, Resampling.BICUBIC, expand, fillcolor=random_color(rng))


def flip(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Mirrors left and right. It has no random parameter, and all strengths are the same."""
    del rng, strength
    return ImageOps.mirror(image)


def stretch(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Multiplies or divides the ratio of width to height, and keeps the area.

    The factor is 1.08 to 1.18 (weak), 1.2 to 1.4 (medium) or 1.45 to 1.9 (strong).
    """
    factor = rng.uniform(*graded(strength, (1.08, 1.18), (1.2, 1.4), (1.45, 1.9)))
    side = np.sqrt(factor if rng.integers(2) else 1 / factor)
    size = max(1, round(image.width * side)), max(1, round(image.height / side))
    return image.resize(size, Resampling.BICUBIC)


def perspective(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Distorts the perspective, as in a photograph of a screen, on a background of one color.

    Each corner moves inwards, horizontally and vertically by different shares of the sides: 1 to 6 % (weak), 2 to 14 %
    (medium) or 4 to 27 % (strong).
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
    """Returns the projective transform that maps four points to four others, as Pillow takes it.

    It maps (x, y) to ((a x + b y + c) / n, (d x + e y + f) / n), where n = g x + h y + 1. Pillow maps pixels of the
    result to positions in the image.

    Args:
        source, target: float [4, 2].

    Returns:
        The coefficients a to h.
    """
    rows, values = [], []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.linalg.solve(np.array(rows), np.array(values)).tolist()
