"""Edits that put something over the image: text, stickers, another image."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.Image import Resampling

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits.common import Rng, graded, one_of, place, random_color, scaled

CAPTIONS = (
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


def text(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Writes captions, of which half are on a bar of one color.

    There is one, with a height of 5 to 8 % of the short side (weak), or one or two of 7 to 12 % (medium) or 8 to 18 %
    (strong).
    """
    most = graded(strength, 1, 2, 2)
    image = image.copy()
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, most + 1)):
        height = rng.uniform(*graded(strength, (0.05, 0.08), (0.07, 0.12), (0.08, 0.18)))
        font = ImageFont.load_default(max(8, height * min(image.size)))
        caption = CAPTIONS[rng.integers(len(CAPTIONS))]
        left, top, right, bottom = draw.textbbox((0, 0), caption, font)
        # A long caption may extend beyond the right edge.
        x = rng.uniform(0, max(1, image.width - (right - left)))
        y = rng.uniform(0, max(1, image.height - (bottom - top)))
        ink = random_color(rng)
        if rng.integers(2):
            bar = (x + left - 4, y + top - 4, x + right + 4, y + bottom + 4)
            draw.rectangle(bar, fill=tuple(255 - c for c in ink))
        draw.text((x, y), caption, ink, font)
    return image


def overlay(image: Image.Image, rng: Rng, strength: Strength, others: Sequence[Image.Image]) -> Image.Image:
    """Puts another image over a part of the area, with an opacity of 0.7 to 1.

    The part is 3 to 6 % (weak), 6 to 12 % (medium) or 10 to 25 % (strong).
    """
    other = one_of(others, rng)
    side = np.sqrt(rng.uniform(*graded(strength, (0.03, 0.06), (0.06, 0.12), (0.10, 0.25))))
    small = ImageOps.fit(other, scaled(image, side), Resampling.BICUBIC)
    opacity = Image.new("L", small.size, int(rng.integers(179, 256)))
    image = image.copy()
    image.paste(small, place(image, small, rng), opacity)
    return image


def stickers(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Adds stickers such as faces, hearts and stars, rotated by up to 30 degrees.

    There are 1 or 2 with a side of 13 to 18 % of the short side (weak), 2 to 4 of 18 to 25 % (medium), or 4 to 6 of 24
    to 34 % (strong).
    """
    least, most = graded(strength, (1, 2), (2, 4), (4, 6))
    sides = graded(strength, (0.13, 0.18), (0.18, 0.25), (0.24, 0.34))
    image = image.copy()
    for _ in range(rng.integers(least, most + 1)):
        drawn = _STICKERS[rng.integers(len(_STICKERS))](rng)
        side = max(1, round(rng.uniform(*sides) * min(image.size)))
        drawn = drawn.rotate(rng.uniform(-30, 30), Resampling.BICUBIC)
        small = drawn.resize((side, side), Resampling.LANCZOS)
        image.paste(small.convert("RGB"), place(image, small, rng), small.getchannel("A"))
    return image


# The side of the square that a sticker is drawn on.
_SIDE = 256
_YELLOW, _DARK, _RED, _WHITE = (255, 204, 51), (70, 45, 20), (226, 38, 54), (255, 255, 255)


def _blank() -> tuple[Image.Image, ImageDraw.ImageDraw]:
    # Transparent white, so that resizing does not darken the edges.
    sticker = Image.new("RGBA", (_SIDE, _SIDE), (255, 255, 255, 0))
    return sticker, ImageDraw.Draw(sticker)


def _face(rng: Rng) -> Image.Image:
    """Draws a yellow face whose eyes are open, closed, hearts or behind sunglasses, and which smiles or laughs."""
    sticker, draw = _blank()
    draw.ellipse((20, 20, 236, 236), _YELLOW, (214, 150, 20), 6)
    eyes = rng.integers(4)
    if eyes == 3:
        draw.line((40, 88, 216, 88), _DARK, 12)
    for x in (90, 166):
        if eyes == 0:
            draw.ellipse((x - 14, 80, x + 14, 120), _DARK)
        elif eyes == 1:
            draw.arc((x - 24, 88, x + 24, 130), 190, 350, _DARK, 12)
        elif eyes == 2:
            draw.polygon(heart_outline(x, 100, 34), _RED)
        else:
            draw.rounded_rectangle((x - 34, 84, x + 34, 126), 16, _DARK)
    if rng.integers(2):
        draw.arc((72, 100, 184, 196), 20, 160, _DARK, 12)
    else:
        draw.pieslice((70, 90, 186, 214), 10, 170, _DARK)
        draw.pieslice((100, 150, 156, 208), 20, 160, _RED)
    return sticker


def _heart(rng: Rng) -> Image.Image:
    sticker, draw = _blank()
    draw.polygon(heart_outline(128, 120, 110), (_RED, (240, 90, 160), (150, 60, 200), (40, 40, 40))[rng.integers(4)])
    draw.ellipse((60, 60, 96, 90), (255, 200, 205))
    return sticker


def _star(rng: Rng) -> Image.Image:
    """Draws a star with five points, or one with many points and a word in it."""
    sticker, draw = _blank()
    splash = bool(rng.integers(2))
    points, inner = (12, 86) if splash else (5, 50)
    turns = np.arange(2 * points) * np.pi / points - np.pi / 2
    radius = np.where(np.arange(2 * points) % 2 == 0, 120, inner)
    corners = np.stack([128 + radius * np.cos(turns), 128 + radius * np.sin(turns)], axis=1)
    draw.polygon([tuple(c) for c in corners.tolist()], _RED if splash else _YELLOW, _DARK, 5)
    if splash:
        word = ("WOW!", "LOL", "NEW", "SALE")[rng.integers(4)]
        draw.text((128, 128), word, _WHITE, ImageFont.load_default(54), anchor="mm", stroke_width=2)
    return sticker


def _bubble(rng: Rng) -> Image.Image:
    """Draws a speech bubble."""
    sticker, draw = _blank()
    draw.polygon([(70, 165), (130, 165), (78, 232)], _WHITE, _DARK, 5)
    draw.ellipse((10, 30, 246, 190), _WHITE, _DARK, 5)
    word = ("haha", "omg", "???", "nice!")[rng.integers(4)]
    draw.text((128, 110), word, _DARK, ImageFont.load_default(64), anchor="mm")
    return sticker


def heart_outline(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Returns the corners of a polygon with the shape of a heart, around (x, y)."""
    t = np.linspace(0, 2 * np.pi, 60)
    across = np.sin(t) ** 3
    down = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
    return list(zip((x + radius * across).tolist(), (y + radius * down).tolist(), strict=True))


# Faces are listed twice, because most stickers are faces.
_STICKERS = (_face, _face, _heart, _star, _bubble)
