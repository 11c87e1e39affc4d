"""Images for inference: decoded by threads, resized by the preset, laid into arrays of few shapes."""

import errno
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from PIL import Image

from sscd_jax.data.image_source import Source
from sscd_jax.data.images import MAX_PIXELS, apply_preset, open_image
from sscd_jax.presets import Preset


@dataclass(frozen=True)
class Batch:
    """Images in one array, each in the upper left corner of its row.

    Attributes:
        index: int64 [n], which images of the source the first n rows hold.
        images: uint8 [B, H, W, 3], zero beyond the images.
        sizes: int32 [B, 2], their heights and widths; 1 in rows without an image.
        transposed: whether the images' rows are columns here, as they are higher than wide.
    """

    index: np.ndarray
    images: np.ndarray
    sizes: np.ndarray
    transposed: bool


@dataclass(frozen=True)
class Unreadable:
    """An image of the source that has no descriptor, and why."""

    index: int
    reason: str


def inference_batches(
    source: Source,
    groups: Iterable[Sequence[int]],
    preset: Preset,
    *,
    batch_size: int,
    multiple: int = 1,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Iterator[Batch | Unreadable]:
    """Batches of the shapes of `preset.canvases()`, one for each, whatever the images.

    An image goes to the smallest canvas that holds it, and a batch is made when that is full, so images come out of
    order; but all of a group come before any of the next, and the batches of a group depend on nothing else.

    Args:
        source: the images.
        groups: indexes of images.
        preset: how they are resized.
        batch_size: images in a batch on a square canvas; longer ones hold less, so that memory stays the same.
        multiple: of which the number of rows must be.
        max_pixels: larger images are unreadable.
        workers: threads; by default one for each core.

    Raises:
        ValueError: there are no workers.
        OSError: the process may open no more files.
    """
    canvases = preset.canvases()
    capacity = {(h, w): max(batch_size * preset.size**2 // (h * w) // multiple, 1) * multiple for h, w in canvases}
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be positive")
    ahead = 2 * max(batch_size, workers)
    loading = _load(source, groups, preset, max_pixels=max_pixels, workers=workers, ahead=ahead)
    waiting: dict[tuple[bool, tuple[int, int]], list[tuple[int, np.ndarray]]] = {
        (transposed, canvas): [] for transposed in (False, True) for canvas in canvases
    }

    def batch(key: tuple[bool, tuple[int, int]]) -> Batch:
        transposed, canvas = key
        images = np.zeros((capacity[canvas], *canvas, 3), np.uint8)
        sizes = np.ones((capacity[canvas], 2), np.int32)
        for row, (_, pixels) in enumerate(waiting[key]):
            sizes[row] = pixels.shape[:2]
            images[row, : pixels.shape[0], : pixels.shape[1]] = pixels
        index = np.array([index for index, _ in waiting[key]], np.int64)
        waiting[key].clear()
        return Batch(index, images, sizes, transposed)

    for item in loading:
        if item is None:  # the end of a group
            for key in _merge(waiting, capacity):
                yield batch(key)
            continue
        index, loaded = item
        if isinstance(loaded, str):
            yield Unreadable(index, loaded)
            continue
        pixels, transposed = loaded
        height, width = pixels.shape[:2]
        key = (transposed, next(canvas for canvas in canvases if canvas[0] >= height and canvas[1] >= width))
        waiting[key].append((index, pixels))
        if len(waiting[key]) == capacity[key[1]]:
            yield batch(key)


def _merge(
    waiting: dict[tuple[bool, tuple[int, int]], list[tuple[int, np.ndarray]]], capacity: dict[tuple[int, int], int]
) -> list[tuple[bool, tuple[int, int]]]:
    """The canvases that hold images, after those of small ones have moved to larger ones with room.

    All batches take the same time, however many rows are in use.
    """
    used = [key for key, images in waiting.items() if images]
    for small, large in pairwise(used):
        if small[0] == large[0] and len(waiting[small]) + len(waiting[large]) <= capacity[large[1]]:
            waiting[large] = waiting[small] + waiting[large]
            waiting[small] = []
    return [key for key in used if waiting[key]]


def _load(
    source: Source,
    groups: Iterable[Sequence[int]],
    preset: Preset,
    *,
    max_pixels: int,
    workers: int,
    ahead: int,
) -> Iterator[tuple[int, tuple[np.ndarray, bool] | str] | None]:
    """(index, (pixels, whether transposed) or why it cannot be read) in order; None after each group."""
    load = partial(_load_one, source, preset, max_pixels)
    pending: deque[tuple[int, Future] | None] = deque()
    pool = ThreadPoolExecutor(workers)

    def first() -> tuple[int, tuple[np.ndarray, bool] | str] | None:
        one = pending.popleft()
        return one and (one[0], one[1].result())

    try:
        for group in groups:
            for index in group:
                pending.append((index, pool.submit(load, index)))
                if len(pending) > ahead:
                    yield first()
            pending.append(None)
        while pending:
            yield first()
    finally:
        pool.shutdown(cancel_futures=True)


def _load_one(source: Source, preset: Preset, max_pixels: int, index: int) -> tuple[np.ndarray, bool] | str:
    try:
        image = open_image(source.load(index), exif=preset.exif, max_pixels=max_pixels)
        image = apply_preset(image, preset)
    except MemoryError:
        return "it does not fit into memory"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # it is not the image's fault, and none after it could be read
        return str(error)
    transposed = preset.ragged and image.height > image.width
    if transposed:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    return np.asarray(image), transposed
