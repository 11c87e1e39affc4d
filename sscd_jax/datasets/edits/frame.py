"""Edits that put something around the image: bars, a caption, the screen of an app, other images."""

import math
import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont, ImageOps
from PIL.Image import Resampling

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits.common import Color, Rng, graded, one_of, place, random_color, scaled
from sscd_jax.datasets.edits.overlay import CAPTIONS, heart_outline

_BLACK, _WHITE = (0, 0, 0), (255, 255, 255)


def pad(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Adds bars above and below, or left and right, that are black, of one color, or a blurred copy of the image.

    Together, the bars take 7 to 14 % (weak), 16 to 28 % (medium) or 30 to 48 % (strong) of the new area.
    """
    share = rng.uniform(*graded(strength, (0.07, 0.14), (0.16, 0.28), (0.30, 0.48)))
    across = bool(rng.integers(2))
    side = image.width if across else image.height
    more = max(1, round(side * share / (1 - share)))
    size = (image.width + more, image.height) if across else (image.width, image.height + more)
    bars = rng.integers(3)
    if bars == 2:
        padded = ImageOps.fit(image, size, Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(0.04 * min(size)))
        padded = ImageEnhance.Brightness(padded).enhance(0.8)
    else:
        padded = Image.new("RGB", size, random_color(rng) if bars else _BLACK)
    padded.paste(image, (more // 2, 0) if across else (0, more // 2))
    return padded


def caption(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Adds a caption above or below the image, or both, on plain bars as in memes.

    The height of all bars is 10 to 16 % (weak), 20 to 30 % (medium) or 35 to 55 % (strong) of the image's.
    """
    bars = max(1, round(rng.uniform(*graded(strength, (0.10, 0.16), (0.20, 0.30), (0.35, 0.55))) * image.height))
    paper, ink = (_WHITE, _BLACK) if rng.integers(3) else (_BLACK, _WHITE)
    above = (bars, 0, bars // 2)[rng.integers(3)]
    captioned = Image.new("RGB", (image.width, image.height + bars), paper)
    draw = ImageDraw.Draw(captioned)
    for top, height in ((0, above), (above + image.height, bars - above)):
        if height:
            words = CAPTIONS[rng.integers(len(CAPTIONS))]
            size, lines = max(_set(words, lines, image.width, height) for lines in (1, 2, 3))
            center = (image.width / 2, top + height / 2)
            draw.multiline_text(center, lines, ink, ImageFont.load_default(size), anchor="mm", align="center")
    captioned.paste(image, (0, above))
    return captioned


def _set(words: str, lines: int, width: int, height: int) -> tuple[float, str]:
    """Returns the largest font size at which the words fit into a bar in a number of lines, and these lines."""
    broken = textwrap.wrap(words, math.ceil(len(words) / lines) + 1)
    widest = max(ImageFont.load_default(100).getlength(line) for line in broken)
    return max(4.0, min(92 * width / widest, height / (1.35 * len(broken)))), "\n".join(broken)


def paste_onto(image: Image.Image, rng: Rng, strength: Strength, others: Sequence[Image.Image]) -> Image.Image:
    """Pastes the image onto another one, of whose area it covers a part.

    The part is 88 to 95 % (weak), 75 to 88 % (medium) or 50 to 80 % (strong).
    """
    other = one_of(others, rng)
    side = np.sqrt(rng.uniform(*graded(strength, (0.88, 0.95), (0.75, 0.88), (0.50, 0.80))))
    small = image.resize(scaled(image, side), Resampling.BICUBIC)
    background = ImageOps.fit(other, image.size, Resampling.BICUBIC)
    background.paste(small, place(background, small, rng))
    return background


def collage(image: Image.Image, rng: Rng, strength: Strength, others: Sequence[Image.Image]) -> Image.Image:
    """Puts the image beside others on a sheet of the same area, with plain lines between them.

    Beside one other image, it takes 68 to 78 % (weak) or 48 to 58 % (medium) of the sheet. In a corner of a sheet of
    two by two images, it takes 28 to 38 % (strong). It keeps its aspect ratio.
    """
    share = rng.uniform(*graded(strength, (0.68, 0.78), (0.48, 0.58), (0.28, 0.38)))
    if strength == "strong":
        across, down = np.sqrt(share), np.sqrt(share)
    else:
        across, down = (share, 1.0) if rng.integers(2) else (1.0, share)
    own = image.resize(scaled(image, np.sqrt(share)), Resampling.BICUBIC)
    width, height = max(1, round(own.width / across)), max(1, round(own.height / down))
    # Where the sheet is divided, and on which side of these lines the image is.
    x, left = (own.width, 0) if rng.integers(2) else (width - own.width,) * 2
    y, top = (own.height, 0) if rng.integers(2) else (height - own.height,) * 2
    sheet = Image.new("RGB", (width, height))
    sheet.paste(own, (left, top))
    corners = [(i, j) for i in sorted({0, x} - {width}) for j in sorted({0, y} - {height}) if (i, j) != (left, top)]
    which = rng.choice(len(others), len(corners), replace=len(others) < len(corners))
    for (i, j), number in zip(corners, which, strict=True):
        size = (width if i == x else x) - i, (height if j == y else y) - j
        sheet.paste(ImageOps.fit(others[number], size, Resampling.BICUBIC), (i, j))
    line = round(0.015 * min(width, height))
    ink = _WHITE if rng.integers(2) else _BLACK
    draw = ImageDraw.Draw(sheet)
    if 0 < x < width and line:
        draw.line((x, 0, x, height), ink, line)
    if 0 < y < height and line:
        draw.line((0, y, width, y), ink, line)
    return sheet


def screenshot(image: Image.Image, rng: Rng, strength: Strength) -> Image.Image:
    """Shows the image in an imaginary app on a phone, with bars, icons and lines of text.

    It takes 80 to 88 % (weak), 62 to 74 % (medium) or 46 to 58 % (strong) of the area.
    """
    share = rng.uniform(*graded(strength, (0.80, 0.88), (0.62, 0.74), (0.46, 0.58)))
    paper, ink, pale = (_WHITE, (30, 30, 30), (170, 170, 175)) if rng.integers(2) else (_BLACK, _WHITE, (110, 110, 115))
    # A phone is about twice as tall as wide, so a taller image also gets margins left and right.
    tall = image.height > 2.2 * share * image.width
    width = round(image.width / np.sqrt(share)) if tall else image.width
    height = max(image.height + 1, round(image.height / (np.sqrt(share) if tall else share)))
    bars = height - image.height
    above = round(bars * rng.uniform(0.35, 0.6))
    screen = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(screen)
    _bars_above(draw, width, above, rng, ink, pale)
    _bars_below(draw, width, above + image.height, height, rng, ink, pale)
    # The image is pasted last, because even the smallest letters may be too large for the bars.
    screen.paste(image, ((width - image.width) // 2, above))
    return screen


_NAMES = ("mia.travels", "daily.pics", "foto_fan_88", "the.real.leo", "sunny side", "news24h")


def _bars_above(draw: ImageDraw.ImageDraw, width: int, bottom: int, rng: Rng, ink: Color, pale: Color) -> None:
    """Draws the bar of the phone with clock and battery, and that of the app with a face, a name and a time."""
    status = min(0.35 * bottom, 0.07 * width)
    _write(draw, 0.04 * width, status / 2, f"{rng.integers(24)}:{rng.integers(60):02d}", ink, 0.7 * status)
    right, low = 0.96 * width, 0.75 * status
    draw.rectangle((right - status, 0.3 * status, right, low), outline=ink)
    draw.rectangle((right - status, 0.3 * status, right - status * rng.uniform(0.1, 0.9), low), ink)
    for bar in range(4):
        x = right - (2.6 - 0.3 * bar) * status
        draw.rectangle((x, low - (0.15 + 0.1 * bar) * status, x + 0.15 * status, low), ink)

    row = min(bottom - status, 0.15 * width)
    middle, radius = bottom - row / 2, 0.36 * row
    face, x = random_color(rng), 0.04 * width
    draw.ellipse((x, middle - radius, x + 2 * radius, middle + radius), face)
    x += 2.6 * radius
    _write(draw, x, middle - 0.16 * row, _NAMES[rng.integers(len(_NAMES))], ink, 0.32 * row)
    _write(draw, x, middle + 0.2 * row, f"{rng.integers(2, 24)} hours ago", pale, 0.24 * row)
    for dot in range(3):
        x, r = right - 0.22 * row * dot, 0.045 * row
        draw.ellipse((x - 2 * r, middle - r, x, middle + r), ink)


def _bars_below(
    draw: ImageDraw.ImageDraw, width: int, top: int, bottom: int, rng: Rng, ink: Color, pale: Color
) -> None:
    """Draws icons to like, answer, share and save, then lines of text, and at the bottom the three keys."""
    row = min(0.4 * (bottom - top), 0.13 * width)
    middle, r = top + row / 2, 0.28 * row
    stroke = max(1, round(0.06 * row))
    x = 0.04 * width + r
    liked = bool(rng.integers(2))
    draw.polygon(heart_outline(x, middle, r), (230, 50, 70) if liked else None, None if liked else ink, stroke)
    x += 3.2 * r
    draw.ellipse((x - r, middle - r, x + r, middle + 0.8 * r), outline=ink, width=stroke)
    x += 3.2 * r
    draw.polygon([(x - r, middle - r), (x + r, middle), (x - r, middle + r)], None, ink, stroke)
    x = 0.96 * width - r
    keep = [(x - 0.7 * r, middle - r), (x + 0.7 * r, middle - r), (x + 0.7 * r, middle + r), (x, middle + 0.3 * r)]
    draw.polygon([*keep, (x - 0.7 * r, middle + r)], None, ink, stroke)

    keys = min(0.2 * (bottom - top), 0.1 * width)
    line = min(0.25 * (bottom - top), 0.06 * width)
    texts = [(f"{rng.integers(10, 9999):,} likes", ink)]
    for _ in range(8):
        texts.append((f"{_NAMES[rng.integers(len(_NAMES))]}  {CAPTIONS[rng.integers(len(CAPTIONS))]}", ink))
    for number, (words, color) in enumerate(texts):
        y = top + row + (number + 0.5) * 1.35 * line
        if y + 0.6 * line < bottom - keys:
            _write(draw, 0.04 * width, y, words, color if number < 3 else pale, 0.75 * line)

    r, y = 0.22 * keys, bottom - keys / 2
    draw.polygon([(0.25 * width - r, y), (0.25 * width + r, y - r), (0.25 * width + r, y + r)], pale)
    draw.ellipse((0.5 * width - r, y - r, 0.5 * width + r, y + r), pale)
    draw.rectangle((0.75 * width - r, y - r, 0.75 * width + r, y + r), pale)


def _write(draw: ImageDraw.ImageDraw, x: float, y: float, words: str, ink: Color, size: float) -> None:
    draw.text((x, y), words, ink, ImageFont.load_default(max(4.0, size)), anchor="lm")
