"""Reads packs: images in a few large tar files with an index, for disks and stores where many small files are slow.

    sscd_pack.json              what was packed and with which options; written first, and marks a folder as a pack
    00000.tar ...               shards: plain tar files in webdataset's layout
    parts/00000.npz ...         where the images of a shard are; written when the shard is complete
    index.npz                   all parts in one file; written last, when the pack is complete
    errors.jsonl                images that could not be read, and why; only if there are any

Images are found by the index alone, and no tar header is read. No path is stored in these files.
"""

import io
import json
import posixpath
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from sscd_jax.data import storage
from sscd_jax.data.archives import MAX_BYTES
from sscd_jax.string_list import StringList

MADE_BY, INDEX, PARTS = "sscd_pack.json", "index.npz", "parts"
THREADS = 32  # requests to a store at a time
BAD, NOT_READ = -1, -2


@dataclass(frozen=True)
class Index:
    """Where N images are in S shards.

    Attributes:
        ids: one for each image.
        counts: int64 [S], the number of images in each shard.
        sizes: int64 [S], the size of each shard in bytes.
        offsets: int64 [N], where the bytes of each image begin in its shard.
        lengths: int64 [N], the number of bytes of each image; BAD if it has none that can be used, NOT_READ if the disk
            or the network did not deliver them.
        checksums: uint32 [N], CRC-32 of the bytes of each image.
        reasons: why images could not be read, by their number.
    """

    ids: Sequence[str]
    counts: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    reasons: dict[int, str]


_ARRAYS = {"counts": "i8", "sizes": "i8", "offsets": "i8", "lengths": "i8", "checksums": "u4"}


def join_parts(parts: Sequence[Index]) -> Index:
    """Returns the index of a pack, from the indexes of its shards in order."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    firsts = np.cumsum(arrays["counts"]) - arrays["counts"]
    reasons = {
        first + k: why for first, part in zip(firsts.tolist(), parts, strict=True) for k, why in part.reasons.items()
    }
    return Index(StringList(image_id for part in parts for image_id in part.ids), **arrays, reasons=reasons)


def to_bytes(index: Index) -> bytes:
    """Returns an index as the bytes of a .npz file, as `read_index` reads it."""
    texts = {"ids": "\0".join(index.ids), "reasons": json.dumps(sorted(index.reasons.items()))}
    arrays = {name: np.frombuffer(text.encode("utf-8", "surrogateescape"), "u1") for name, text in texts.items()}
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays, **{name: getattr(index, name) for name in _ARRAYS})
    return file.getvalue()


def read_index(path: str) -> Index:
    """Reads an index from its file.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is damaged.
    """
    data = storage.read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_ARRAYS, "ids", "reasons")}
        if any(array.ndim != 1 or array.dtype != _ARRAYS.get(name, "u1") for name, array in arrays.items()):
            raise ValueError("its arrays have the wrong types or shapes")
        ids, reasons = (arrays.pop(name).tobytes() for name in ("ids", "reasons"))
        listed = json.loads(reasons.decode("utf-8", "surrogateescape"))
        index = Index(_split(ids), **arrays, reasons={int(k): str(v) for k, v in listed})
        _check(index)
    except Exception as error:  # numpy and zipfile raise many types on damaged files
        raise ValueError(f"{path} is damaged: {error}") from error
    return index


def _split(ids: bytes) -> StringList:
    try:
        return StringList.from_lines(ids + b"\0", b"\0")
    except UnicodeDecodeError:  # the name of a file that is not Unicode
        return StringList(ids.decode("utf-8", "surrogateescape").split("\0"))


def _check(index: Index) -> None:
    count = len(index.ids)
    if {len(index.offsets), len(index.lengths), len(index.checksums)} != {count} or len(index.counts) != len(
        index.sizes
    ):
        raise ValueError("its arrays have different lengths")
    if (index.counts < 1).any() or (index.counts > count).any() or index.counts.sum() != count:
        raise ValueError("its shards and images do not add up")
    sizes = np.repeat(index.sizes, index.counts)
    inside = (index.offsets >= 0) & (index.lengths >= NOT_READ) & (index.lengths <= MAX_BYTES)
    if not (inside & (index.offsets <= sizes - np.maximum(index.lengths, 0))).all():
        raise ValueError("an image is not inside its shard")
    if {*index.reasons} != {*np.flatnonzero(index.lengths < 0).tolist()}:
        raise ValueError("its reasons are not those of its unreadable images")


def is_pack(folder: str) -> bool:
    """Returns whether a folder is a pack, which may be incomplete.

    Raises:
        OSError: the store does not answer.
    """
    return storage.exists(posixpath.join(folder, MADE_BY))


def shard_path(folder: str, number: int) -> str:
    """Returns the path of a shard of the pack in a folder."""
    return posixpath.join(folder, f"{number:05d}.tar")


def part_path(folder: str, number: int) -> str:
    """Returns the path of the index of a shard of the pack in a folder."""
    return posixpath.join(folder, PARTS, f"{number:05d}.npz")


def read_image(index: Index, k: int, tar: str, shard: str) -> bytes:
    """Returns the bytes of an image, by a single request. Several threads may read at once.

    Args:
        index: an index with the image.
        k: the number of the image in it.
        tar: the tar file with the image, or a copy of it.
        shard: what errors call it.

    Raises:
        OSError: the image cannot be read now, could not be read when it was packed, or its bytes have changed. It is a
            FileNotFoundError if the disk or the network did not deliver the image when it was packed.
    """
    length, offset = int(index.lengths[k]), int(index.offsets[k])
    if length < 0:
        error = FileNotFoundError if length == NOT_READ else storage.DamagedError
        raise error(f"could not be read when it was packed: {index.reasons[k]}")
    data = storage.read_part(tar, offset, length)
    if len(data) != length or zlib.crc32(data) != index.checksums[k]:
        raise storage.DamagedError(
            f"{shard} is damaged at byte {offset}: remove it and {INDEX}, and run the same sscd-jax pack again"
        )
    return data


class Pack:
    """A pack, whose images are read by number.

    Args:
        folder: the folder of the pack, on disk or in a store.

    Attributes:
        ids: one for each image.
        shards: the paths of the tar files.

    Raises:
        ValueError: the pack is incomplete or damaged, or a shard is missing or truncated; the error says what to do.
    """

    def __init__(self, folder: str) -> None:
        path = posixpath.join(folder, INDEX)
        if not storage.exists(path):
            raise ValueError(f"{folder} is an incomplete pack: run the same sscd-jax pack again to resume it")
        try:
            self._index = read_index(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}; remove {path} and run the same sscd-jax pack again") from error
        self.ids = self._index.ids
        self.shards = [shard_path(folder, number) for number in range(len(self._index.sizes))]
        self._ends = np.cumsum(self._index.counts)
        with ThreadPoolExecutor(THREADS) as pool:
            for problem in pool.map(_problem_of, self.shards, self._index.sizes.tolist()):
                if problem:
                    raise ValueError(f"{problem}; remove {path} and run the same sscd-jax pack again")

    def read(self, index: int) -> bytes:
        """Does the same as `read_image` for an image of the pack."""
        shard = self.shards[int(np.searchsorted(self._ends, index, "right"))]
        return read_image(self._index, index, shard, shard)

    def shard_ids(self, number: int) -> Sequence[str]:
        """Returns the ids of the images of a shard."""
        end = int(self._ends[number])
        return self.ids[end - int(self._index.counts[number]) : end]


def _problem_of(shard: str, size: int) -> str | None:
    try:
        found, _ = storage.status(shard)
    except OSError as error:
        return f"{shard} cannot be read: {error.strerror or error}"
    return None if found == size else f"{shard} has {found} bytes and should have {size}"
