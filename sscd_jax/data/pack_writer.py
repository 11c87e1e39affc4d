"""Writes packs (see `pack_reader`), one complete shard after another.

Packing that was interrupted is resumed at the first shard that is not complete. The files depend only on the images and
on the size of the shards.
"""

import hashlib
import json
import os
import posixpath
import sys
import tarfile
import zlib
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sscd_jax.data import failed_reads, storage
from sscd_jax.data.archives import MAX_BYTES
from sscd_jax.data.image_source import Source
from sscd_jax.data.images import formats
from sscd_jax.data.names import IMAGE_EXTENSIONS
from sscd_jax.data.pack_reader import (
    BAD,
    INDEX,
    MADE_BY,
    NOT_READ,
    PARTS,
    THREADS,
    Index,
    join_parts,
    part_path,
    read_index,
    shard_path,
    to_bytes,
)
from sscd_jax.files import is_temporary

_ABSENT = -1, -1
_AHEAD = 2 * THREADS  # images that are read ahead of writing


def pack(
    source: Source, out: str, *, shard_bytes: int, retry: bool = False, max_errors: int | None = None
) -> dict[str, Any]:
    """Packs the images of a source, in order and with unchanged bytes, or resumes packing them.

    An image that cannot be read keeps its number, without bytes and with the reason. Reading it from the pack fails as
    reading its file did.

    Args:
        source: the images.
        out: the folder of the pack, on disk or in a store.
        shard_bytes: the largest size of a shard in bytes. A shard with a single image may be larger.
        retry: whether to write the shards again that have images which could not be read before.
        max_errors: the largest number of images that a disk or a network fails to deliver; by default 1 % of the images
            or 100, whichever is more.

    Returns:
        A summary: images, shards, bytes, unreadable (the numbers of each), not_read (how many of the unreadable ones
        the disk or the network did not deliver) and out.

    Raises:
        ValueError: `out` contains something else, or a pack of other images or with another size of shards; the error
            says what to do.
        OSError: more than `max_errors` images were not delivered, or the pack cannot be written.
    """
    if shard_bytes < 1:
        raise ValueError(f"the size of a shard is {shard_bytes} bytes; it must be positive")
    storage.check_place(out, ("gs", "file", "ram"))
    most = failed_reads.most_failed_reads(len(source), max_errors)
    _begin(source, out, shard_bytes)
    path, errors_path = posixpath.join(out, INDEX), posixpath.join(out, "errors.jsonl")
    if retry:  # shards may change: until all are complete, there is no index
        for old in filter(storage.exists, (path, errors_path)):
            storage.remove(old)
    parts: list[Index] = []
    first = unreadable_before = not_read = 0
    with tqdm(total=len(source), desc="packing", unit="image", dynamic_ncols=True) as bar:
        while first < len(source):
            part = _complete_part(source, out, len(parts), first)
            if part is None or (retry and part.reasons):
                part = _write_shard(source, out, len(parts), first, shard_bytes, bar)
            else:
                bar.update(len(part.ids))
                unreadable_before += len(part.reasons)
            parts.append(part)
            if (failed := np.flatnonzero(part.lengths == NOT_READ)).size:
                not_read += failed.size
                last = int(failed[-1])
                failed_reads.check_failed_reads(not_read, most, source.paths[first + last], part.reasons[last])
            first += len(part.ids)
    if unreadable_before:
        print(
            f"{out}: {unreadable_before} images could not be read before, see errors.jsonl; --retry tries again",
            file=sys.stderr,
        )
    index = join_parts(parts)
    kinds = {BAD: "image", NOT_READ: "read"}
    errors = [
        {"path": source.paths[k], "reason": why, "kind": kinds[int(index.lengths[k])]}
        for k, why in sorted(index.reasons.items())
    ]
    if errors:
        storage.write_bytes(errors_path, "".join(json.dumps(error) + "\n" for error in errors).encode())
        if len(errors) > unreadable_before:
            print(f"{len(errors)} images could not be read; see {errors_path}", file=sys.stderr)
    if not storage.exists(path):
        storage.write_bytes(path, to_bytes(index))
    if retry:  # files that were absent before may be there now
        _write_made_by(source, out, shard_bytes)
    for folder in (out, posixpath.join(out, PARTS)):
        for name in storage.list_folder(folder):
            if is_temporary(name):
                storage.remove(posixpath.join(folder, name))
    return {
        "images": len(index.ids),
        "shards": len(parts),
        "bytes": int(index.sizes.sum()),
        "unreadable": len(errors),
        "not_read": not_read,
        "out": out,
    }


def _begin(source: Source, out: str, shard_bytes: int) -> None:
    """Starts a new pack in `out`, or checks that the pack there is of this source and has shards of this size."""
    if any("\0" in one for one in source.ids):
        raise ValueError(f"{source.name} has an image whose name contains a zero byte: rename it")
    if _absolute(out).startswith(_absolute(source.name)):
        raise ValueError(f"{out} is in the folder that is packed: name a folder outside of it")
    path = posixpath.join(out, MADE_BY)
    if not storage.exists(path):
        found = [name.rstrip("/") for name in storage.list_folder(out)] if storage.exists(out) else []
        # A killed process may leave these two.
        others = [name for name in found if name != PARTS and not is_temporary(name)]
        if others:
            raise ValueError(f"{out} holds {min(others)}, which sscd-jax pack did not write: name another folder")
        storage.make_folder(posixpath.join(out, PARTS))
        _write_made_by(source, out, shard_bytes)
        return
    try:
        before = json.loads(storage.read_bytes(path))
        if before.keys() != {"format", "shard_bytes", "images", "sha256", "absent"}:
            raise ValueError("its keys are not those that sscd-jax pack writes")
        mib, absent = before["shard_bytes"] / 2**20, frozenset(before["absent"])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; name another folder") from error
    if before["shard_bytes"] != shard_bytes:
        raise ValueError(
            f"{out} is a pack with shards of {mib} MiB, not {shard_bytes / 2**20}: name another folder, or pass "
            f"--shard-mib {mib}"
        )
    if before["format"] != 1 or before["sha256"] != _fingerprint(source, absent)[0]:
        raise ValueError(
            f"{out} is a pack of other images than {source.name} has now (names, sizes or times differ): "
            "name another folder"
        )


def _absolute(path: str) -> str:
    return path.rstrip("/") + "/" if storage.in_store(path) else os.path.join(os.path.realpath(path), "")


def _write_made_by(source: Source, out: str, shard_bytes: int) -> None:
    fingerprint, absent = _fingerprint(source)
    made_by = {
        "format": 1,
        "shard_bytes": shard_bytes,
        "images": len(source),
        "sha256": fingerprint,
        "absent": absent,
    }
    storage.write_bytes(posixpath.join(out, MADE_BY), json.dumps(made_by, indent=2).encode())


def _fingerprint(source: Source, absent: Collection[int] = ()) -> tuple[str, list[int]]:
    """Returns the SHA-256 of ids, file sizes and mtimes, hexadecimal, and the numbers of the files that are absent.

    Args:
        source: the images.
        absent: numbers of files that count as absent, although they may be there now.
    """
    digest = hashlib.sha256()
    for one in source.ids:
        digest.update(f"{one}\0".encode("utf-8", "replace"))
    digest.update(("" if source.files else source.name).encode("utf-8", "replace"))
    bar = tqdm(total=len(source.files), desc="checking files", unit="file", dynamic_ncols=True)
    missing = []
    with bar, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(source.files), 4096):  # a pool queues all that it is given at once
            for number, status in enumerate(pool.map(_status, source.files[start : start + 4096]), start):
                size, time = _ABSENT if number in absent else status
                digest.update(b"%d %d\n" % (size, time))
                if (size, time) == _ABSENT:
                    missing.append(number)
                bar.update()
    return digest.hexdigest(), missing


def _status(path: str) -> tuple[int, int]:
    try:
        return storage.status(path)
    except OSError:
        return _ABSENT


def _complete_part(source: Source, out: str, number: int, first: int) -> Index | None:
    """Returns the index of a shard, or None if it is not complete or does not begin with the image `first`."""
    path = part_path(out, number)
    if not storage.exists(path):
        return None
    try:
        part = read_index(path)
    except ValueError:  # it is damaged; the shard is written again
        return None
    expected = list(source.ids[first : first + len(part.ids)])
    size, _ = _status(shard_path(out, number))
    return part if part.ids == expected and part.sizes.tolist() == [size] else None


def _write_shard(source: Source, out: str, number: int, first: int, shard_bytes: int, bar: tqdm) -> Index:
    """Writes the shard that begins with the image `first`, and then its index, which is returned."""
    rows: list[tuple[int, int, int]] = []  # offset, length, checksum
    reasons: dict[int, str] = {}
    size = 0

    with storage.atomic_writer(shard_path(out, number)) as file:
        for data, index in zip(_read(source, first), range(first, len(source)), strict=True):
            if isinstance(data, _Unreadable):
                reasons[len(rows)] = data.reason
                rows.append((0, data.kind, 0))
            else:
                header = _header(_name(source.ids[index], source.paths[index], data), len(data))
                padding = -len(data) % tarfile.BLOCKSIZE
                if size and size + len(header) + len(data) + padding + 2 * tarfile.BLOCKSIZE > shard_bytes:
                    break
                file.write(header + data + bytes(padding))
                rows.append((size + len(header), len(data), zlib.crc32(data)))
                size += len(header) + len(data) + padding
            bar.update()
        end = 2 * tarfile.BLOCKSIZE  # a tar file ends with two blocks of zeros
        file.write(bytes(end))
        size += end
    ids = list(source.ids[first : first + len(rows)])
    offsets, lengths, checksums = (np.array(column, "i8") for column in zip(*rows, strict=True))
    counts, sizes = np.array([len(rows)], "i8"), np.array([size], "i8")
    part = Index(ids, counts, sizes, offsets, lengths, checksums.astype("u4"), reasons)
    storage.write_bytes(part_path(out, number), to_bytes(part))
    return part


@dataclass(frozen=True)
class _Unreadable:
    """Why an image has no bytes, and the `kind`, which is BAD or NOT_READ."""

    reason: str
    kind: int


def _read(source: Source, first: int) -> Iterator[bytes | _Unreadable]:
    """Yields the bytes of the images from `first` on, or why one cannot be read. Threads read ahead."""

    def load(index: int) -> bytes | _Unreadable:
        try:
            data = failed_reads.load(source, index)
        except OSError as error:
            failed = failed_reads.is_failed_read(error, source.paths[index])
            return _Unreadable(error.strerror or str(error) or type(error).__name__, NOT_READ if failed else BAD)
        if len(data) > MAX_BYTES:
            return _Unreadable(f"it has {len(data)} bytes, more than {MAX_BYTES}", BAD)
        return data

    waiting: deque[Future[bytes | _Unreadable]] = deque()
    with ThreadPoolExecutor(THREADS) as pool:
        try:
            for index in range(first, len(source)):
                waiting.append(pool.submit(load, index))
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _name(image_id: str, path: str, data: bytes) -> str:
    """Returns the name in the tar file: the id with the extension of the file or of the format, without ".."."""
    extension = os.path.splitext(path)[1]
    if extension.lower() not in IMAGE_EXTENSIONS:
        try:
            extension = f".{Image.open(BytesIO(data), formats=formats()).format}".lower()
        except Exception:  # Pillow raises many types; any bytes are packed
            extension = ".bin"
    return "/".join(part for part in image_id.split("/") if part not in ("", ".", "..")) + extension


def _header(name: str, size: int) -> bytes:
    """Returns the header of an image in a tar file, which does not depend on the time or the user."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
