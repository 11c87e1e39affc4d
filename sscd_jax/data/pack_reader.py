"""Packs: images in a few large tar files with an index, to be read at random where many small files are slow.

    sscd_pack.json              what it was made of and how; written first, by it a folder is known as a pack
    00000.tar ...               shards: plain tar files in webdataset's layout
    parts/00000.npz ...         where the images of a shard are; written after it, and says that it is whole
    index.npz                   all parts in one; written last, and says that the pack is whole
    errors.jsonl                what could not be read, and why; only where there is any

The index alone says what there is: no tar header is read. Nothing in these files names another file.
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

MADE_BY, INDEX, PARTS = "sscd_pack.json", "index.npz", "parts"
THREADS = 32  # that wait for a store


@dataclass(frozen=True)
class Index:
    """Where N images in S shards are.

    Attributes:
        ids: one for each image.
        counts, sizes: int64 [S], images of each shard, and its bytes.
        offsets, lengths: int64 [N], where the bytes of each image are in its shard; a length of -1 where they could
            not be read.
        checksums: uint32 [N], CRC-32 of these bytes.
        reasons: why they could not be read, by the number of the image.
    """

    ids: list[str]
    counts: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    checksums: np.ndarray
    reasons: dict[int, str]


_ARRAYS = {"counts": "i8", "sizes": "i8", "offsets": "i8", "lengths": "i8", "checksums": "u4"}


def join(parts: Sequence[Index]) -> Index:
    """The index of a pack of those of its shards."""
    arrays = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _ARRAYS}
    firsts = np.cumsum(arrays["counts"]) - arrays["counts"]
    reasons = {
        first + k: why for first, part in zip(firsts.tolist(), parts, strict=True) for k, why in part.reasons.items()
    }
    return Index([one for part in parts for one in part.ids], **arrays, reasons=reasons)


def to_bytes(index: Index) -> bytes:
    """An index as a .npz file."""
    texts = {"ids": "\0".join(index.ids), "reasons": json.dumps(sorted(index.reasons.items()))}
    arrays = {name: np.frombuffer(text.encode("utf-8", "surrogateescape"), "u1") for name, text in texts.items()}
    made = io.BytesIO()
    np.savez(made, allow_pickle=False, **arrays, **{name: getattr(index, name) for name in _ARRAYS})
    return made.getvalue()


def read_index(path: str) -> Index:
    """An index from its file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged.
    """
    data = storage.read_bytes(path)
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            arrays = {name: file[name] for name in (*_ARRAYS, "ids", "reasons")}
        if any(array.ndim != 1 or array.dtype != _ARRAYS.get(name, "u1") for name, array in arrays.items()):
            raise ValueError("its arrays are of another kind")
        texts = {name: arrays.pop(name).tobytes().decode("utf-8", "surrogateescape") for name in ("ids", "reasons")}
        index = Index(
            texts["ids"].split("\0"), **arrays, reasons={int(k): str(v) for k, v in json.loads(texts["reasons"])}
        )
        _check(index)
    except Exception as error:  # numpy and zipfile raise all kinds on damage
        raise ValueError(f"{path} is damaged: {error}") from error
    return index


def _check(index: Index) -> None:
    count = len(index.ids)
    if {len(index.offsets), len(index.lengths), len(index.checksums)} != {count} or len(index.counts) != len(
        index.sizes
    ):
        raise ValueError("its arrays are of different lengths")
    if (index.counts < 1).any() or (index.counts > count).any() or index.counts.sum() != count:
        raise ValueError("its shards do not hold its images")
    sizes = np.repeat(index.sizes, index.counts)
    inside = (index.offsets >= 0) & (index.lengths >= -1) & (index.lengths <= MAX_BYTES)
    if not (inside & (index.offsets <= sizes - np.maximum(index.lengths, 0))).all():
        raise ValueError("an image is not inside its shard")
    if {*index.reasons} != {*np.flatnonzero(index.lengths < 0).tolist()}:
        raise ValueError("reasons are not those of the images that could not be read")


def is_pack(folder: str) -> bool:
    """Whether a folder is a pack, be it unfinished.

    Raises:
        OSError: its store cannot be asked.
    """
    return storage.exists(posixpath.join(folder, MADE_BY))


def shard_path(folder: str, number: int) -> str:
    return posixpath.join(folder, f"{number:05d}.tar")


class Pack:
    """The images of a pack by their numbers.

    Args:
        folder: of the pack, on disk or in a store.

    Attributes:
        ids: of the images.
        shards: paths of the tar files.

    Raises:
        ValueError: it is unfinished, damaged, or a shard is missing or cut off; says what to do.
    """

    def __init__(self, folder: str) -> None:
        path = posixpath.join(folder, INDEX)
        if not storage.exists(path):
            raise ValueError(f"{folder} is an unfinished pack: run the same sscd-jax pack again, and it goes on")
        try:
            self._index = read_index(path)
        except (ValueError, OSError) as error:
            raise ValueError(f"{error}; remove {path} and run the same sscd-jax pack again") from error
        self.ids = self._index.ids
        self.shards = [shard_path(folder, number) for number in range(len(self._index.sizes))]
        self._ends = np.cumsum(self._index.counts)
        with ThreadPoolExecutor(THREADS) as pool:
            for problem in pool.map(_problem, self.shards, self._index.sizes.tolist()):
                if problem:
                    raise ValueError(f"{problem}; remove {path} and run the same sscd-jax pack again")

    def read(self, index: int) -> bytes:
        """The bytes of an image, by one request; threads may read side by side.

        Raises:
            OSError: they cannot be read, are not those that were packed, or could not be read when it was made.
        """
        length, offset = int(self._index.lengths[index]), int(self._index.offsets[index])
        if length < 0:
            raise OSError(f"could not be read when it was packed: {self._index.reasons[index]}")
        shard = self.shards[int(np.searchsorted(self._ends, index, "right"))]
        data = storage.read_part(shard, offset, length)
        if len(data) != length or zlib.crc32(data) != self._index.checksums[index]:
            raise OSError(
                f"{shard} is damaged at byte {offset}: remove it and {INDEX}, and run the same sscd-jax pack again"
            )
        return data


def _problem(shard: str, size: int) -> str | None:
    try:
        there, _ = storage.status(shard)
    except OSError as error:
        return f"{shard} cannot be read: {error.strerror or error}"
    return None if there == size else f"{shard} has {there} bytes and should have {size}"
