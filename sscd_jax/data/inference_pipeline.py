"""Batches for inference: threads decode and resize images, which are padded to arrays of few shapes."""

import errno
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from sscd_jax.data.image_source import Source
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.isolated import Decoded, DecoderCrashed, IsolatedDecoder, Quarantine, decode
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
    isolate: bool = False,
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
        isolate: whether each thread decodes in a process of its own. A decoder that crashes or does not end then costs
            one image, which is not decoded by later calls either; see `data.isolated`.

    Yields:
        Batches, and an `Unreadable` for each image that cannot be read or resized.

    Raises:
        ValueError: `workers` is not positive.
        OSError: the process cannot open more files, or no processes can be started.
        ImportError: `isolate` is true and the extra isolate is not installed.
    """
    canvases = preset.canvases()
    capacity = {(h, w): max(batch_size * preset.size**2 // (h * w) // multiple, 1) * multiple for h, w in canvases}
    workers = (os.cpu_count() or 1) if workers is None else workers
    if workers < 1:
        raise ValueError(f"--workers is {workers}; it must be positive")
    ahead = 2 * max(batch_size, workers)
    loading = _load(source, groups, preset, max_pixels=max_pixels, workers=workers, ahead=ahead, isolate=isolate)
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
    isolate: bool,
) -> Iterator[tuple[int, Decoded] | None]:
    """Yields (index, (pixels, whether transposed) or why it cannot be read) in order, and None after each group."""
    budget = PixelBudget(workers, max_pixels)
    isolated = IsolatedDecoder(workers, preset, max_pixels=max_pixels, budget=budget) if isolate else None
    decoder = isolated.decode if isolated else partial(decode, preset=preset, max_pixels=max_pixels, budget=budget)
    load = partial(_load_one, source, decoder, Quarantine())
    pending: deque[tuple[int, Future] | None] = deque()
    pool = ThreadPoolExecutor(workers)

    def first() -> tuple[int, Decoded] | None:
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
        if isolated:
            isolated.close()  # the threads that wait for its processes end, too
        pool.shutdown(cancel_futures=True)


def _load_one(source: Source, decoder: Callable[[bytes], Decoded], quarantine: Quarantine, index: int) -> Decoded:
    path = source.paths[index]
    try:
        data = source.load(index)
    except MemoryError:
        return "it does not fit into memory"
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # no image could be read after this one
        return str(error)
    if reason := quarantine.reason(path, len(data)):
        return reason
    try:
        return decoder(data)
    except DecoderCrashed as error:
        quarantine.add(path, len(data), str(error))
        return str(error)
    except OSError as error:
        return str(error)
