"""A contact sheet: rows of images of one size, captions below each."""

import textwrap
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 224  # pixels, of a cell
_FONT_SIZE, _GAP = 11, 6  # pixels: of captions, between cells
_CHARACTERS = 36  # in a line of a caption


def fitted(image: Image.Image) -> np.ndarray:
    """The whole image, which may be changed, on a square of white."""
    image.thumbnail((SIDE, SIDE))
    square = Image.new("RGB", (SIDE, SIDE), "white")
    square.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return np.asarray(square)


def draw_sheet(cells: Sequence[Sequence[np.ndarray]], captions: Sequence[Sequence[Sequence[str]]]) -> Image.Image:
    """The sheet of square uint8 images; of a caption the parts are set one after the other, with commas."""
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
