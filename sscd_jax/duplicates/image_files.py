"""What is known of each image file without a network: its size, a hash of its bytes, and its width and height.

    files.jsonl     a line for each image: id, path, file (whether it is a file of its own, and not one in a tar file or
                    a store), link (whether it is a symbolic link to a file), bytes, time (of the last change, in
                    nanoseconds since 1970, or 0 if it is not known), sha256, width and height (null if the header
                    cannot be read)

Lines are appended while the images are read, so that an interruption loses little, and the last line of an id counts.
In the end, the file is written again with one line for each image that is there.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from sscd_jax.data import failed_reads
from sscd_jax.data.image_source import Source
from sscd_jax.data.images import open_header
from sscd_jax.embedding.reading import Reader
from sscd_jax.files import atomic_file

FILE = "files.jsonl"
_THREADS = 16  # reading waits for disks and stores
_BLOCK = 256  # images that are read between two looks at the clock
_SECONDS = 5.0  # between two writes


class Seen(NamedTuple):
    """What is known of an image; None for what is not known where there is a descriptor only."""

    path: str
    file: bool
    link: bool
    bytes: int | None
    time: int
    sha256: str
    width: int | None
    height: int | None


def own_files(source: Source, out: Path) -> Source:
    """Returns a source without what is no image of its own, and says how many images were left out.

    A file that has several paths, by symbolic links or because sources overlap, has one of them: else it would be a
    duplicate of itself. And what `out` holds is of this package.
    """
    inside = os.path.join(os.path.realpath(out), "")
    chosen: dict[str, int] = {}
    ours = 0
    for index, path in enumerate(source.paths):
        real = os.path.realpath(path) if os.path.exists(path) else f"{index}"
        if real.startswith(inside) or os.path.abspath(path).startswith(inside):
            ours += 1
        elif real not in chosen or (real == os.path.abspath(path) and os.path.islink(source.paths[chosen[real]])):
            chosen[real] = index
    if others := len(source) - ours - len(chosen):
        what = "1 image is" if others == 1 else f"{others} images are"
        print(f"{what} left out: the same file has another path in the source", file=sys.stderr)
    return source if len(chosen) == len(source) else source.only(sorted(chosen.values()))


def look_at(
    source: Source, folder: Path | None = None, *, file: str = FILE, max_errors: int | None = None
) -> tuple[list[Seen | None], dict[int, str]]:
    """Reads all images that are new or have changed since they were last read, and hashes them.

    Args:
        source: the images, with unique ids.
        folder: the folder of the file; without one, nothing is written.
        file: the name of the file.
        max_errors: the number of images that a disk or a network may fail to deliver, as for `write_descriptors`.

    Returns:
        What is known of each image of the source, None where it cannot be read; and why, by the index of the image.

    Raises:
        OSError: more than `max_errors` images cannot be read, or the file cannot be written.
    """
    listed, reader = Path(os.devnull) if folder is None else folder / file, Reader(source)
    known, lines_before = _read(listed)
    seen: list[Seen | None] = [known.get(one) for one in source.ids]
    todo = [index for index, one in enumerate(seen) if one is None or not _is_current(one, reader, index)]
    limit, failed = failed_reads.most_failed_reads(len(source), max_errors), 0
    reasons: dict[int, str] = {}
    shown = {"desc": "hash", "unit": "image", "dynamic_ncols": True, "delay": 1, "leave": False}
    with listed.open("ab") as log, ThreadPoolExecutor(_THREADS) as pool, tqdm(total=len(todo), **shown) as bar:
        if todo and log.tell():
            log.write(b"\n")  # a killed process may have left half a line
        written = time.monotonic()
        for start in range(0, len(todo), _BLOCK):
            block = todo[start : start + _BLOCK]
            for index, found in zip(block, pool.map(lambda i: _look(source, reader, i), block), strict=True):
                seen[index] = found if isinstance(found, Seen) else None
                if isinstance(found, Seen):
                    log.write(_line(source.ids[index], found))
                else:
                    reasons[index] = str(getattr(found, "strerror", None) or found)
                    if failed_reads.is_failed_read(found, source.paths[index]):
                        failed += 1
                        failed_reads.check_failed_reads(failed, limit, source.paths[index], reasons[index])
                bar.update()
            if time.monotonic() - written > _SECONDS:
                log.flush()
                written = time.monotonic()
    if folder and (todo or lines_before != len(source)):
        write(listed, source.ids, seen)
    return seen, reasons


def write(file: Path, ids: Sequence[str], seen: Sequence[Seen | None]) -> None:
    """Writes the file with one line for each image that is known."""
    with atomic_file(file) as temporary, temporary.open("wb") as lines:
        for one, found in zip(ids, seen, strict=True):
            if found is not None:
                lines.write(_line(one, found))


def _look(source: Source, reader: Reader, index: int) -> Seen | Exception:
    """Reads an image. An error is returned, since those of some images do not end the work."""
    try:
        _, changed = reader.stamp(index)
        data = failed_reads.load(source, index)
    except Exception as error:
        return error
    place = _place(source.paths[index])
    width = height = None
    try:
        header = open_header(data)
        width, height = header.width, header.height
    except ValueError:
        pass  # embedding it says what is wrong
    return Seen(*place, len(data), changed, hashlib.sha256(data).hexdigest(), width, height)


def _place(path: str) -> tuple[str, bool, bool]:
    """Returns the place of an image, absolute if it is on disk, and whether it is a file and a symbolic link."""
    there = os.path.isfile(path)
    return os.path.abspath(path) if there else path, there, there and os.path.islink(path)


def _is_current(seen: Seen, reader: Reader, index: int) -> bool:
    if (seen.path, seen.file, seen.link) != _place(reader.source.paths[index]):  # another file has got the id
        return False
    try:
        size, changed = reader.stamp(index)
    except OSError:
        return False
    return size in (-1, seen.bytes) and changed == seen.time


def _line(one: str, seen: Seen) -> bytes:
    return json.dumps({"id": one, **seen._asdict()}).encode() + b"\n"


def _read(file: Path) -> tuple[dict[str, Seen], int]:
    """Returns what was written before, and the number of lines. Lines that are not complete are left out."""
    found: dict[str, Seen] = {}
    number = 0
    if file.exists():
        with file.open("rb") as lines:
            for line in lines:
                number += 1
                try:
                    values = json.loads(line)
                    one = str(values.pop("id"))
                    found[one] = Seen(**values)
                except (ValueError, AttributeError, KeyError, TypeError):
                    continue  # a process was killed while it wrote this line
    return found, number
