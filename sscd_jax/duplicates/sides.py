"""Two sets of images that are compared: each a source of images, or descriptors that were made before."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.duplicates.image_files import Seen, look_at
from sscd_jax.mapped_vectors import joined
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.provenance import Provenance
from sscd_jax.search.knn import is_unit
from sscd_jax.string_list import StringList


@dataclass(frozen=True)
class Described:
    """Images with their descriptors, and the source that they are read from, which may have more of them."""

    descriptors: Descriptors
    source: Source

    def load(self, one: str) -> bytes:
        """Returns the encoded bytes of the image of an id.

        Raises:
            OSError: it cannot be read.
        """
        index = int(self.source.lookup.find([one])[0])
        if index < 0:
            raise OSError("its file is not known")
        return self.source.load(index)


@dataclass(frozen=True)
class Side:
    """One of two sets.

    Attributes:
        source: its images.
        seen: what is known of each.
        descriptors: descriptors that were made before, whose ids are the hashes in `seen`; None if the images are to be
            embedded.
        unread: why images could not be read, by their indexes.
    """

    source: Source
    seen: Sequence[Seen | None]
    descriptors: Descriptors | None = None
    unread: Mapping[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.source)


def described(descriptors: Descriptors) -> Described:
    """Returns descriptors with a source of the same ids, whose images are read from where they were embedded."""
    return Described(descriptors, source_of(descriptors))


def of_descriptors(descriptors: Descriptors, label: str = "") -> Side:
    """Returns descriptors as one of two sets. The ids take the place of the hashes of bytes, which are not known.

    Args:
        descriptors: the descriptors.
        label: what these begin with, so that equal ids in two sets do not stand for equal bytes.
    """
    source = source_of(descriptors)
    if not label:
        return Side(source, [Seen("", False, False, None, 0, one, None, None) for one in source.ids], descriptors)
    names = StringList(f"{label} {one}" for one in descriptors.ids)
    renamed = Descriptors(names, descriptors.vectors, descriptors.provenance)
    return Side(source, [Seen("", False, False, None, 0, one, None, None) for one in names], renamed)


def opened(given: Source | Descriptors, label: str, folder: Path, file: str, *, max_errors: int | None = None) -> Side:
    """Returns images as one of two sets. Those of a source are read; see `look_at`.

    Args:
        given: the images, or their descriptors.
        label: as for `of_descriptors`.
        folder, file, max_errors: as for `look_at`.

    Raises:
        ValueError: two images have the same id.
        OSError: too many images cannot be read, or the file cannot be written.
    """
    if isinstance(given, Descriptors):
        (folder / file).unlink(missing_ok=True)
        return of_descriptors(given, label)
    check_unique_ids(given)
    seen, unread = look_at(given, folder, file=file, max_errors=max_errors)
    return Side(given, seen, unread=unread)


def check_units(**sets: Descriptors) -> None:
    """Checks that the vectors of sets of descriptors have norm 1, as scores need it.

    Raises:
        ValueError: those of a set have not; the error names it.
    """
    for name, one in sets.items():
        if not is_unit(one.vectors):
            raise ValueError(f"{name}: the vectors do not have norm 1; give descriptors that `sscd-jax embed` wrote")


def source_of(descriptors: Descriptors) -> Source:
    """Returns a source with the ids of descriptors. Its images are read from where they were embedded, if possible."""
    name = str(descriptors.provenance.details.get("source", ""))
    found: Source | None = None
    with contextlib.suppress(ValueError, OSError, ImportError):
        found = open_source(name) if name and os.path.exists(name) else None
    rows = found.lookup.find(descriptors.ids) if found else None

    def record(index: int) -> bytes:
        if found is None or rows is None or rows[index] < 0:
            raise OSError("its file is not known")
        return found.load(int(rows[index]))

    return Source(name or "descriptors", descriptors.ids, descriptors.ids, record)


def joined_sources(one: Source, other: Source) -> Source:
    """Returns the images of two sources as one, those of the first first. Ids may occur in both."""
    count = len(one)

    def record(index: int) -> bytes:
        return one.load(index) if index < count else other.load(index - count)

    ids, paths = StringList(one.ids), StringList(one.paths)
    ids.extend(other.ids)
    paths.extend(other.paths)
    return Source(f"{one.name}, {other.name}", ids, paths, record)


def joined_descriptors(**sets: Descriptors | None) -> Descriptors | None:
    """Returns sets of descriptors, whose ids differ, as one set; None if there are none.

    Raises:
        ValueError: two sets are of different weights or presets, or vectors do not have norm 1; the error names them.
    """
    given = {name: one for name, one in sets.items() if one is not None and len(one.ids)}
    if not given:
        return None
    check_same_provenance(**given)
    check_units(**given)
    first, *others = given.values()
    for other in others:
        ids = StringList(first.ids)
        ids.extend(other.ids)
        first = Descriptors(ids, joined(first.vectors, other.vectors), first.provenance)
    return first


def preset_of(provenance: Provenance) -> Preset:
    """Returns the preset that made descriptors.

    Raises:
        ValueError: their provenance does not say it.
    """
    if provenance.preset in PRESETS:
        return PRESETS[provenance.preset]
    known = provenance.details.get("preset")
    try:
        preset = Preset(**{name: value for name, value in dict(known or {}).items() if name != "name"})
    except (TypeError, ValueError) as error:
        raise ValueError(f"the preset {provenance.preset} of the descriptors is not known: {error}") from error
    if preset.name != provenance.preset:
        raise ValueError(f"the preset {provenance.preset} of the descriptors is not known: embed them again")
    return preset
