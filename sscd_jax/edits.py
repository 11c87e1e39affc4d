"""Strong edits of a picture, as people make them who pass a copy on. Pillow only.

They make the queries of the demo's evaluation and share no code with the training augmentations
(`sscd_jax/data/augment.py`), so that the descriptor is measured on edits made by another hand.

Every edit takes an RGB picture and a `numpy.random.Generator` (the two pastes take another picture
as well), leaves its arguments as they are, and gives a new RGB picture. Lengths are relative to the
picture, so an edit is as strong on a small picture as on a large one.
"""

import io
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from PIL.Image import Resampling, Transpose

Rng = np.random.Generator

_CAPTIONS = (
    "copy of a copy",
    "good morning",
    "share this!",
    "when you see it",
    "no filter",
    "breaking news",
    "best day ever",
    "you won't believe",
    "like & follow",
    "not a repost",
)


def crop(image: Image.Image, rng: Rng) -> Image.Image:
    """Keeps 50 to 85 % of the area, anywhere."""
    area, stretch = rng.uniform(0.50, 0.85), np.exp(rng.uniform(-0.15, 0.15))
    width = min(image.width, round(image.width * np.sqrt(area) * stretch))
    height = min(image.height, round(image.height * np.sqrt(area) / stretch))
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    return image.crop((int(left), int(top), int(left) + width, int(top) + height))


def rotate(image: Image.Image, rng: Rng) -> Image.Image:
    """Turns by 5 to 25 degrees either way, one time in four by 90, 180 or 270 degrees.

    The corners laid bare take one plain colour.
    """
    if rng.integers(4) == 0:
        turns = (Transpose.ROTATE_90, Transpose.ROTATE_180, Transpose.ROTATE_270)
        return image.transpose(turns[rng.integers(3)])
    angle = rng.uniform(5, 25) * rng.choice([-1, 1])
    return image.rotate(angle, Resampling.BICUBIC, bool(rng.integers(2)), fillcolor=_colour(rng))


def flip(image: Image.Image, rng: Rng) -> Image.Image:
    """Mirrors left and right."""
    del rng
    return ImageOps.mirror(image)


def jpeg(image: Image.Image, rng: Rng) -> Image.Image:
    """Compresses at JPEG quality 5 to 20."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=int(rng.integers(5, 21)))
    return Image.open(buffer).convert("RGB")


def blur(image: Image.Image, rng: Rng) -> Image.Image:
    """Gaussian blur with a radius of 0.6 to 2 % of the short side."""
    return image.filter(ImageFilter.GaussianBlur(rng.uniform(0.006, 0.02) * min(image.size)))


def brightness(image: Image.Image, rng: Rng) -> Image.Image:
    """Much darker or much brighter."""
    return ImageEnhance.Brightness(image).enhance(_factor(rng))


def contrast(image: Image.Image, rng: Rng) -> Image.Image:
    """Much flatter or much harder."""
    return ImageEnhance.Contrast(image).enhance(_factor(rng))


def saturation(image: Image.Image, rng: Rng) -> Image.Image:
    """Pale (0 to 0.4) or garish (2 to 4)."""
    low = bool(rng.integers(2))
    return ImageEnhance.Color(image).enhance(rng.uniform(0, 0.4) if low else rng.uniform(2, 4))


def hue(image: Image.Image, rng: Rng) -> Image.Image:
    """Turns the colour wheel by 45 to 315 degrees."""
    h, s, v = image.convert("HSV").split()
    shift = int(rng.integers(32, 225))
    turned = h.point([(x + shift) % 256 for x in range(256)])
    return Image.merge("HSV", (turned, s, v)).convert("RGB")


def grey(image: Image.Image, rng: Rng) -> Image.Image:
    """Takes the colour away and tones the picture, as old photographs are toned."""
    white = tuple(int(c) for c in rng.integers(190, 256, 3))
    return ImageOps.colorize(ImageOps.grayscale(image), black=(0, 0, 0), white=white)


def invert_channel(image: Image.Image, rng: Rng) -> Image.Image:
    """Inverts red, green or blue."""
    channels = list(image.split())
    which = rng.integers(3)
    channels[which] = ImageChops.invert(channels[which])
    return Image.merge("RGB", channels)


def colour(image: Image.Image, rng: Rng) -> Image.Image:
    """One of the six colour edits above."""
    kinds = (brightness, contrast, saturation, hue, grey, invert_channel)
    return kinds[rng.integers(len(kinds))](image, rng)


def text(image: Image.Image, rng: Rng) -> Image.Image:
    """Draws one or two captions, 8 to 18 % of the short side high, some on a plain bar."""
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 3)):
        font = ImageFont.load_default(max(8, rng.uniform(0.08, 0.18) * min(image.size)))
        caption = _CAPTIONS[rng.integers(len(_CAPTIONS))]
        left, top, right, bottom = draw.textbbox((0, 0), caption, font)
        # A long caption may run out of the picture on the right, as badly set captions do.
        x = rng.uniform(0, max(1, image.width - (right - left)))
        y = rng.uniform(0, max(1, image.height - (bottom - top)))
        ink = _colour(rng)
        if rng.integers(2):
            bar = (x + left - 4, y + top - 4, x + right + 4, y + bottom + 4)
            draw.rectangle(bar, fill=tuple(255 - c for c in ink))
        draw.text((x, y), caption, ink, font)
    return image


def paste_onto(image: Image.Image, rng: Rng, other: Image.Image) -> Image.Image:
    """Pastes the picture onto another, where it covers 50 to 80 % of the area."""
    side = np.sqrt(rng.uniform(0.50, 0.80))
    small = image.resize(_scaled(image, side), Resampling.BICUBIC)
    background = ImageOps.fit(other, image.size, Resampling.BICUBIC)
    background.paste(small, _place(background, small, rng))
    return background


def overlay(image: Image.Image, rng: Rng, other: Image.Image) -> Image.Image:
    """Lays another picture over 10 to 25 % of it, at an opacity of 0.7 to 1."""
    side = np.sqrt(rng.uniform(0.10, 0.25))
    small = ImageOps.fit(other, _scaled(image, side), Resampling.BICUBIC)
    opacity = Image.new("L", small.size, int(rng.integers(179, 256)))
    image = image.copy()
    image.paste(small, _place(image, small, rng), opacity)
    return image


EDITS: dict[str, Callable[[Image.Image, Rng], Image.Image]] = {
    "crop": crop,
    "rotate": rotate,
    "flip": flip,
    "JPEG": jpeg,
    "blur": blur,
    "colour": colour,
    "text": text,
}
PASTES: dict[str, Callable[[Image.Image, Rng, Image.Image], Image.Image]] = {
    "paste onto": paste_onto,
    "overlay": overlay,
}


def edit(image: Image.Image, rng: Rng, others: Sequence[Image.Image], count: int) -> tuple[Image.Image, list[str]]:
    """Applies `count` edits of different kinds, each kind as likely, in random order.

    Args:
      image: an RGB picture; not changed.
      rng: the only source of randomness: the same state gives the same result.
      others: pictures to paste onto and over `image`; they must copy nothing that is searched for.
      count: how many edits, 1 to 9.

    Returns:
      The edited RGB picture and the names of the edits (keys of EDITS and PASTES) as applied.
    """
    names = [str(name) for name in rng.choice([*EDITS, *PASTES], count, replace=False)]
    for name in names:
        if name in PASTES:
            image = PASTES[name](image, rng, others[int(rng.integers(len(others)))])
        else:
            image = EDITS[name](image, rng)
    return image, names


def _colour(rng: Rng) -> tuple[int, int, int]:
    red, green, blue = (int(c) for c in rng.integers(0, 256, 3))
    return red, green, blue


def _factor(rng: Rng) -> float:
    return rng.uniform(0.35, 0.6) if rng.integers(2) else rng.uniform(1.5, 2.2)


def _scaled(image: Image.Image, side: float) -> tuple[int, int]:
    return max(1, round(image.width * side)), max(1, round(image.height * side))


def _place(image: Image.Image, small: Image.Image, rng: Rng) -> tuple[int, int]:
    return (
        int(rng.integers(image.width - small.width + 1)),
        int(rng.integers(image.height - small.height + 1)),
    )
