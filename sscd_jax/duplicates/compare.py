"""Compares two sets of images, embedding what is needed: the part that `overlap` and `dedup --against` have in common.

Both sets have their descriptors in one folder, by the SHA-256 of the bytes, so that equal bytes are embedded once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.data.image_source import Source
from sscd_jax.descriptors import FOLDER as DESCRIPTORS
from sscd_jax.duplicates import tables
from sscd_jax.duplicates.collect import collect, contents_of, embedded
from sscd_jax.duplicates.crossing import Best, crossing_pairs, noted
from sscd_jax.duplicates.find import Collection
from sscd_jax.duplicates.options import Options
from sscd_jax.duplicates.sides import Side, joined_descriptors, joined_sources
from sscd_jax.duplicates.unreadable import unreadable, write_errors
from sscd_jax.provenance import Provenance

FOLDER, SUMMARY = "descriptors", "summary.json"
# What folders of results with this folder of descriptors may contain. A killed process may have left empty folders.
DESCRIPTORS_PATTERN = rf"{FOLDER}(/plan)?|{FOLDER}/({DESCRIPTORS.pattern})"
Embed = Callable[[Source, Path], Mapping[str, Any]]


@dataclass(frozen=True)
class Compared:
    """Two sets of images, and for each image its best copy in the other set.

    Attributes:
        sides: the two sets.
        collection: the images of both, those of the first set first.
        best: the best copies of the images of each set.
        kinds: the number of pairs of each kind.
        errors: the images that could not be read.
        options: how copies are found.
        provenance: that of the descriptors; None if there are none.
    """

    sides: tuple[Side, Side]
    collection: Collection
    best: tuple[Best, Best]
    kinds: Mapping[str, int]
    errors: list[dict[str, Any]]
    options: Options
    provenance: Provenance | None

    @property
    def has_descriptor(self) -> tuple[np.ndarray, np.ndarray]:
        """Whether the images of each set could be read, bool [N] and bool [M]."""
        found, count = self.collection.row >= 0, len(self.sides[0])
        return found[:count], found[count:]

    def load(self, key: str) -> bytes:
        """Returns the encoded bytes of an image, given what `key` returned for it."""
        side, _, index = key.partition(" ")
        return self.sides[int(side)].source.load(int(index))

    def names(self, side: int, images: np.ndarray) -> list[str]:
        """Returns the names of images of a set in lists such as keep.txt."""
        ids, seen = self.sides[side].source.ids, self.sides[side].seen
        return [tables.listed_name(ids[i], seen[i]) for i in images.tolist()]

    def described(self) -> dict[str, Any]:
        """Returns what a summary says of the pairs, the options and the descriptors."""
        made_by = self.provenance
        return {
            "pairs": sum(self.kinds.values()),
            "pairs_by_kind": dict(self.kinds),
            "score": self.options.score,
            "threshold": self.options.least,
            "weights_sha256": made_by.weights if made_by else None,
            "preset": made_by.preset if made_by else None,
            "computation": made_by.computation if made_by else None,
        }


def compare(names: tuple[str, str], sides: tuple[Side, Side], out: Path, embed: Embed, options: Options) -> Compared:
    """Finds the copies between two sets, and writes the pairs and errors.jsonl to a folder.

    The file summary.json is removed before, and whoever calls this writes it last.

    Args:
        names: what an error calls the sets.
        sides: the sets.
        out: the folder.
        embed: writes the descriptors of a source to a folder, as `write_descriptors` with a network and a preset does.
        options: how copies are found.

    Raises:
        ValueError: the descriptors of both are of different weights or presets.
        OSError: a file cannot be written, or too many images cannot be read.
    """
    one, other = sides
    both = joined_sources(one.source, other.source)
    seen = [*one.seen, *other.seen]
    is_source = [file if side.descriptors is None else None for side in sides for file in side.seen]
    made = embedded(contents_of(both, is_source), out / FOLDER, embed)
    given = {name: side.descriptors for name, side in zip(names, sides, strict=True)}
    descriptors = joined_descriptors(images=made, **given)
    count = len(one)
    order = np.concatenate([np.arange(count, len(both)), np.arange(count)])  # the second set comes first
    collection = collect(both, seen, order, descriptors, options.score)
    best = Best.of_none(count), Best.of_none(len(other))
    (out / SUMMARY).unlink(missing_ok=True)  # what follows belongs together
    (out / "pairs.parquet").unlink(missing_ok=True)
    found = noted(crossing_pairs(collection, count, options.least), collection, *best)
    kinds = tables.write_pairs(out, found, one.source.ids, other.source.ids)
    errors = [
        {"set": name, **error}
        for name, side in zip(names, sides, strict=True)
        if side.descriptors is None
        for error in unreadable(side.source, side.seen, side.unread, out / FOLDER)
    ]
    write_errors(out, errors)
    return Compared(sides, collection, best, kinds, errors, options, descriptors.provenance if descriptors else None)


def key(side: int, index: int) -> str:
    """Returns what `Compared.load` reads an image of a set by."""
    return f"{side} {index}"
