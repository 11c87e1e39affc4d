"""The pictures of `benchmark_make`, made by processes of their own, which import neither JAX nor TensorFlow.

Whatever is drawn for a picture comes from the seed and the picture's name alone, so it does not matter which process
makes it, in what order, or whether another one began.
"""

import errno
import hashlib
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from sscd_jax.data.images import open_picture
from sscd_jax.data.sources import read_file
from sscd_jax.datasets.demo_set import detail
from sscd_jax.datasets.edits import WITH_OTHERS, edit
from sscd_jax.datasets.edits.common import Strength

FOLDERS = {"T": "training", "R": "references", "Q": "queries"}  # of pictures, by the first letter of their names

LEAST_SIDE = 64  # pixels
LONGEST_ASPECT = 4  # edits can make it several times as long, and presets end at 1:32
LEAST_DETAIL = 5.0
_QUALITIES = (85, 96)  # of JPEG

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Job:
    """What is made of one picture.

    Attributes:
        path: its file.
        plain: name, as R00001, of the picture itself; "" where only queries are made of it.
        queries: numbers and strengths of those that are edits of it.
    """

    path: str
    plain: str
    queries: tuple[tuple[int, Strength], ...] = ()


@dataclass(frozen=True)
class Maker:
    """What the processes share: options, the folder, and the files of the pictures that are held back."""

    folder: Path
    held_back: Sequence[str]
    seed: int
    edits: tuple[int, int]
    kinds: tuple[str, ...]
    max_side: int
    max_pixels: int

    def make(self, job: Job) -> dict[str, list[str]]:
        """Writes the pictures, and returns the edits of each by its name."""
        picture = self._open(job.path)
        edits: dict[str, list[str]] = {}
        if job.plain:
            self._save(picture, job.plain, self._rng(job.plain))
            edits[job.plain] = []
        for number, strength in job.queries:
            name = f"Q{number:05d}"
            rng = self._rng(name)
            count = int(rng.integers(self.edits[0], self.edits[1] + 1))
            offered = self._others(job.path, rng) if {*self.kinds} & {*WITH_OTHERS} else []
            edited, edits[name] = edit(picture, rng, offered, count, kinds=self.kinds, strength=strength)
            self._save(_reduced(edited, self.max_side), name, rng)
        return edits

    def path(self, name: str) -> Path:
        """Of a picture, as R00001."""
        return self.folder / FOLDERS[name[0]] / f"{name}.jpg"

    def _others(self, path: str, rng: np.random.Generator) -> Sequence[Image.Image]:
        """Up to three of those that are held back, none of them that of `path`."""
        drawn = rng.choice(len(self.held_back), min(4, len(self.held_back)), replace=False)
        return _Opened(self._open, [self.held_back[i] for i in drawn if self.held_back[i] != path][:3])

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, ord(name[0]), int(name[1:])])

    def _open(self, path: str) -> Image.Image:
        try:
            picture = open_picture(read_file(path), exif=True, max_pixels=self.max_pixels)
        except ValueError as error:
            raise OSError(f"{path} could be read before, and now cannot: {error}") from error
        picture.info = {}  # a comment of the original would be written again
        return _reduced(picture, self.max_side)

    def _save(self, picture: Image.Image, name: str, rng: np.random.Generator) -> None:
        path = self.path(name)
        unfinished = path.with_suffix(".unfinished")
        picture.save(unfinished, "JPEG", quality=int(rng.integers(*_QUALITIES)))
        unfinished.replace(path)


class _Opened(Sequence[Image.Image]):
    """Pictures that are opened where an edit takes them: most take none."""

    def __init__(self, opener: Callable[[str], Image.Image], paths: Sequence[str]) -> None:
        self.opener, self.paths = opener, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return self.opener(self.paths[index])


def _reduced(picture: Image.Image, side: int) -> Image.Image:
    """With sides of at most `side` pixels; never enlarged."""
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    width, height = (max(1, round(length * scale)) for length in picture.size)
    return picture.resize((width, height), Resampling.LANCZOS)


def look(max_pixels: int, one: tuple[int, str, str]) -> dict[str, Any]:
    """Whether a picture can serve, and what tells it from others.

    Args:
        max_pixels: larger ones are not read.
        one: its index, its file, and why that cannot be read, if that is known.

    Returns:
        index; and `unreadable` or `unfit`, which say why; or else `pixels`, a hash of them, and `thumbnail`, in
        hexadecimal digits 16 x 16 grey levels.
    """
    index, path, reason = one
    try:
        if reason:
            raise OSError(reason)
        picture = open_picture(read_file(path), exif=True, max_pixels=max_pixels)
        short, long = sorted(picture.size)
        size = f"{picture.width} x {picture.height} pixels"
        if short < LEAST_SIDE:
            return {"index": index, "unfit": f"too small: {size}"}
        if long > LONGEST_ASPECT * short:
            return {"index": index, "unfit": f"longer than 1:{LONGEST_ASPECT}: {size}"}
        if detail(picture) < LEAST_DETAIL:
            return {"index": index, "unfit": "too little to see: nearly one colour or one gradient"}
        pixels = hashlib.blake2b(picture.tobytes(), digest_size=16).hexdigest()
        thumbnail = picture.convert("L").resize((16, 16), Resampling.BOX)
    except MemoryError:
        return {"index": index, "unreadable": "it does not fit into memory"}
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
            raise  # it is not the picture's fault
        return {"index": index, "unreadable": str(error)}
    return {"index": index, "pixels": f"{size} {pixels}", "thumbnail": thumbnail.tobytes().hex()}


@contextmanager
def processes(function: Callable[[T], U], workers: int) -> Iterator[Callable[[Iterable[T]], Iterator[U]]]:
    """Gives a `map` whose results come in order, by so many processes; by this one alone where it is one."""
    if workers == 1:
        yield partial(map, function)
        return
    # Not forked: JAX and TensorFlow, which this process may have imported, have threads.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(function,))

    def mapped(jobs: Iterable[T]) -> Iterator[U]:
        pending: deque[Future[U]] = deque()
        try:
            for job in jobs:
                pending.append(pool.submit(_call, job))
                if len(pending) > 4 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            message = "one of the processes was killed, for lack of memory perhaps: take fewer --workers"
            raise OSError(f"{message}; the same command goes on") from error

    try:
        yield mapped
    finally:
        pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]


def _begin(function: Callable[[Any], Any]) -> None:
    """Of a process: Ctrl-C is for its parent to handle, and without the parent it ends."""
    global _function
    _function = function
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only processes of a pool come here"
    parent.join()
    os._exit(1)


def _call(job: Any) -> Any:
    return _function(job)
