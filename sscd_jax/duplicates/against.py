"""The images of a source that are in another set, as duplicates that `sscd-jax dedup apply` can move away."""

import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.data.image_source import Source
from sscd_jax.data.names import printable
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates import tables
from sscd_jax.duplicates.compare import SUMMARY, Compared, Embed, compare, key
from sscd_jax.duplicates.dedup import FOLDER, FORMAT, OTHER, VERSION
from sscd_jax.duplicates.image_files import FILE, Seen, own_files
from sscd_jax.duplicates.options import KINDS, Options
from sscd_jax.duplicates.page import Member, PageGroup, Summary, write_pages
from sscd_jax.duplicates.result import Group, doubtful_first
from sscd_jax.duplicates.sides import opened
from sscd_jax.files import write_text


def dedup_against(
    source: Source,
    other: Source | Descriptors,
    out: Path,
    embed: Embed,
    options: Options,
    *,
    weights: str,
    roots: Sequence[str] = (),
    max_errors: int | None = None,
) -> dict[str, Any]:
    """Finds the images of a source that have a copy in another set, and writes them to a folder, as `dedup.dedup` does.

    The images of the other set are what is kept. Duplicates within the source are not looked for.

    Args:
        source: the images, with unique ids.
        other: the other set, or its descriptors.
        out: the folder.
        embed, options, weights, roots, max_errors: as for `dedup.dedup`.

    Returns:
        The summary that `summary.json` holds.

    Raises:
        ValueError: `out` holds something else, two images have the same id, a file is in both sets, or the descriptors
            of both are of different weights or presets.
        OSError: a file cannot be written, or too many images cannot be read.
    """
    begun = time.monotonic()
    with FOLDER.locked(out):
        source = own_files(source, out)
        (out / SUMMARY).unlink(missing_ok=True)  # so that nobody applies groups of files as they were before
        sides = (
            opened(source, "source", out, FILE, max_errors=max_errors),
            opened(other, "against", out, OTHER, max_errors=max_errors),
        )
        _check_apart(*(side.seen for side in sides))
        found = Removal(compare(("source", "against"), sides, out, embed, options))
        compared, best = found.compared, found.compared.best[0]
        removed = np.flatnonzero(best.has_copy)
        kept = np.flatnonzero(~best.has_copy & compared.has_descriptor[0])
        tables.write_groups(out / "groups.csv", found.rows())
        for name, images in (("keep", kept), ("remove", removed)):
            tables.write_list(out / f"{name}.txt", compared.names(0, images))
        found.write_pages(out, weights)
        summary: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "images": len(source),
            "unreadable": int((~compared.has_descriptor[0]).sum()),
            "groups": len(found.groups),
            "duplicates": len(removed),
            "duplicates_by_kind": {name: int((best.kind[removed] == KINDS.index(name)).sum()) for name in KINDS[1:]},
            "duplicate_bytes": found.bytes_of(removed),
            **compared.described(),
            "against": sides[1].source.name,
            "against_images": len(sides[1]),
            "against_unreadable": int((~compared.has_descriptor[1]).sum()),
            "source": source.name,
            "roots": [os.path.abspath(root) for root in roots],
            "weights": weights,
            "sscd_jax": version("sscd_jax"),
            "out": str(out),
            "seconds": round(time.monotonic() - begun, 3),
        }
        write_text(out / SUMMARY, json.dumps(summary, indent=2))
        return summary


@dataclass(frozen=True)
class Removal:
    """The images of the first of two sets, as duplicates of those of the second."""

    compared: Compared

    @cached_property
    def groups(self) -> list[Group]:
        """An image of the second set with those of the first whose best copy it is, the most doubtful groups first.

        The images of the second set are counted on from those of the first.
        """
        best, collection = self.compared.best[0], self.compared.collection
        removed = np.flatnonzero(best.has_copy)
        certainty = np.nan_to_num(best.score[removed])
        removed = removed[np.lexsort((removed, -certainty, best.match[removed]))]
        starts = np.flatnonzero(np.diff(best.match[removed], prepend=-1))
        parts = np.split(removed, starts[1:]) if len(removed) else []
        groups = (np.append(best.match[part[0]] + len(best.match), part) for part in parts)
        kept = np.full(len(self.compared.sides[1]), np.nan)
        return doubtful_first(collection, groups, np.append(best.score, kept))

    def rows(self) -> Iterator[list[Any]]:
        """Yields the lines of groups.csv."""
        best = self.compared.best[0]
        for number, group in enumerate(self.groups, 1):
            for image in group.images.tolist():
                side, index, file = self._image(image)
                one, similarity = self.compared.sides[side].source.ids[index], 1.0 if side else best.similarity[index]
                yield tables.group_row(number, one, similarity, group.lowest, file, keep=side == 1)

    def bytes_of(self, images: np.ndarray) -> int:
        """Returns the size of the files of some images of the first set."""
        return sum(file.bytes or 0 for i in images.tolist() if (file := self.compared.sides[0].seen[i]))

    def write_pages(self, folder: Path, weights: str) -> None:
        """Writes the pages; see `page.write_pages`."""
        found, best = self.compared, self.compared.best[0]
        removed = np.flatnonzero(best.has_copy)
        score = best.score[removed]
        head = Summary(
            images=len(found.sides[0]),
            removed=len(removed),
            bytes_freed=self.bytes_of(removed),
            threshold=found.options.least,
            kept=f"It is in {found.sides[1].source.name}, of which nothing is removed.",
            background=found.options.score == "background",
            unreadable=len(found.errors),
            weights=weights,
            preset=found.provenance.preset if found.provenance else "",
            scores=score[np.isfinite(score)],
        )
        write_pages(folder, self._shown(), len(self.groups), head, found.load)

    def _shown(self) -> Iterator[PageGroup]:
        best = self.compared.best[0]
        for number, group in enumerate(self.groups, 1):
            members = []
            for image in group.images.tolist():
                side, index, file = self._image(image)
                one = self.compared.sides[side].source.ids[index]
                size = (file.width, file.height, file.bytes) if file else (None, None, None)
                if side:
                    members.append(Member(one, *size, None, None, "", key(side, index)))
                    continue
                score = None if np.isnan(best.score[index]) else float(best.score[index])
                kind = KINDS[best.kind[index]]
                members.append(Member(one, *size, float(best.similarity[index]), score, kind, key(side, index)))
            yield PageGroup(number, members, group.lowest)

    def _image(self, image: int) -> tuple[int, int, Seen | None]:
        """Returns the set of an image, its place in the set, and what is known of its file."""
        count = len(self.compared.sides[0])
        side, index = (0, image) if image < count else (1, image - count)
        return side, index, self.compared.sides[side].seen[index]


def _check_apart(one: Sequence[Seen | None], other: Sequence[Seen | None]) -> None:
    """Checks that no file is in both sets, so that what is removed from one stays in the other.

    Raises:
        ValueError: a file is in both.
    """
    there = {os.path.realpath(file.path) for file in other if file and file.file}
    for file in one if there else ():
        if file and file.file and os.path.realpath(file.path) in there:
            raise ValueError(
                f"{printable(file.path)} is both among the images to clean and among those of --against: name sets "
                "that have no file in common"
            )
