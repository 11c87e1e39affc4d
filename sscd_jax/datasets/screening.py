"""Selects the images of a source that can serve in a benchmark: readable, with enough detail, and no duplicates."""

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
from sscd_jax.data.names import printable
from sscd_jax.datasets.worker_pool import ordered_map
from sscd_jax.descriptors import is_line
from sscd_jax.files import write_bytes, write_text

SCREENED, ORIGINALS = "screened.jsonl", "originals"
LEAST_SIDE = 64  # pixels
LONGEST_ASPECT = 4  # edits can multiply it, and presets take at most 1:32
LEAST_DETAIL = 5.0  # gray levels
# Two images are near duplicates if their grayscale thumbnails of 16 x 16 pixels have a higher correlation.
_NEARLY_THE_SAME = 0.98


def select_images(
    source: Source, order: Sequence[int], needed: int, folder: Path, *, max_pixels: int, workers: int
) -> tuple[list[int], list[tuple[str, str]], list[dict[str, str]]]:
    """Selects the first `needed` images in the given order that can serve. No more images than necessary are read.

    Args:
        source: the images.
        order: the indexes of the images.
        needed: the number of images to select; fewer are selected if there are no more.
        folder: where results are logged, so that they are not computed again, and where images of archives are copied.
        max_pixels: images with more pixels than this count as unreadable.
        workers: the number of processes.

    Returns:
        The indexes of the selected images; (id, reason) of images that were left out; and the path and the reason of
        images that cannot be read.
    """
    selection, done = _Selection(source), 0
    log = Log(folder / SCREENED)
    known = {line["index"]: line for line in log.lines}
    with (
        tqdm(total=min(needed, len(order)), desc="screening", unit="image", dynamic_ncols=True) as bar,
        ordered_map(partial(screen_image, max_pixels), workers) as screened,
    ):
        while done < len(order) and len(selection.kept) < needed:
            block = order[done : done + needed - len(selection.kept)]
            done += len(block)
            bar.total = done
            bar.update(sum(index in known for index in block))
            # In the order of the source, as a Parquet file is read in groups of rows.
            new = [index for index in sorted(block) if index not in known]
            for result in screened(_local_files(source, folder, new)):
                log.add(result)
                known[result["index"]] = result
                bar.update()
            selection.add([known[index] for index in block])
    for number, error in enumerate(selection.errors):
        if number == ERRORS_SHOWN:
            more = len(selection.errors) - number
            print(f"{more} more images cannot be read; errors.jsonl of OUT lists all", file=sys.stderr)
            break
        print(printable("cannot read {path}: {reason}".format(**error)), file=sys.stderr)
    if selection.left_out:
        count = len(selection.left_out)
        print(f"left out {count} unusable or duplicate images: see left_out.csv", file=sys.stderr)
    return selection.kept, selection.left_out, selection.errors


def _local_files(source: Source, folder: Path, indexes: Iterable[int]) -> Iterator[tuple[int, str, str]]:
    """Yields the index of each image, its file, and why it cannot be read, if that is known, or "".

    Images of archives and stores are copied to files.
    """
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
                write_bytes(path, data)
        yield index, path, reason


def local_file(source: Source, folder: Path, index: int) -> str:
    """Returns the file of an image that `select_images` has read."""
    if source.record is None and "://" not in source.paths[index]:
        return source.paths[index]
    return str(folder / ORIGINALS / str(index))


class _Selection:
    """Selects images, and only the first of several duplicates or near duplicates.

    Attributes:
        kept, left_out, errors: what `select_images` returns.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.kept: list[int] = []
        self.left_out: list[tuple[str, str]] = []
        self.errors: list[dict[str, str]] = []
        self._by_pixels: dict[str, int] = {}
        self._thumbnails = np.zeros((1024, 256), np.float32)  # of `kept`, with mean 0 and norm 1

    def add(self, results: Sequence[dict[str, Any]]) -> None:
        """Adds images, by the results of `screen_image`, in order."""
        for start in range(0, len(results), 1024):
            self._add(results[start : start + 1024])

    def _add(self, results: Sequence[dict[str, Any]]) -> None:
        fit = [result for result in results if "pixels" in result]
        thumbnails = np.array([[*bytes.fromhex(result["thumbnail"])] for result in fit], np.float32).reshape(-1, 256)
        thumbnails -= thumbnails.mean(1, keepdims=True)
        thumbnails /= np.linalg.norm(thumbnails, axis=1, keepdims=True)
        before = len(self.kept)
        while before + len(fit) > len(self._thumbnails):
            self._thumbnails = np.concatenate([self._thumbnails, np.zeros_like(self._thumbnails)])
        correlations = thumbnails @ np.concatenate([self._thumbnails[:before], thumbnails]).T
        columns = [*range(before)]  # of `correlations` that belong to `kept`
        row = 0
        for result in results:
            index = result["index"]
            image_id, path = self.source.ids[index], self.source.paths[index]
            if "unreadable" in result:
                shown = path if is_line(path) else ascii(path)[1:-1]
                self.errors.append({"path": shown, "reason": result["unreadable"]})
                continue
            if "unfit" in result:
                self.left_out.append((image_id, result["unfit"]))
                continue
            nearest = int(np.argmax(correlations[row, columns])) if columns else -1
            if result["pixels"] in self._by_pixels:
                same = self.source.ids[self._by_pixels[result["pixels"]]]
                self.left_out.append((image_id, f"the same image as {same}"))
            elif columns and correlations[row, columns[nearest]] > _NEARLY_THE_SAME:
                self.left_out.append((image_id, f"nearly the same image as {self.source.ids[self.kept[nearest]]}"))
            else:
                self._by_pixels[result["pixels"]] = index
                self._thumbnails[len(self.kept)] = thumbnails[row]
                self.kept.append(index)
                columns.append(before + row)
            row += 1


class Log:
    """A file of JSON lines, to which lines are appended. An incomplete last line, of a killed process, is dropped.

    Attributes:
        lines: the lines that were in the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        complete = text[: text.rfind("\n") + 1]
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in complete.splitlines()]
        write_text(path, complete)

    def add(self, line: dict[str, Any]) -> None:
        """Appends a line to the file."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def detail(image: Image.Image) -> float:
    """Measures how much detail an image has.

    Returns:
        The standard deviation, in gray levels (0 to 255), of the image reduced to 16 x 16 pixels, minus the plane that
        fits it best. It is near 0 for a flat area and for a smooth gradient.
    """
    gray = np.asarray(image.convert("L").resize((16, 16), Resampling.BOX), np.float64).ravel()
    y, x = np.divmod(np.arange(256), 16)
    plane = np.stack([x, y, np.ones(256)], axis=1)
    return float(np.std(gray - plane @ np.linalg.lstsq(plane, gray)[0]))


def screen_image(max_pixels: int, job: tuple[int, str, str]) -> dict[str, Any]:
    """Checks whether an image can serve, and computes what identifies it.

    Args:
        max_pixels: images with more pixels than this count as unreadable.
        job: the index of the image, its file, and why it cannot be read, if that is known, or "".

    Returns:
        A dict with `index` and either `unreadable` or `unfit`, the reason, or else with `pixels`, its size and a hash
        of its pixels, and `thumbnail`, 16 x 16 gray levels in hexadecimal.
    """
    index, path, reason = job
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
            return {"index": index, "unfit": "too little detail: nearly one color or one gradient"}
        pixels = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        thumbnail = image.convert("L").resize((16, 16), Resampling.BOX)
    except MemoryError:
        return {"index": index, "unreadable": "it does not fit into memory"}
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no image could be read after this one
        return {"index": index, "unreadable": str(error)}
    return {"index": index, "pixels": f"{size} {pixels}", "thumbnail": thumbnail.tobytes().hex()}
