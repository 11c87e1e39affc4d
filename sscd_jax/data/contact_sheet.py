"""Draws contact sheets: rows of images of one size, with a caption below each."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 224  # side of a cell, in pixels
_FONT_SIZE, _GAP = 11, 6  # font size of captions, and space between cells, in pixels
_CHARACTERS = 36  # longest line of a caption


def fit_on_square(image: Image.Image) -> np.ndarray:
    """Reduces an image in place to fit a cell, and centers it on white: uint8 [SIDE, SIDE, 3]."""
    image.thumbnail((SIDE, SIDE))
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(square)


def draw_sheet(cells: Sequence[Sequence[np.ndarray]], captions: Sequence[Sequence[Sequence[str]]]) -> Image.Image:
    """Draws the sheet.

    Args:
        cells: rows of square images, uint8 [S, S, 3]; every row has the same number of images.
        captions: the caption of each image, in parts that are joined by commas.
    """
    font, line = ImageFont.load_default(_FONT_SIZE), _FONT_SIZE + 2
    lines = [[textwrap.wrap(", ".join(text), _CHARACTERS) for text in row] for row in captions]
    heights = [SIDE + line * max(map(len, row)) + 2 * _GAP for row in lines]
    sheet = Image.new("RGB", (len(cells[0]) * (SIDE + _GAP) + _GAP, sum(heights) + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (images, texts) in enumerate(zip(cells, lines, strict=True)):
        for column, (pixels, text) in enumerate(zip(images, texts, strict=True)):
            x, y = _GAP + column * (SIDE + _GAP), _GAP + sum(heights[:row])
            sheet.paste(Image.fromarray(pixels).resize((SIDE, SIDE)), (x, y))
            draw.multiline_text((x, y + SIDE + 2), "\n".join(text), fill="black", font=font, spacing=2)
    return sheet
