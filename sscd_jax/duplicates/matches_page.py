"""Writes pages that show images beside what was found for them: matches.html and overlap.html; see `page_files`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sscd_jax.duplicates.options import Kind
from sscd_jax.duplicates.page_files import histogram, write_pages_of
from sscd_jax.duplicates.thumbnails import Load

SHOWN = 11  # matches of an image, which fill two lines together with it


@dataclass(frozen=True)
class Match:
    """What was found for an image.

    Attributes:
        id: its id.
        key: what it is read by.
        similarity: the similarity of both images.
        score: the similarity less background; None if there is none.
        kind: "bytes" if both files are equal, "pixels" if only the pixels are, "near" if it is not known or they are
            not.
        is_copy: whether it counts as a copy.
    """

    id: str
    key: str
    similarity: float
    score: float | None
    kind: Kind
    is_copy: bool


@dataclass(frozen=True)
class Row:
    """An image and what was found for it.

    Attributes:
        number: its number on the pages.
        id: its id.
        key: what it is read by.
        matches: what is shown for it, at most `SHOWN`, the best first.
        hidden: the number of matches that are not shown.
    """

    number: int
    id: str
    key: str
    matches: Sequence[Match]
    hidden: int = 0


@dataclass(frozen=True)
class About:
    """What the first page says about all images together.

    Attributes:
        title: the title of the pages.
        intro: a sentence or two that say what is shown.
        totals: up to four numbers, and what each counts.
        query, copy: what an image is called, and what a copy of it.
        row, rows: what a row is called, and several, such as "Query" and "Queries".
        files: sentences that say which files have all results.
        threshold: the lowest score of a copy.
        background: whether scores are similarities less background, and not the similarities themselves.
        unreadable: the number of images that could not be read.
        weights, preset: the names of the weights and the preset.
        scores: the scores that the histogram counts, and what they are scores of.
    """

    title: str
    intro: str
    totals: Sequence[tuple[str, str]]
    query: str
    copy: str
    row: str
    rows: str
    files: str
    threshold: float
    background: bool
    unreadable: int
    weights: str
    preset: str
    scores: tuple[np.ndarray, str] = field(repr=False)


def write_matches(folder: Path, name: str, rows: Iterable[Row], count: int, about: About, load: Load) -> list[Path]:
    """Writes the pages, and removes those of an earlier run that had more.

    Args:
        folder: the folder, which exists.
        name: the name of the pages.
        rows: the images in the order in which they are shown.
        count: the number of rows.
        about: what the first page says about all of them.
        load: a function that returns the encoded bytes of the image of a key, and raises OSError or ValueError where it
            cannot. Several threads call it.

    Returns:
        The paths of the pages.

    Raises:
        ValueError: there are not `count` rows, or a file of the name of a page is not ours.
        OSError: a page cannot be written.
    """
    scores, what = about.scores
    values = {"summary": about, "bars": histogram(scores, about.threshold), "what": what}
    return write_pages_of(folder, name, "matches.html.jinja", rows, count, load, _images, values)


def _images(row: Row) -> list[str]:
    return [row.key, *(match.key for match in row.matches)]
