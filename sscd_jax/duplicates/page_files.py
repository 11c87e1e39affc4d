"""Writes pages of images in numbered HTML files: the first one is NAME.html, the next NAME-2.html, and so on.

Styles and thumbnails are inside the files, there is no script, and a content security policy keeps the pages from
loading anything. The thumbnails of one page at a time are in memory, so that there may be any number of items.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import jinja2
import numpy as np
from markupsafe import Markup
from tqdm import tqdm

from sscd_jax.data.names import printable
from sscd_jax.duplicates.thumbnails import Load, Thumbnails
from sscd_jax.files import check_file, write_text

PER_PAGE = 40
GENERATOR = '<meta name="generator" content="sscd_jax">'  # in base.html.jinja

_BINS = 25
T = TypeVar("T")


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram: the scores from `low` to `high`, their number, and the height of the bar in percent."""

    low: float
    high: float
    count: int
    height: float


def page_name(page: int, name: str = "duplicates") -> str:
    """Returns the name of the file of a page; the first page is 1."""
    return f"{name}.html" if page == 1 else f"{name}-{page}.html"


def write_pages_of(
    folder: Path,
    name: str,
    template: str,
    items: Iterable[T],
    count: int,
    load: Load,
    images: Callable[[T], Iterable[str]],
    values: Mapping[str, Any],
) -> list[Path]:
    """Writes the pages, and removes those of an earlier run that had more.

    Args:
        folder: the folder, which exists.
        name: the name of the pages.
        template: the file of the template. Besides `values`, it gets the `items` of the page, the `thumbnails` of their
            images, the `page`, the number of `pages`, the `numbers` of pages to link to, and the `first` item.
        items: what the pages show, in order.
        count: the number of items.
        load: a function that returns the encoded bytes of an image, and raises OSError or ValueError where it cannot.
            Several threads call it.
        images: a function from an item to its images, as `load` takes them.
        values: further values of the template.

    Returns:
        The paths of the pages.

    Raises:
        ValueError: there are not `count` items, or a file of the name of a page is not ours.
        OSError: a page cannot be written.
    """
    paths = [folder / page_name(page, name) for page in range(1, max(-(-count // PER_PAGE), 1) + 1)]
    for path in paths:
        check_file(path, _check_ours)
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_template),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["file_size"] = _file_size
    opened = environment.get_template(template, globals={"page_name": partial(page_name, name=name)})
    left = iter(items)
    shown = tqdm(paths, desc="pages", unit="page", delay=1, dynamic_ncols=True, leave=False)
    with Thumbnails(load) as thumbnails:
        for page, path in enumerate(shown, 1):
            some = list(islice(left, PER_PAGE))
            if len(some) != min(PER_PAGE, count - (page - 1) * PER_PAGE):
                raise ValueError(f"there are fewer items than {count}")
            place = {
                "page": page,
                "pages": len(paths),
                "first": (page - 1) * PER_PAGE + 1,
                "numbers": _page_numbers(page, len(paths)),
            }
            small = thumbnails.of(image for item in some for image in images(item))
            write_text(path, opened.render(values, items=some, count=count, thumbnails=small, **place))
    if next(left, None) is not None:
        raise ValueError(f"there are more items than {count}")
    _remove_after(folder, name, len(paths))
    return paths


def histogram(scores: Sequence[float] | np.ndarray, threshold: float) -> list[Bar]:
    """Counts scores in bins of equal width, from the threshold or a lower score to the highest."""
    scores = np.asarray(scores, np.float64)
    if not scores.size:
        return []
    low, high = min(threshold, float(scores.min())), float(scores.max())
    counts, edges = np.histogram(scores, _BINS, (low, max(high, low + 0.01)))
    heights = np.maximum(100 * counts / counts.max(), 2.0 * (counts > 0))
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), heights.tolist(), strict=True)
    return [Bar(*row) for row in rows]


def _template(name: str) -> str:
    return files("sscd_jax.duplicates").joinpath(name).read_text(encoding="utf-8")


def _page_numbers(page: int, pages: int) -> list[int | None]:
    """Returns the pages to link to: the first, the last, and those near this one, with None for a gap."""
    numbers: list[int | None] = []
    for number in sorted({1, pages, *range(max(page - 2, 1), min(page + 2, pages) + 1)}):
        if numbers and numbers[-1] != number - 1:
            numbers.append(None)
        numbers.append(number)
    return numbers


def _printable(value: object) -> object:
    """Makes names harmless that have control characters, or marks of the direction of text."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _file_size(size: int) -> str:
    """Returns a number of bytes in a readable unit.

    Examples:
        >>> _file_size(999), _file_size(3_449_000), _file_size(12_000_000)
        ('999 bytes', '3.4 MB', '12 MB')
    """
    if size < 1000:
        return "1 byte" if size == 1 else f"{size} bytes"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB", "PB"):
        value /= 1000
        if value < 999.5 or unit == "PB":
            break
    return f"{value:.1f} {unit}" if value < 9.95 else f"{value:.0f} {unit}"


def _check_ours(path: Path) -> None:
    with path.open("rb") as file:
        if GENERATOR.encode() not in file.read(4096):
            raise ValueError("another program wrote it")


def _remove_after(folder: Path, name: str, pages: int) -> None:
    """Removes pages of higher numbers that this package wrote."""
    for path in folder.iterdir():
        found = re.fullmatch(rf"{name}-([1-9]\d*)\.html", path.name)
        if found and int(found[1]) > pages and path.is_file() and not path.is_symlink():
            try:
                _check_ours(path)
            except ValueError:
                continue
            path.unlink()
