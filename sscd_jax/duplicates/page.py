"""Writes duplicates.html and the pages after it, which show groups of duplicate images.

Styles and thumbnails are inside the files, there is no script, and a content security policy keeps the pages from
loading anything. The thumbnails of one page at a time are in memory, so that there may be any number of groups.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Literal

import jinja2
import numpy as np
from markupsafe import Markup
from tqdm import tqdm

from sscd_jax.data.names import printable
from sscd_jax.duplicates.thumbnails import Load, Thumbnails
from sscd_jax.files import check_file, write_text

GROUPS_PER_PAGE = 40
SHOWN = 12  # images of a group
GENERATOR = '<meta name="generator" content="sscd_jax">'  # in page.html.jinja

_BINS = 25
_FILE = re.compile(r"duplicates-([1-9]\d*)\.html")


@dataclass(frozen=True)
class Member:
    """An image of a group.

    Attributes:
        id: its id.
        width, height: its size in pixels; None if it is not known.
        bytes: the size of its file; None if it is not known.
        similarity: the similarity to the kept image; None for the kept image itself.
        score: the similarity less background, which the threshold applies to; None for the kept image itself.
        kind: how it matches the kept image: "bytes" if the files are equal, "pixels" if only the pixels are, "near" if
            the score says so; "" for the kept image itself.
    """

    id: str
    width: int | None
    height: int | None
    bytes: int | None
    similarity: float | None
    score: float | None
    kind: Literal["bytes", "pixels", "near", ""]


@dataclass(frozen=True)
class PageGroup:
    """A group of duplicates.

    Attributes:
        number: its number.
        members: its images, the kept one first.
        lowest: the lowest similarity of two images of the group; None if it is not known.
    """

    number: int
    members: Sequence[Member]
    lowest: float | None


@dataclass(frozen=True)
class Summary:
    """What the first page says about all groups together.

    Attributes:
        images: the number of images that were compared.
        removed: the number of images to remove.
        bytes_freed: the size of their files.
        threshold: the lowest score of a duplicate.
        meaning: sentences that say what the threshold promises; "" if nothing is known.
        kept: a sentence that says how the image that is kept is chosen in each group; "" if nothing is to be said.
        background: whether scores are similarities less background, and not the similarities themselves.
        unreadable: the number of images that could not be read.
        weights, preset: the names of the weights and the preset.
        scores: the scores of the images to remove, in any order.
    """

    images: int
    removed: int
    bytes_freed: int
    threshold: float
    meaning: str
    kept: str
    background: bool
    unreadable: int
    weights: str
    preset: str
    scores: Sequence[float] | np.ndarray = field(repr=False)


@dataclass(frozen=True)
class Bar:
    """A bar of the histogram: the scores from `low` to `high`, their number, and the height of the bar in percent."""

    low: float
    high: float
    count: int
    height: float


def page_name(page: int) -> str:
    """Returns the name of the file of a page; the first page is 1."""
    return "duplicates.html" if page == 1 else f"duplicates-{page}.html"


def write_pages(folder: Path, groups: Iterable[PageGroup], count: int, summary: Summary, load: Load) -> list[Path]:
    """Writes the pages, and removes those of an earlier run that had more.

    Args:
        folder: the folder, which exists. The commands on the page name it as it is given here.
        groups: the groups in the order in which they are shown, the most doubtful first.
        count: the number of groups.
        summary: what the first page says about all of them.
        load: a function that returns the encoded bytes of the image of an id, and raises OSError or ValueError where it
            cannot. Several threads call it.

    Returns:
        The paths of the pages.

    Raises:
        ValueError: `groups` has not `count` groups, or a file of the name of a page is not ours.
        OSError: a page cannot be written.
    """
    paths = [folder / page_name(page) for page in range(1, max(-(-count // GROUPS_PER_PAGE), 1) + 1)]
    for path in paths:
        check_file(path, _check_ours)
    environment = jinja2.Environment(
        autoescape=True, finalize=_printable, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["file_size"] = _file_size
    source = files("sscd_jax.duplicates").joinpath("page.html.jinja").read_text(encoding="utf-8")
    template = environment.from_string(source, globals={"page_name": page_name, "shown_members": _shown})
    common = {
        "summary": summary,
        "count": count,
        "pages": len(paths),
        "bars": _histogram(summary),
        "folder": shlex.quote(str(folder)),
        "relative": not folder.is_absolute(),
    }
    left = iter(groups)
    shown = tqdm(paths, desc="pages", unit="page", delay=1, dynamic_ncols=True, leave=False)
    with Thumbnails(load) as thumbnails:
        for page, path in enumerate(shown, 1):
            some = list(islice(left, GROUPS_PER_PAGE))
            if len(some) != min(GROUPS_PER_PAGE, count - (page - 1) * GROUPS_PER_PAGE):
                raise ValueError(f"there are fewer groups than {count}")
            images = thumbnails.of(member.id for group in some for member in _shown(group))
            place = {
                "page": page,
                "first": (page - 1) * GROUPS_PER_PAGE + 1,
                "numbers": _page_numbers(page, len(paths)),
            }
            write_text(path, template.render(common, groups=some, thumbnails=images, **place))
    if next(left, None) is not None:
        raise ValueError(f"there are more groups than {count}")
    _remove_after(folder, len(paths))
    return paths


def _shown(group: PageGroup) -> list[Member]:
    """Returns the kept image and the others, the most doubtful first; at most SHOWN."""
    kept, *others = group.members
    return [kept, *sorted(others, key=_certainty)[: SHOWN - 1]]


def _certainty(member: Member) -> tuple[bool, float]:
    return member.kind != "near", 1.0 if member.score is None else member.score


def _histogram(summary: Summary) -> list[Bar]:
    """Counts the scores in bins of equal width, from the threshold or a lower score to the highest."""
    scores = np.asarray(summary.scores, np.float64)
    if not scores.size:
        return []
    low, high = min(summary.threshold, float(scores.min())), float(scores.max())
    counts, edges = np.histogram(scores, _BINS, (low, max(high, low + 0.01)))
    heights = np.maximum(100 * counts / counts.max(), 2.0 * (counts > 0))
    rows = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), heights.tolist(), strict=True)
    return [Bar(*row) for row in rows]


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


def _remove_after(folder: Path, pages: int) -> None:
    """Removes pages of higher numbers that this package wrote."""
    for path in folder.iterdir():
        found = _FILE.fullmatch(path.name)
        if found and int(found[1]) > pages and path.is_file() and not path.is_symlink():
            try:
                _check_ours(path)
            except ValueError:
                continue
            path.unlink()
