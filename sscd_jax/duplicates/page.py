"""Writes duplicates.html and the pages after it, which show groups of duplicate images; see `page_files`."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sscd_jax.duplicates.options import Kind
from sscd_jax.duplicates.page_files import histogram, write_pages_of
from sscd_jax.duplicates.thumbnails import Load

SHOWN = 12  # images of a group


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
        key: what the image is read by, if that is not the id, as where two sets have the same ids.
    """

    id: str
    width: int | None
    height: int | None
    bytes: int | None
    similarity: float | None
    score: float | None
    kind: Kind
    key: str | None = None

    @property
    def image(self) -> str:
        """What the image is read by."""
        return self.id if self.key is None else self.key


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
    kept: str
    background: bool
    unreadable: int
    weights: str
    preset: str
    scores: Sequence[float] | np.ndarray = field(repr=False)


def write_pages(folder: Path, groups: Iterable[PageGroup], count: int, summary: Summary, load: Load) -> list[Path]:
    """Writes the pages, and removes those of an earlier run that had more.

    Args:
        folder: the folder, which exists. The commands on the page name it as it is given here.
        groups: the groups in the order in which they are shown, the most doubtful first.
        count: the number of groups.
        summary: what the first page says about all of them.
        load: a function that returns the encoded bytes of the image of a key, and raises OSError or ValueError where it
            cannot. Several threads call it.

    Returns:
        The paths of the pages.

    Raises:
        ValueError: `groups` has not `count` groups, or a file of the name of a page is not ours.
        OSError: a page cannot be written.
    """
    values = {
        "summary": summary,
        "bars": histogram(summary.scores, summary.threshold),
        "folder": shlex.quote(str(folder)),
        "relative": not folder.is_absolute(),
        "shown_members": _shown,
    }
    return write_pages_of(folder, "duplicates", "page.html.jinja", groups, count, load, _images, values)


def _images(group: PageGroup) -> list[str]:
    return [member.image for member in _shown(group)]


def _shown(group: PageGroup) -> list[Member]:
    """Returns the kept image and the others, the most doubtful first; at most SHOWN."""
    kept, *others = group.members
    return [kept, *sorted(others, key=_certainty)[: SHOWN - 1]]


def _certainty(member: Member) -> tuple[bool, float]:
    return member.kind != "near", 1.0 if member.score is None else member.score
