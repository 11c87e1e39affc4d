"""Which images of a source `benchmark_make` takes: those that can be read, show something, and are there once."""

import errno
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Resampling
from tqdm import tqdm

from sscd_jax.data.image_source import ERRORS_SHOWN, UNNAMABLE, Source, read_file
from sscd_jax.data.images import open_image
from sscd_jax.datasets.worker_pool import processes
from sscd_jax.descriptors import is_line
from sscd_jax.files import write_text

LOOKED_AT, ORIGINALS = "looked_at.jsonl", "originals"
# Of gray thumbnails, 16 x 16: correlated more than this, two images are taken for one.
_NEARLY_THE_SAME = 0.98


def choose(
    source: Source, order: Sequence[int], needed: int, folder: Path, *, max_pixels: int, workers: int
) -> tuple[list[int], list[tuple[str, str]], list[dict[str, str]]]:
    """Takes the first `needed` images, of that order, that can serve; no more than these are looked at.

    Args:
        source: the images.
        order: their indexes.
        needed: how many to take; fewer if there are no more.
        folder: what was looked at is logged there, and images of archives are copied to it.
        max_pixels: larger images are not read.
        workers: processes.

    Returns:
        Those that are taken; ids of those that are left out, and why; paths of those that cannot be read, and why.
    """
    sieve, done = _Sieve(source), 0
    log = Log(folder / LOOKED_AT)
    known = {line["index"]: line for line in log.lines}
    with (
        tqdm(total=min(needed, len(order)), desc="looking", unit="image", dynamic_ncols=True) as bar,
        processes(partial(look, max_pixels), workers) as mapped,
    ):
        while done < len(order) and len(sieve.kept) < needed:
            block = order[done : done + needed - len(sieve.kept)]
            done += len(block)
            bar.total = done
            bar.update(sum(index in known for index in block))
            # As they lie: a Parquet file is read by groups of rows.
            for seen in mapped(_local(source, folder, [index for index in sorted(block) if index not in known])):
                log.add(seen)
                known[seen["index"]] = seen
                bar.update()
            sieve.add([known[index] for index in block])
    for number, error in enumerate(sieve.errors):
        if number == ERRORS_SHOWN:
            print(f"{len(sieve.errors) - number} more cannot be read", file=sys.stderr)
            break
        print("cannot read {path}: {reason}".format(**error), file=sys.stderr)
    if sieve.left_out:
        print(f"left out {len(sieve.left_out)} that are no use or there twice: see left_out.csv", file=sys.stderr)
    return sieve.kept, sieve.left_out, sieve.errors


def _local(source: Source, folder: Path, indexes: Iterable[int]) -> Iterator[tuple[int, str, str]]:
    """Index, file, and why it cannot be read, if that is known. Images of archives and stores become files."""
    for index in indexes:
        path, reason = local_file(source, folder, index), ""
        if not is_line(source.ids[index]):
            reason = UNNAMABLE
        elif path != source.paths[index] and not os.path.exists(path):
            try:
                data = source.load(index)
            except OSError as error:
                reason = str(error) or type(error).__name__
            else:
                Path(f"{path}.unfinished").write_bytes(data)
                os.replace(f"{path}.unfinished", path)
        yield index, path, reason


def local_file(source: Source, folder: Path, index: int) -> str:
    """Where processes find an image, after `choose`."""
    if source.record is None and "://" not in source.paths[index]:
        return source.paths[index]
    return str(folder / ORIGINALS / str(index))


class _Sieve:
    """Keeps of images that are the same, or nearly, the first."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.kept: list[int] = []
        self.left_out: list[tuple[str, str]] = []
        self.errors: list[dict[str, str]] = []
        self._by_pixels: dict[str, int] = {}
        self._thumbnails = np.zeros((1024, 256), np.float32)  # of `kept`, of mean 0 and length 1

    def add(self, seen: Sequence[dict[str, Any]]) -> None:
        for start in range(0, len(seen), 1024):
            self._add(seen[start : start + 1024])

    def _add(self, seen: Sequence[dict[str, Any]]) -> None:
        fit = [one for one in seen if "pixels" in one]
        thumbnails = np.array([[*bytes.fromhex(one["thumbnail"])] for one in fit], np.float32).reshape(-1, 256)
        thumbnails -= thumbnails.mean(1, keepdims=True)
        thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
        before = len(self.kept)
        while before + len(fit) > len(self._thumbnails):
            self._thumbnails = np.concatenate([self._thumbnails, np.zeros_like(self._thumbnails)])
        alike = thumbnails @ np.concatenate([self._thumbnails[:before], thumbnails]).T
        columns = [*range(before)]  # of `alike`, those of `kept`
        row = 0
        for one in seen:
            index = one["index"]
            name, path = self.source.ids[index], self.source.paths[index]
            if "unreadable" in one:
                self.errors.append({"path": path if is_line(path) else ascii(path)[1:-1], "reason": one["unreadable"]})
                continue
            if "unfit" in one:
                self.left_out.append((name, one["unfit"]))
                continue
            nearest = int(np.argmax(alike[row, columns])) if columns else -1
            if one["pixels"] in self._by_pixels:
                same = self.source.ids[self._by_pixels[one["pixels"]]]
                self.left_out.append((name, f"the same image as {same}"))
            elif columns and alike[row, columns[nearest]] > _NEARLY_THE_SAME:
                self.left_out.append((name, f"nearly the same image as {self.source.ids[self.kept[nearest]]}"))
            else:
                self._by_pixels[one["pixels"]] = index
                self._thumbnails[len(self.kept)] = thumbnails[row]
                self.kept.append(index)
                columns.append(before + row)
            row += 1


class Log:
    """Lines of JSON that are added one by one; one that a killed process left cut off is dropped."""

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in whole.splitlines()]
        write_text(path, whole)

    def add(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def detail(image: Image.Image) -> float:
    """How much there is to see: the standard deviation, in gray levels (0 to 255), of the image
    reduced to 16x16, less its best-fitting plane. Near 0 for a flat area and a smooth gradient.
    """
    gray = np.asarray(image.convert("L").resize((16, 16), Resampling.BOX), np.float64).ravel()
    y, x = np.divmod(np.arange(256), 16)
    plane = np.stack([x, y, np.ones(256)], axis=1)
    return float(np.std(gray - plane @ np.linalg.lstsq(plane, gray)[0]))


LEAST_SIDE = 64  # pixels


LONGEST_ASPECT = 4  # edits can make it several times as long, and presets end at 1:32


LEAST_DETAIL = 5.0


def look(max_pixels: int, one: tuple[int, str, str]) -> dict[str, Any]:
    """Whether an image can serve, and what tells it from others.

    Args:
        max_pixels: larger ones are not read.
        one: its index, its file, and why that cannot be read, if that is known.

    Returns:
        index; and `unreadable` or `unfit`, which say why; or else `pixels`, a hash of them, and `thumbnail`, in
        hexadecimal digits 16 x 16 gray levels.
    """
    index, path, reason = one
    try:
        if reason:
            raise OSError(reason)
        image = open_image(read_file(path), exif=True, max_pixels=max_pixels)
        short, long = sorted(image.size)
        size = f"{image.width} x {image.height} pixels"
        if short < LEAST_SIDE:
            return {"index": index, "unfit": f"too small: {size}"}
        if long > LONGEST_ASPECT * short:
            return {"index": index, "unfit": f"longer than 1:{LONGEST_ASPECT}: {size}"}
        if detail(image) < LEAST_DETAIL:
            return {"index": index, "unfit": "too little to see: nearly one color or one gradient"}
        pixels = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        thumbnail = image.convert("L").resize((16, 16), Resampling.BOX)
    except MemoryError:
        return {"index": index, "unreadable": "it does not fit into memory"}
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # it is not the image's fault
        return {"index": index, "unreadable": str(error)}
    return {"index": index, "pixels": f"{size} {pixels}", "thumbnail": thumbnail.tobytes().hex()}
