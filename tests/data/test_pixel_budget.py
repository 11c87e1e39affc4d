"""Threads decode few large images at a time, and any number of small ones."""

import io
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from sscd_jax.data.decode_tf import decode
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.pixel_budget import FREE_PIXELS, PixelBudget


def test_a_budget_is_never_exceeded():
    budget = PixelBudget(4)
    assert budget.pixels == 4 * FREE_PIXELS
    held, most, lock = 0, 0, threading.Lock()

    def work(pixels: int) -> None:
        nonlocal held, most
        with budget.take(pixels):
            with lock:
                held += pixels
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= pixels

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, [int(n) for n in np.random.default_rng(0).integers(FREE_PIXELS + 1, 4 * FREE_PIXELS, 100)]))
    assert 2 * FREE_PIXELS < most <= budget.pixels
    assert held == 0
    with budget.take(10 * budget.pixels):
        pass  # alone


def test_a_very_large_image_is_not_overtaken_and_small_ones_do_not_wait():
    budget, order = PixelBudget(1, max_pixels=10 * FREE_PIXELS), []
    threads = []

    def work(name: str, pixels: int) -> None:
        with budget.take(pixels):
            order.append(name)

    with budget.take(FREE_PIXELS + 1):
        for name, pixels in (("huge", 10 * FREE_PIXELS), ("large", FREE_PIXELS + 1)):
            threads.append(threading.Thread(target=work, args=(name, pixels)))
            threads[-1].start()
            time.sleep(0.1)
        work("small", FREE_PIXELS)
        assert order == ["small"]
    for thread in threads:
        thread.join()
    assert order == ["small", "huge", "large"]


def test_an_error_gives_the_pixels_back():
    budget = PixelBudget(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="damaged"), budget.take(MAX_PIXELS):
            raise ValueError("damaged")


def test_training_decodes_large_images_by_pillow_and_the_same_pixels(monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels[..., :3]).save(file, "PNG")
    before = decode(tf.constant(file.getvalue()))
    monkeypatch.setattr("sscd_jax.data.decode_tf.FREE_PIXELS", 1999)
    again = tf.function(decode.python_function, input_signature=decode.input_signature)
    np.testing.assert_array_equal(again(tf.constant(file.getvalue())), before)
    np.testing.assert_array_equal(before, pixels[..., :3])


def largest_png() -> bytes:
    """A file of 363 KB with as many pixels as an image may have, all of them half transparent."""
    side = int(MAX_PIXELS**0.5)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    compressor, row = zlib.compressobj(9), b"\0" + b"\x80" * (4 * side)
    data = b"".join(compressor.compress(row) for _ in range(side)) + compressor.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


MEASURE = """
import resource, sys
from pathlib import Path
from sscd_jax.data.images import formats
from sscd_jax.data.inference_pipeline import Batch, inference_batches
from sscd_jax.data.sources import open_source
from sscd_jax.presets import Preset
formats()
source = open_source(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
made = list(inference_batches(source, [range(4)], Preset("short", 288), batch_size=1, workers=4))
assert len(made) == 4 and all(isinstance(one, Batch) for one in made)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_four_threads_take_the_memory_of_one(tmp_path):
    data = largest_png()
    assert len(data) < 400_000
    for number in range(4):
        (tmp_path / f"{number}.png").write_bytes(data)
    run = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(run.stdout) / 1024 < 1100, "MiB; it was 5122 when each thread decoded at once, with all copies"
