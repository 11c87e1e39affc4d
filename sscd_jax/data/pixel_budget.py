"""Limits how many pixels of large images all threads together decode at a time."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sscd_jax.data.images import MAX_PIXELS

FREE_PIXELS = 24_000_000  # an image of a usual camera, about 72 MB as RGB


class PixelBudget:
    """The pixels that threads may hold at a time.

    A file of some hundred kilobytes can hold an image of 89 million pixels, which takes up to 7 bytes a pixel while it
    is decoded. Images of at most FREE_PIXELS are not counted, so that they never wait. Larger ones wait for one another
    in order until their pixels fit into the budget.

    Args:
        workers: the number of threads, each of which adds FREE_PIXELS to the budget.
        max_pixels: the pixels of the largest image that is read; the budget is never smaller.
    """

    def __init__(self, workers: int | None = None, max_pixels: int = MAX_PIXELS) -> None:
        self.pixels = max((workers or os.cpu_count() or 1) * FREE_PIXELS, max_pixels)
        self._left = self.pixels
        self._changed = threading.Condition()
        self._first = threading.Lock()  # of the threads that wait: no other one may overtake a very large image

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Holds pixels of the budget while the block runs. Waits until there are as many."""
        if pixels <= FREE_PIXELS:
            yield
            return
        pixels = min(pixels, self.pixels)
        with self._first, self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify()
