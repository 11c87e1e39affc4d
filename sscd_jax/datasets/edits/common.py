"""What the edits of `edits_*.py` share: the strengths, and a few draws."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import Image

from sscd_jax.datasets.annotations import Strength

Rng = np.random.Generator
Color = tuple[int, int, int]

T = TypeVar("T")


def graded(strength: Strength, weak: T, medium: T, strong: T) -> T:
    """The value, mostly a range to draw from, of that strength."""
    return {"weak": weak, "medium": medium, "strong": strong}[strength]


def random_color(rng: Rng) -> Color:
    red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
    return red, green, blue


def scaled(image: Image.Image, side: float) -> tuple[int, int]:
    """The image's size, each side times `side`."""
    return max(1, round(image.width * side)), max(1, round(image.height * side))


def place(image: Image.Image, small: Image.Image, rng: Rng) -> tuple[int, int]:
    """Left and top of `small` anywhere inside `image`."""
    return (
        int(rng.integers(image.width - small.width + 1)),
        int(rng.integers(image.height - small.height + 1)),
    )


def one_of(others: Sequence[Image.Image], rng: Rng) -> Image.Image:
    return others[int(rng.integers(len(others)))]
