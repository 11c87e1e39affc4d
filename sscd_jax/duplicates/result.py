"""What was found in a collection: groups, what to keep and what to remove, as lists, tables and pages."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sscd_jax.data.image_source import Source
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates import tables
from sscd_jax.duplicates.collect import collect
from sscd_jax.duplicates.find import Collection, Copies, find_groups, lowest_similarity, pairs
from sscd_jax.duplicates.image_files import Seen
from sscd_jax.duplicates.notebook import Cell, lines_of_images
from sscd_jax.duplicates.options import KINDS, Options
from sscd_jax.duplicates.page import Member, PageGroup, Summary, write_pages
from sscd_jax.duplicates.thumbnails import Thumbnails
from sscd_jax.provenance import Provenance
from sscd_jax.search.calibration import Calibration
from sscd_jax.string_list import Lookup

if TYPE_CHECKING:
    import pandas as pd

_KEPT = {
    "largest": "It has the most pixels, or else the most bytes.",
    "first": "It comes first in the source.",
    "oldest": "Its file was changed longest ago.",
}
_SHOWN, _SHOWN_IMAGES = 10, 6  # groups in a notebook, and images of each
_COLUMNS = ("id_a", "id_b", "similarity", "score", "kind")


@dataclass(frozen=True)
class Group:
    """The images of a group, the kept one first, and the lowest similarity of two of them."""

    images: np.ndarray
    lowest: float


def doubtful_first(collection: Collection, groups: Iterable[np.ndarray], score: np.ndarray) -> list[Group]:
    """Sorts groups so that the most doubtful ones come first: those whose worst image has the lowest score.

    Args:
        collection: the images.
        groups: the images of each group, int64 [n], the kept one first.
        score: float64 [N], the score of each image with the one that is kept; NaN where there is none.
    """
    found: list[tuple[float, Group]] = []
    for images in groups:
        rows = np.unique(collection.row[images])
        group = Group(images, lowest_similarity(collection.scores, rows[rows >= 0]))
        found.append((float(np.nanmin(np.append(score[images], 2))), group))  # 2 if all are NaN
    return [group for _, group in sorted(found, key=lambda one: (one[0], one[1].images[0]))]


@dataclass(frozen=True)
class Duplicates:
    """The duplicates in a collection; `sscd_jax.find_duplicates` makes it.

    Attributes:
        source: the images, N.
        seen: what is known of the file of each, or None.
        collection: their descriptors, and which have the same bytes or pixels.
        copies: the image that is kept for each.
        options: how they were found.
        least: the threshold.
        provenance: that of the descriptors; None if there are none.

    Examples:
        >>> found = sscd_jax.find_duplicates("photos")
        >>> found.groups
        [['a', 'copies/a_small'], ['c', 'd']]
        >>> found.remove
        ['copies/a_small', 'd']
    """

    source: Source
    seen: Sequence[Seen | None]
    collection: Collection
    copies: Copies
    options: Options
    least: float
    provenance: Provenance | None

    def __repr__(self) -> str:
        groups, removed = len(self.sorted_groups), int((~self.copies.is_kept).sum())
        images = "1 image" if len(self.source) == 1 else f"{len(self.source)} images"
        return f"<sscd_jax.Duplicates: {images}, {groups} group{'s' * (groups != 1)}, {removed} to remove>"

    @cached_property
    def sorted_groups(self) -> list[Group]:
        """The groups of at least two images, the most doubtful first: those whose worst image has the lowest score."""
        return doubtful_first(self.collection, self.copies.groups(), self.copies.score)

    @property
    def groups(self) -> list[list[str]]:
        """The ids of each group, the kept image first; the most doubtful groups come first."""
        return [[self.source.ids[i] for i in group.images.tolist()] for group in self.sorted_groups]

    @property
    def keep(self) -> list[str]:
        """The ids of the images to keep, which are all that could be read and are no duplicates of a kept one."""
        return [self.source.ids[i] for i in np.flatnonzero(self.is_good).tolist()]

    @property
    def remove(self) -> list[str]:
        """The ids of the images to remove."""
        return [self.source.ids[i] for i in np.flatnonzero(~self.copies.is_kept).tolist()]

    @property
    def is_good(self) -> np.ndarray:
        """Whether each image is kept and could be read, bool [N]."""
        return self.copies.is_kept & (self.collection.row >= 0)

    @cached_property
    def pairs(self) -> dict[str, np.ndarray]:
        """All pairs at or above the threshold: the columns id_a, id_b, similarity, score and kind, each [P].

        Of images with the same pixels, each is paired with the preferred one alone, which stands for all.
        """
        parts = list(pairs(self.collection, self.least))
        one, other, similarity, score, kind = (np.concatenate(part) for part in zip(*parts, strict=True))
        ids = [sorted((self.source.ids[i], self.source.ids[j])) for i, j in zip(one, other, strict=True)]
        names = np.array(ids, object).reshape(-1, 2)
        return dict(
            zip(_COLUMNS, (names[:, 0], names[:, 1], similarity, score, np.array(KINDS, object)[kind]), strict=True)
        )

    def to_pandas(self) -> "pd.DataFrame":
        """Returns the groups as a table with the columns of groups.csv, a row for each image of a group.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        rows = pd.DataFrame(list(self.rows()), columns=list(tables.GROUPS))
        rows["keep"] = rows["keep"] == "true"
        numbers = ["similarity_to_kept", "lowest_similarity_in_group", "width", "height", "bytes"]
        return rows.assign(**{name: pd.to_numeric(rows[name]) for name in numbers})

    def to_html(self, folder: Path | str) -> Path:
        """Writes pages that show the groups, and returns the first one, FOLDER/duplicates.html.

        Raises:
            OSError: a page cannot be written.
            ValueError: a file of that name is not one of these pages.
        """
        Path(folder).mkdir(parents=True, exist_ok=True)
        return self.write_pages(Path(folder), "unknown" if self.provenance is None else self.provenance.weights[:12])[0]

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the first groups, with small images."""
        shown = [group.images[:_SHOWN_IMAGES].tolist() for group in self.sorted_groups[:_SHOWN]]
        with Thumbnails(self.load) as thumbnails:
            images = thumbnails.of(self.source.ids[i] for group in shown for i in group)

        def cell(i: int) -> Cell:
            one = self.source.ids[i]
            label = "keep" if self.copies.kept[i] == i else f"score {self.copies.score[i]:.3f}"
            return images[one], one, label

        return lines_of_images(repr(self), (map(cell, group) for group in shown))

    def load(self, one: str) -> bytes:
        """Returns the encoded bytes of the image of an id."""
        return self.source.load(int(self._lookup.find([one])[0]))

    @cached_property
    def _lookup(self) -> Lookup:
        return Lookup(self.source.ids)

    def rows(self) -> Iterator[list[Any]]:
        """Yields the lines of groups.csv."""
        for number, group in enumerate(self.sorted_groups, 1):
            for i in group.images.tolist():
                yield tables.group_row(
                    number,
                    self.source.ids[i],
                    self.copies.similarity[i],
                    group.lowest,
                    self.seen[i],
                    keep=bool(self.copies.kept[i] == i),
                )

    def write_pages(self, folder: Path, weights: str, unreadable: int = 0) -> list[Path]:
        """Writes the pages; see `page.write_pages`.

        Args:
            folder: the folder, which exists.
            weights: the name of the weights.
            unreadable: the number of images that could not be read, which errors.jsonl in the folder lists.
        """
        removed = np.flatnonzero(~self.copies.is_kept)
        score = self.copies.score[removed]
        head = Summary(
            images=len(self.source) - unreadable,
            removed=len(removed),
            bytes_freed=self.bytes_of(removed),
            threshold=self.least,
            kept=_KEPT.get(self.options.keep, ""),
            background=self.options.score == "background",
            unreadable=unreadable,
            weights=weights,
            preset=self.provenance.preset if self.provenance else "",
            scores=score[np.isfinite(score)],
        )
        return write_pages(folder, self._shown(), len(self.sorted_groups), head, self.load)

    def bytes_of(self, images: np.ndarray) -> int:
        """Returns the size of the files of some images."""
        return sum(file.bytes or 0 for i in images.tolist() if (file := self.seen[i]))

    def _shown(self) -> Iterator[PageGroup]:
        """Yields the groups of the pages."""
        for number, group in enumerate(self.sorted_groups, 1):
            members = []
            for i in group.images.tolist():
                file, is_kept = self.seen[i], bool(self.copies.kept[i] == i)
                similarity = None if is_kept else float(self.copies.similarity[i])
                score = None if np.isnan(self.copies.score[i]) else float(self.copies.score[i])
                width, height, size = (file.width, file.height, file.bytes) if file else (None, None, None)
                kind = KINDS[self.copies.kind[i]]
                members.append(Member(self.source.ids[i], width, height, size, similarity, score, kind))
            yield PageGroup(number, members, group.lowest)


def find(
    source: Source,
    seen: Sequence[Seen | None],
    descriptors: Descriptors | None,
    options: Options,
    order: np.ndarray,
    *,
    outside: Descriptors | None = None,
    calibration: Calibration | None = None,
) -> Duplicates:
    """Finds the duplicates of a source.

    Args:
        source: the images.
        seen: what is known of each.
        descriptors: the descriptors of `collect.contents_of`; None if there are none.
        options: how they are found.
        order: int64 [N], the images in order of preference; see `preference.preferred`.
        outside, calibration: as for `collect.collect`.

    Raises:
        ValueError: as `collect`.
    """
    collection = collect(source, seen, order, descriptors, options.score, outside=outside, calibration=calibration)
    least = options.least if calibration is None or options.threshold is not None else calibration.threshold
    copies = find_groups(collection, least, grouping=options.grouping, max_group=options.max_group)
    made_by = descriptors.provenance if descriptors else None
    return Duplicates(source, seen, collection, copies, options, least, made_by)
