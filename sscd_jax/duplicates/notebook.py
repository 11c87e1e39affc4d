"""What results show of themselves in a notebook: lines of small images."""

import html
from collections.abc import Iterable

from sscd_jax.data.names import printable

Cell = tuple[str, str, str]  # the thumbnail as a data URI, or ""; the id of the image; what is said of it


def lines_of_images(title: str, lines: Iterable[Iterable[Cell]]) -> str:
    """Returns HTML with a title and lines of images."""
    rows = ("".join(map(_cell, cells)) for cells in lines)
    return f"<p>{_text(title)}</p>" + "".join(f"<table><tr>{row}</tr></table>" for row in rows)


def _cell(cell: Cell) -> str:
    thumbnail, one, label = cell
    image = f'<img src="{thumbnail}" style="max-height:110px">' if thumbnail else ""
    return f"<td style='text-align:center'>{image}<br>{_text(one)}<br>{_text(label)}</td>"


def _text(text: str) -> str:
    return html.escape(printable(text))
