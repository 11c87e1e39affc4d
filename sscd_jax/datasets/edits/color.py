"""Edits that change the color of each pixel."""

from PIL import Image, ImageEnhance, ImageOps

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits.common import Rng, graded

Range = tuple[float, float]


def brightness(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Makes an image darker or brighter, by a factor as in `contrast`."""
    return ImageEnhance.Brightness(image).enhance(_factor(rng, strength))


def contrast(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Reduces or increases the contrast.

    The factor is 0.75 to 0.88 or 1.15 to 1.3 (weak), 0.6 to 0.75 or 1.3 to 1.5 (medium), 0.35 to 0.6 or 1.5 to 2.2
    (strong).
    """
    return ImageEnhance.Contrast(image).enhance(_factor(rng, strength))


def saturation(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Reduces or increases the saturation.

    The factor is 0.6 to 0.8 or 1.3 to 1.5 (weak), 0.4 to 0.6 or 1.5 to 2 (medium), 0 to 0.4 or 2 to 4 (strong).
    """
    low, high = graded(strength, ((0.6, 0.8), (1.3, 1.5)), ((0.4, 0.6), (1.5, 2.0)), ((0.0, 0.4), (2.0, 4.0)))
    return ImageEnhance.Color(image).enhance(rng.uniform(*low) if rng.integers(2) else rng.uniform(*high))


def hue(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Turns the hue either way, by 11 to 17 (weak), 21 to 41 (medium) or 45 to 315 degrees (strong)."""
    h, s, v = image.convert("HSV").split()
    # In 256ths of a full turn. The strong range covers both directions.
    shift = int(rng.integers(*graded(strength, (8, 13), (15, 30), (32, 225))))
    if strength != "strong" and rng.integers(2):
        shift = -shift
    turned = h.point([(x + shift) % 256 for x in range(256)])
    return Image.merge("HSV", (turned, s, v)).convert("RGB")


def gray(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Converts to grayscale and tones the image like an old photograph.

    White becomes a color whose channels are between 246 (weak), 220 (medium) or 190 (strong) and 255.
    """
    white = tuple(int(c) for c in rng.integers(graded(strength, 246, 220, 190), 256, 3))
    return ImageOps.colorize(ImageOps.grayscale(image), black=(0, 0, 0), white=white)


def invert_channel(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Moves red, green or blue towards its negative, by 20 % (weak), 40 % (medium) or 100 % of the way (strong)."""
    channels = list(image.split())
    which = rng.integers(3)
    way = graded(strength, 0.2, 0.4, 1.0)
    channels[which] = channels[which].point([round(x + way * (255 - 2 * x)) for x in range(256)])
    return Image.merge("RGB", channels)


def color(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Applies one of the six color edits above."""
    kinds = (brightness, contrast, saturation, hue, gray, invert_channel)
    return kinds[rng.integers(len(kinds))](image, rng, strength)


def _factor(rng: Rng, strength: Strength) -> float:
    low, high = graded(strength, ((0.75, 0.88), (1.15, 1.3)), ((0.6, 0.75), (1.3, 1.5)), ((0.35, 0.6), (1.5, 2.2)))
    return rng.uniform(*low) if rng.integers(2) else rng.uniform(*high)
