"""Makes small images for pages, in several threads."""

import base64
import io
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from PIL import Image

from sscd_jax.data.images import open_header, to_rgb
from sscd_jax.data.pixel_budget import PixelBudget

SIDE = 208  # the long side in pixels; more than on the page, for dense screens

Load = Callable[[str], bytes]  # reads the encoded image of an id


class Thumbnails:
    """Makes thumbnails by threads, which run until the block ends.

    Args:
        load: a function that returns the encoded bytes of the image of an id, and raises OSError or ValueError where it
            cannot. Several threads call it.
    """

    def __init__(self, load: Load) -> None:
        workers = min(os.cpu_count() or 1, 16)
        self._load = load
        self._pool = ThreadPoolExecutor(workers)
        self._budget = PixelBudget(workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def of(self, ids: Iterable[str]) -> dict[str, str]:
        """Returns the thumbnail of each id: a JPEG as a data URI, or "" if the image cannot be read."""
        listed = list(ids)
        return dict(zip(listed, self._pool.map(self._make, listed), strict=True))

    def _make(self, one: str) -> str:
        """Decodes as `open_image` does, upright as EXIF says; a large JPEG at a half to an eighth of its size."""
        try:
            opened = open_header(self._load(one))
            with self._budget.take(opened.width * opened.height):
                opened.draft("RGB", (2 * SIDE, 2 * SIDE))
                small = to_rgb(opened, exif=True)
                small.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
        except (OSError, ValueError):
            return ""
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=80, comment=b"")
        return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
