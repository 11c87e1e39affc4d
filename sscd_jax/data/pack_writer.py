"""Images of any source into a pack, see `packed`: shard by shard, each whole or not there.

Run again, it goes on at the first shard that is not whole. What is written depends on the images and the size of the
shards alone.
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
from io import BytesIO
from typing import IO, Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from sscd_jax.data import storage
from sscd_jax.data.archives import IMAGE_EXTENSIONS, MAX_BYTES
from sscd_jax.data.image_source import Source
from sscd_jax.data.images import FORMATS
from sscd_jax.data.pack_reader import INDEX, MADE_BY, PARTS, THREADS, Index, join, read_index, shard_path, to_bytes

_ABSENT = -1, -1
_AHEAD = 2 * THREADS  # images that are read before they are written


def pack(source: Source, out: str, *, shard_bytes: int, retry: bool = False) -> dict[str, Any]:
    """Writes the images of a source, bytes unchanged and in its order, or goes on with that.

    An image that cannot be read keeps its place, empty and with the reason, so that what reads the pack passes over it
    as over the file.

    Args:
        source: the images.
        out: folder of the pack, on disk or in a store.
        shard_bytes: a shard is closed before it has more, unless a single image has.
        retry: shards with images that could not be read before are written again.

    Returns:
        Summary: images, shards, bytes, unreadable, out.

    Raises:
        ValueError: `out` holds something else, or a pack of other images or shards; says what to do.
        OSError: it cannot be written.
    """
    if shard_bytes < 1:
        raise ValueError(f"shards of {shard_bytes} bytes: they must have some")
    _begin(source, out, shard_bytes)
    path, errors_path = posixpath.join(out, INDEX), posixpath.join(out, "errors.jsonl")
    if retry:  # shards may change: until all are whole there is no pack
        for old in filter(storage.exists, (path, errors_path)):
            storage.remove(old)
    parts: list[Index] = []
    first = before = 0
    with tqdm(total=len(source), desc="packing", unit="image", dynamic_ncols=True) as bar:
        while first < len(source):
            part = _whole(source, out, len(parts), first)
            if part is None or (retry and part.reasons):
                part = _write_shard(source, out, len(parts), first, shard_bytes, bar)
            else:
                bar.update(len(part.ids))
                before += len(part.reasons)
            parts.append(part)
            first += len(part.ids)
    if before:
        print(f"{out}: {before} could not be read before, see errors.jsonl; --retry tries again", file=sys.stderr)
    index = join(parts)
    errors = [{"path": source.paths[k], "reason": why} for k, why in sorted(index.reasons.items())]
    if errors:
        text = "".join(json.dumps(error) + "\n" for error in errors)
        storage.write_whole(errors_path, lambda file: file.write(text.encode()))
    if not storage.exists(path):
        made = to_bytes(index)
        storage.write_whole(path, lambda file: file.write(made))
    if retry:  # it knows now of those that have come since
        _write_made_by(source, out, shard_bytes)
    for folder in (out, posixpath.join(out, PARTS)):  # what killed processes left
        for name in storage.names(folder):
            if ".unfinished-" in name:
                storage.remove(posixpath.join(folder, name))
    return {
        "images": len(index.ids),
        "shards": len(parts),
        "bytes": int(index.sizes.sum()),
        "unreadable": len(errors),
        "out": out,
    }


def _begin(source: Source, out: str, shard_bytes: int) -> None:
    """Sees to it that `out` is of a pack of this source, or a new one."""
    if "\0" in "".join(source.ids):
        raise ValueError(f"{source.name} has an image whose name holds a zero byte: rename it")
    if _absolute(out).startswith(_absolute(source.name)):
        raise ValueError(f"{out} is in the folder that is packed: name one outside of it")
    path = posixpath.join(out, MADE_BY)
    if not storage.exists(path):
        there = [name.rstrip("/") for name in storage.names(out)] if storage.exists(out) else []
        if any(name != PARTS and ".unfinished-" not in name for name in there):  # these one that was killed has left
            raise ValueError(f"{out} is there already and was not written by sscd-jax pack: name another folder")
        storage.make_folder(posixpath.join(out, PARTS))
        _write_made_by(source, out, shard_bytes)
        return
    try:
        before = json.loads(storage.read_bytes(path))
        if before.keys() != {"format", "shard_bytes", "images", "sha256", "absent"}:
            raise ValueError("it lacks what sscd-jax pack writes")
        mib, absent = before["shard_bytes"] / 2**20, frozenset(before["absent"])
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; name another folder") from error
    if before["shard_bytes"] != shard_bytes:
        raise ValueError(
            f"{out} is a pack with shards of {mib} MiB, not {shard_bytes / 2**20}: name another folder, or give "
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
    text = json.dumps(made_by, indent=2)
    storage.write_whole(posixpath.join(out, MADE_BY), lambda file: file.write(text.encode()))


def _fingerprint(source: Source, absent: Collection[int] = ()) -> tuple[str, list[int]]:
    """Of the ids, and of the size and time of each file, hexadecimal; and the numbers of the files that are not there.

    Those that are given are taken for absent: they may have come since.
    """
    found = hashlib.sha256("\0".join([*source.ids, "" if source.files else source.name]).encode("utf-8", "replace"))
    bar = tqdm(total=len(source.files), desc="looking", unit="file", dynamic_ncols=True)
    missing = []
    with bar, ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(source.files), 4096):  # a pool takes all that it is given at once
            for number, status in enumerate(pool.map(_status, source.files[start : start + 4096]), start):
                size, time = _ABSENT if number in absent else status
                found.update(b"%d %d\n" % (size, time))
                if (size, time) == _ABSENT:
                    missing.append(number)
                bar.update()
    return found.hexdigest(), missing


def _status(path: str) -> tuple[int, int]:
    try:
        return storage.status(path)
    except OSError:
        return _ABSENT


def _part_path(out: str, number: int) -> str:
    return posixpath.join(out, PARTS, f"{number:05d}.npz")


def _whole(source: Source, out: str, number: int, first: int) -> Index | None:
    """The part of a shard that is whole and has the images from the first on."""
    path = _part_path(out, number)
    if not storage.exists(path):
        return None
    try:
        part = read_index(path)
    except ValueError:  # then it is written anew
        return None
    expected = list(source.ids[first : first + len(part.ids)])
    size, _ = _status(shard_path(out, number))
    return part if part.ids == expected and part.sizes.tolist() == [size] else None


def _write_shard(source: Source, out: str, number: int, first: int, shard_bytes: int, bar: tqdm) -> Index:
    """Writes the shard that begins with an image, and then its part."""
    rows: list[tuple[int, int, int]] = []  # offset, length, checksum
    reasons: dict[int, str] = {}
    size = 0

    def write(file: IO[bytes]) -> None:
        nonlocal size
        for data, (index, one) in zip(_read(source, first), enumerate(source.ids[first:], first), strict=True):
            if isinstance(data, str):
                reasons[len(rows)] = data
                rows.append((0, -1, 0))
            else:
                header = _header(_name(one, source.paths[index], data), len(data))
                padding = -len(data) % tarfile.BLOCKSIZE
                if size and size + len(header) + len(data) + padding + 2 * tarfile.BLOCKSIZE > shard_bytes:
                    break
                file.write(header + data + bytes(padding))
                rows.append((size + len(header), len(data), zlib.crc32(data)))
                size += len(header) + len(data) + padding
            bar.update()
        end = 2 * tarfile.BLOCKSIZE  # of zeros, as POSIX has it
        file.write(bytes(end))
        size += end

    storage.write_whole(shard_path(out, number), write)
    ids = list(source.ids[first : first + len(rows)])
    offsets, lengths, checksums = (np.array(column, "i8") for column in zip(*rows, strict=True))
    counts, sizes = np.array([len(rows)], "i8"), np.array([size], "i8")
    part = Index(ids, counts, sizes, offsets, lengths, checksums.astype("u4"), reasons)
    made = to_bytes(part)
    storage.write_whole(_part_path(out, number), lambda file: file.write(made))
    return part


def _read(source: Source, first: int) -> Iterator[bytes | str]:
    """The bytes of the images from the first on, or why there are none; read ahead by threads."""

    def load(index: int) -> bytes | str:
        try:
            data = source.load(index)
        except OSError as error:
            return error.strerror or str(error) or type(error).__name__
        return data if len(data) <= MAX_BYTES else f"it has {len(data)} bytes, more than {MAX_BYTES}"

    waiting: deque[Future[bytes | str]] = deque()
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


def _name(one: str, path: str, data: bytes) -> str:
    """In the tar file: the id with the ending that the image had, or that its format has; it stays in the folder."""
    ending = os.path.splitext(path)[1]
    if ending.lower() not in IMAGE_EXTENSIONS:
        try:
            ending = f".{Image.open(BytesIO(data), formats=FORMATS).format}".lower()
        except Exception:  # Pillow raises all kinds; the bytes are kept, whatever they are
            ending = ".bin"
    return "/".join(part for part in one.split("/") if part not in ("", ".", "..")) + ending


def _header(name: str, size: int) -> bytes:
    """Of a tar file, the same for the same image at any time and for any user."""
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
