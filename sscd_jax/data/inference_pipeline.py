"""Batches for inference: threads decode and resize images, which are padded to arrays of few shapes."""

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
from sscd_jax.data.images import MAX_PIXELS, apply_preset, open_header, to_rgb
from sscd_jax.data.pixel_budget import PixelBudget
from sscd_jax.presets import Preset


@dataclass(frozen=True)
class Batch:
    """Images in one array, each padded with zeros at the right and at the bottom.

    Attributes:
        index: int64 [n], the indexes in the source of the images in the first n rows.
        images: uint8 [B, H, W, 3]; rows beyond n are zero.
        sizes: int32 [B, 2], height and width of each image; 1 in rows without an image.
        transposed: whether these are images that are taller than wide, all of which are transposed.
    """

    index: np.ndarray
    images: np.ndarray
    sizes: np.ndarray
    transposed: bool


@dataclass(frozen=True)
class Unreadable:
    """An image of the source that cannot be read or resized, and why."""

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
    """Yields batches whose shapes are those of `preset.canvases()`, one shape for each canvas.

    An image goes to the smallest canvas that it fits on, and a batch is yielded when its canvas is full. Images are
    therefore not in order, but all images of a group come before any of the next group, and the batches of a group do
    not depend on the other groups.

    Args:
        source: the images.
        groups: groups of indexes of images.
        preset: how images are resized.
        batch_size: the number of images in a batch on a square canvas. Longer canvases have fewer, so that every batch
            takes the same memory.
        multiple: the row count is a multiple of this.
        max_pixels: images with more pixels than this count as unreadable.
        workers: the number of threads; by default one for each core.

    Yields:
        Batches, and an `Unreadable` for each image that cannot be read or resized.

    Raises:
        ValueError: `workers` is not positive.
        OSError: the process cannot open more files.
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
    """Moves images from small canvases to larger ones with room, and returns the canvases that are still used.

    A batch takes the same time whatever the number of rows in use, so fewer batches are faster.
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
    """Yields (index, (pixels, whether transposed) or why it cannot be read) in order, and None after each group."""
    load = partial(_load_one, source, preset, max_pixels, PixelBudget(workers, max_pixels))
    pending: deque[tuple[int, Future] | None] = deque()
    pool = ThreadPoolExecutor(workers)

    def first() -> tuple[int, tuple[np.ndarray, bool] | str] | None:
        item = pending.popleft()
        return item and (item[0], item[1].result())

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


def _load_one(
    source: Source, preset: Preset, max_pixels: int, budget: PixelBudget, index: int
) -> tuple[np.ndarray, bool] | str:
    try:
        opened = open_header(source.load(index), max_pixels=max_pixels)
        with budget.take(opened.width * opened.height):
            image = apply_preset(to_rgb(opened, exif=preset.exif), preset)
            del opened  # with its pixels
    except MemoryError:
        return "it does not fit into memory"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no image could be read after this one
        return str(error)
    transposed = preset.ragged and image.height > image.width
    if transposed:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    return np.asarray(image), transposed
