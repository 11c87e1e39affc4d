"""Helpers that the edits share: strengths, sizes and random positions."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from sscd_jax.datasets.annotations import Strength

Rng = np.random.Generator
Color = tuple[int, int, int]

T = TypeVar("T")


def graded(strength: Strength, weak: T, medium: T, strong: T) -> T:
    """Returns the value for a strength, which is mostly a range to draw from."""
    return {"weak": weak, "medium": medium, "strong": strong}[strength]


def random_color(rng: Rng) -> Color:
    """Draws an RGB color."""
    red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
    return red, green, blue


def scaled(image: Image.Image, factor: float) -> tuple[int, int]:
    """Returns the image's size with each side multiplied by a factor."""
    return max(1, round(image.width * factor)), max(1, round(image.height * factor))


def place(image: Image.Image, small: Image.Image, rng: Rng) -> tuple[int, int]:
    """Draws left and top of `small` anywhere inside `image`."""
    return (
        int(rng.integers(image.width - small.width + 1)),
        int(rng.integers(image.height - small.height + 1)),
    )


def one_of(others: Sequence[Image.Image], rng: Rng) -> Image.Image:
    """Draws one of the images."""
    return others[int(rng.integers(len(others)))]
