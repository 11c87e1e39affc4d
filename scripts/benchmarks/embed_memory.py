"""Plots the memory of `sscd-jax embed` over a long collection; the curve should be flat.

    python scripts/benchmarks/embed_memory.py --out memory.png [--count 100000]

The images are cuts of the bundled photographs with several aspects. They are kept once and read many times, so that
nothing but the embedding can grow. The network is narrow and the images are small, so that it takes minutes.
"""

import argparse
import io
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sscd_jax import distributed

CANVAS = 64  # short side of what the network sees, in pixels
EVERY = 1.0  # seconds between two readings of the memory


def resident() -> float:
    """Returns the memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def encoded_cuts() -> list[bytes]:
    """Returns JPEGs of several aspect ratios, and one that is truncated."""
    from sscd_jax.data.sample import photograph_paths

    cuts = []
    for number, path in enumerate(photograph_paths().values()):
        width, height = [(200, 150), (150, 200), (180, 180), (320, 90), (96, 240)][number % 5]
        file = io.BytesIO()
        Image.open(path).convert("RGB").resize((width, height)).save(file, "JPEG", quality=90)
        cuts.append(file.getvalue())
    return [*cuts, cuts[0][:1000]]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="image of the curve to write, .png")
    parser.add_argument("--count", type=int, default=100_000, help="number of images (default %(default)s)")
    given = parser.parse_args(arguments)
    distributed.start()
    import jax
    import matplotlib.pyplot as plt

    from sscd_jax.data.image_source import Source
    from sscd_jax.embedding.collection import write_descriptors
    from sscd_jax.models import build_model
    from sscd_jax.presets import Preset

    model = build_model("resnet18", 512, width=8)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    cuts = encoded_cuts()
    ids = [f"{i:08d}" for i in range(given.count)]
    read = [0]

    def record(index: int) -> bytes:
        read[0] = max(read[0], index + 1)
        return cuts[index % len(cuts)]

    curve: list[tuple[int, float]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(EVERY):
            curve.append((read[0], resident()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        source = Source("made", ids, ids, record)
        options: dict[str, Any] = {"batch_size": 8, "shard_size": 1024}
        summary = write_descriptors(model, variables, source, Preset("short", CANVAS), Path(folder) / "out", **options)
    done.set()
    watcher.join()
    seconds = time.perf_counter() - start
    images, memory = zip(*curve, strict=True)
    figure, axes = plt.subplots(figsize=(7, 3))
    axes.plot(images, memory)
    axes.set(xlabel="images", ylabel="resident memory, MB", ylim=(0, None), title="sscd-jax embed")
    figure.tight_layout()
    figure.savefig(given.out)
    for share in range(10, 101, 10):
        near = min(curve, key=lambda point: abs(point[0] - given.count * share / 100))
        print(f"{near[0]:8d} images {near[1]:8.0f} MB")
    print(f"{summary['embedded']} embedded, {summary['unreadable']} could not be read, in {seconds:.0f} s")


if __name__ == "__main__":
    main()
