"""Decodes images in processes of their own, so that a decoder that crashes or never ends costs one image.

An image that has done so is quarantined: a line in a file of the cache folder names it, and it is not decoded again by
any later run, with or without these processes, as long as it has the same size in bytes.
"""

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sscd_jax.data import storage
from sscd_jax.data.images import apply_preset, open_header, to_rgb
from sscd_jax.data.pixel_budget import FREE_PIXELS, PixelBudget
from sscd_jax.files import cache_folder
from sscd_jax.presets import Preset

SECONDS = 60.0  # for one image; the largest one that is read takes about 3

Decoded = tuple[np.ndarray, bool] | str  # pixels and whether they are transposed, or why the image cannot be read


class DecoderCrashed(Exception):
    """A decoder crashed or did not end; the message says how."""


def decode(data: bytes, preset: Preset, *, max_pixels: int, budget: PixelBudget) -> Decoded:
    """Decodes an image and resizes it by a preset, within the budget of pixels.

    Returns:
        The pixels, uint8 [H, W, 3], and whether they are transposed, as presets that keep the aspect transpose an image
        that is taller than wide. Or the reason why the image cannot be read.
    """
    try:
        opened = open_header(data, max_pixels=max_pixels)
        with budget.take(opened.width * opened.height):
            image = apply_preset(to_rgb(opened, exif=preset.exif), preset)
            del opened  # with its pixels
    except MemoryError:
        return "it does not fit into memory"
    except (OSError, ValueError) as error:
        return str(error)
    transposed = preset.ragged and image.height > image.width
    if transposed:
        image = image.transpose(Image.Transpose.TRANSPOSE)
    return np.asarray(image), transposed


def end_with_parent() -> None:
    """Makes this process end when its parent ends, also if the parent is killed."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes call this"
    parent.join()
    os._exit(1)


def _decode_unless_large(data: bytes, preset: Preset, max_pixels: int) -> Decoded | int:
    """Does the same in a process; returns the number of pixels of an image that needs the budget of its parent."""
    try:
        opened = open_header(data, max_pixels=max_pixels)
    except ValueError as error:
        return str(error)
    pixels = opened.width * opened.height
    return pixels if pixels > FREE_PIXELS else _decode_any(data, preset, max_pixels)


def _decode_any(data: bytes, preset: Preset, max_pixels: int) -> Decoded:
    return decode(data, preset, max_pixels=max_pixels, budget=PixelBudget(1, max_pixels))


class IsolatedDecoder:
    """Decodes images in processes. Several threads may use it at once, each of which waits for one process.

    Args:
        workers: the number of processes.
        preset: how images are resized.
        max_pixels: images with more pixels count as unreadable.
        budget: the budget of pixels that all processes share.

    Raises:
        ImportError: the extra isolate is not installed.
        OSError: a process cannot be started.
    """

    def __init__(self, workers: int, preset: Preset, *, max_pixels: int, budget: PixelBudget) -> None:
        try:
            from pebble import ProcessPool
        except ImportError as error:
            raise ImportError("--isolate needs the extra isolate: pip install 'sscd_jax[isolate]'") from error
        # Forking is not safe, as this process may have threads of JAX and TensorFlow.
        self._pool = ProcessPool(workers, context=multiprocessing.get_context("spawn"), initializer=end_with_parent)
        self._budget, self._options = budget, (preset, max_pixels)
        self._running: set[Future[Any]] = set()
        self._lock = threading.Lock()
        try:
            self._call(_decode_unless_large, b"")
        except (DecoderCrashed, OSError) as error:  # not because of an image
            self.close()
            raise OSError(f"processes that decode cannot be started: {error}") from error

    def decode(self, data: bytes) -> Decoded:
        """Does the same as the function `decode`.

        Raises:
            DecoderCrashed: the process crashed twice, or did not end within SECONDS.
            OSError: the process was killed twice.
        """
        found = self._call(_decode_unless_large, data)
        if not isinstance(found, int):
            return found
        with self._budget.take(found):
            return self._call(_decode_any, data)

    def _call(self, function: Any, data: bytes) -> Any:
        from pebble import ProcessExpired

        try:
            with contextlib.suppress(ProcessExpired):  # once, as the system may have killed it for lack of memory
                return self._result(function, data)
            return self._result(function, data)
        except ProcessExpired as error:
            if error.exitcode == -signal.SIGKILL:  # which is not the fault of the image alone
                raise OSError("the system killed the decoder, perhaps for lack of memory") from error
            raise DecoderCrashed(f"the decoder crashed ({_cause(error.exitcode)})") from error
        except TimeoutError as error:
            raise DecoderCrashed(f"the decoder did not end within {SECONDS:.0f} seconds") from error

    def _result(self, function: Any, data: bytes) -> Any:
        with self._lock:
            future = self._pool.schedule(function, args=(data, *self._options), timeout=SECONDS)
            self._running.add(future)
        try:
            return future.result()
        finally:
            with self._lock:
                self._running.discard(future)

    def close(self) -> None:
        """Ends the processes at once. Threads that wait for them get an error."""
        with self._lock:
            self._pool.stop()
            running = [*self._running]
        for future in running:  # which `stop` does not always do
            future.cancel()
        self._pool.join()


def _cause(exitcode: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-exitcode).name
    return f"exit status {exitcode}"


class Quarantine:
    """The images whose decoders crashed or did not end, by path and size.

    Attributes:
        file: the file in the cache folder, with a line of JSON for each image.
    """

    def __init__(self) -> None:
        self.file = cache_folder("quarantine") / "images.jsonl"
        self._reasons = dict(_read(self.file))

    def reason(self, path: str, size: int) -> str | None:
        """Returns why an image of this path and this size in bytes must not be decoded, or None if it may."""
        if not self._reasons or (found := self._reasons.get((_place(path), size))) is None:
            return None
        return f"{found} in an earlier run; remove its line from {self.file} to try again"

    def add(self, path: str, size: int, reason: str) -> None:
        """Adds an image. If the file cannot be written, only this run knows of it."""
        self._reasons[_place(path), size] = reason
        with contextlib.suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a") as file:
                file.write(json.dumps({"path": _place(path), "bytes": size, "reason": reason}) + "\n")


def _read(file: Path) -> Iterator[tuple[tuple[str, int], str]]:
    try:
        lines = file.read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that a full disk cut off
            one = json.loads(line)
            yield (one["path"], one["bytes"]), one["reason"]


def _place(path: str) -> str:
    return path if storage.in_store(path) else os.path.abspath(path)
