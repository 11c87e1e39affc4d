"""Edits that reduce the quality: JPEG compression, blur, noise, pixelation."""

import io

import numpy as np
from PIL import Image, ImageFilter
from PIL.Image import Resampling

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits.common import Rng, graded, scaled


def jpeg(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Compresses as JPEG with a quality of 30 to 50 (weak), 15 to 30 (medium) or 5 to 20 (strong)."""
    low, high = graded(strength, (30, 50), (15, 30), (5, 20))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(low, high + 1)))
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Applies a Gaussian blur.

    The radius is 0.2 to 0.4 % (weak), 0.4 to 0.8 % (medium) or 0.6 to 2 % (strong) of the short side.
    """
    radius = rng.uniform(*graded(strength, (0.002, 0.004), (0.004, 0.008), (0.006, 0.02)))
    return image.filter(ImageFilter.GaussianBlur(radius * min(image.size)))


def noise(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Adds Gaussian noise with a standard deviation of 8 to 15 (weak), 20 to 32 (medium) or 40 to 60 (strong) of 255.

    A grain is one pixel, or in large images 1/400 of the short side. A finer grain would vanish when the image is
    reduced.
    """
    deviation = rng.uniform(*graded(strength, (8, 15), (20, 32), (40, 60)))
    width, height = scaled(image, min(1, 400 / min(image.size)))
    grain = rng.standard_normal((height, width, 3), np.float32)
    channels = []
    for number, channel in enumerate(image.split()):
        levels = Image.fromarray(grain[..., number] * deviation).resize(image.size, Resampling.NEAREST)
        noisy = np.asarray(channel, np.float32) + np.asarray(levels)
        channels.append(Image.fromarray(np.rint(noisy).clip(0, 255).astype(np.uint8)))
    return Image.merge("RGB", channels)


def pixelate(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Reduces the image and enlarges it again, to blocks or smoothly.

    In between, the short side has 70 to 100 (weak), 40 to 60 (medium) or 22 to 34 pixels (strong). A smaller image is
    not changed.
    """
    sides = graded(strength, (70, 101), (40, 61), (22, 35))
    small = scaled(image, min(1, int(rng.integers(*sides)) / min(image.size)))
    back = Resampling.NEAREST if rng.integers(2) else Resampling.BICUBIC
    return image.resize(small, Resampling.BOX).resize(image.size, back)
