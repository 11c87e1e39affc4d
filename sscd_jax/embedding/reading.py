"""Reads the images of a collection: notes what was read, and tells a failed disk or network from a bad image."""

import hashlib
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sscd_jax.data import failed_reads, storage
from sscd_jax.data.image_source import Source
from sscd_jax.data.names import ARCHIVES
from sscd_jax.embedding.saved_rows import IMAGE
from sscd_jax.embedding.shards import Shards

# What an image has no descriptor for: it cannot be read, it is damaged, its id cannot be written, it is gone.
READ, IMAGE_ERROR, NAME, GONE = "read", "image", "name", "gone"


class Reader:
    """A source whose images are read several times where reading fails, and which notes what was read.

    Attributes:
        source: the source, to be read instead of the one that was given.
        lookup: finds the index of an id in it.
    """

    def __init__(self, source: Source) -> None:
        self.source = Source(source.name, source.ids, source.paths, self._load, source.files)
        self.lookup = source.lookup
        self._given = source
        self._archives = {file for file in source.files if file.lower().endswith(ARCHIVES)} if source.record else set()
        self._lock = threading.Lock()
        self._images: dict[int, np.void] = {}
        self._failed: set[int] = set()

    def _load(self, index: int) -> bytes:
        stamp = None
        try:
            stamp = size, time = self.stamp(index)
            data = failed_reads.load(self._given, index)
        except Exception as error:
            with self._lock:
                if failed_reads.is_failed_read(error, self._given.paths[index]):
                    self._failed.add(index)
                if stamp:  # so that a later call sees whether the file has changed since
                    seen: Any = np.array((*stamp, b""), IMAGE)[()]
                    self._images[index] = seen
            raise
        content = hashlib.blake2b(data, digest_size=16).digest()
        image: Any = np.array((len(data) if size < 0 else size, time, content), IMAGE)[()]
        with self._lock:
            self._images[index] = image
        return data

    def taken(self, index: int) -> np.void:
        """Returns what was read of an image, `IMAGE`, and forgets it."""
        with self._lock:
            return self._images.pop(index)

    def error(self, index: int, reason: str) -> dict[str, Any]:
        """Returns what is recorded of an image that has no descriptor, and forgets what was read of it."""
        with self._lock:
            image, failed = self._images.pop(index, None), index in self._failed
            self._failed.discard(index)
        made = {"id": self.source.ids[index], "path": self.source.paths[index], "reason": reason}
        made["kind"] = READ if failed else IMAGE_ERROR
        return made if image is None else made | {"size": int(image["size"]), "time": int(image["time"])}

    def stamp(self, index: int) -> tuple[int, int]:
        """Returns the size of an image and the time of its last change, without reading it; see `IMAGE`.

        Of an image in an archive, it is the time of the archive. In a store, where each answer takes a request, and of
        packs and data sets, which do not change, neither is known: -1 and 0.
        """
        path = self._given.paths[index]
        if storage.in_store(path):
            return -1, 0
        if self._given.record is None:
            return _status(path)
        archive = next((path[:end] for end in _slashes(path) if path[:end] in self._archives), None)
        if archive is not None:
            return -1, _status(archive)[1]
        return _status(path) if path in self._given.files else (-1, 0)


@dataclass(frozen=True)
class Changes:
    """What differs between the complete shards of a folder and its source now, all by ids.

    Attributes:
        changed: images that were embedded, and have another size or time now.
        gone: images that were embedded or could not be read, and are no longer in the source.
        failed: images that could not be read.
        mended: those of them that have another size or time now.
        shards: the number of the shard of each of these images.
    """

    changed: set[str] = field(default_factory=set)
    gone: set[str] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)
    mended: set[str] = field(default_factory=set)
    shards: dict[str, int] = field(default_factory=dict)


def compare(shards: Shards, numbers: Iterable[int], reader: Reader) -> Changes:
    """Compares complete shards with the source, without reading an image: one look at each file.

    Args:
        shards: the folder.
        numbers: the numbers of the shards, which are complete.
        reader: the source.
    """
    found = Changes()
    for number in numbers:
        errors = shards.errors(number)
        embedded = zip(shards.ids(number), shards.images(number), strict=True)
        listed = [*embedded, *((error["id"], error) for error in errors if "id" in error)]
        failed = {error["id"] for error in errors if "id" in error}
        indexes = reader.lookup.find([one for one, _ in listed]).tolist()
        for (one, image), index in zip(listed, indexes, strict=True):
            if index < 0:
                found.gone.add(one)
            else:
                changed = has_changed(image, reader, index)
                if one in failed:
                    found.failed.add(one)
                    if changed:
                        found.mended.add(one)
                elif changed:
                    found.changed.add(one)
                else:
                    continue
            found.shards[one] = number
    return found


def has_changed(image: np.void | Mapping[str, Any], reader: Reader, index: int) -> bool:
    """Returns whether an image was changed since it was read, as far as its size and its time say.

    Args:
        image: what was recorded: an `IMAGE`, or a dictionary that may have `size` and `time`.
        reader: the source.
        index: the index of the image in the source.
    """
    try:
        size, time = reader.stamp(index)
    except OSError:  # it is not there
        return False
    if isinstance(image, dict) and "size" not in image:  # it was not there before
        return size >= 0
    before = int(image["size"]), int(image["time"])
    return (size >= 0 and before[0] != size) or bool(time and before[1] and before[1] != time)


def _status(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_size, found.st_mtime_ns


def _slashes(path: str) -> list[int]:
    return [end for end, letter in enumerate(path) if letter in "/\\"]
