"""Measures the memory that paths, plan, ids and the reading of descriptors take for many images.

    python scripts/benchmarks/many_images.py [--images 1e6 2e6 5e6 10e6] [--curve FILE.svg]

The images are made up: a list of paths of 60 bytes, to files that do not exist, whose descriptors are made up, too. All
else is what `sscd-jax embed` does: the list is opened, ids are checked, the plan is written, each shard is written and
found complete, the collection is compared with the source as in a second run, and the descriptors are read. Each number
of images is measured in a process of its own, after all imports. Memory is what the process holds itself (RssAnon of
/proc/self/status, at its highest); pages of memory-mapped files, which the system can take back, are not in it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from sscd_jax.cli.output import table
from sscd_jax.data.image_source import check_unique_ids
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.collection import LEAST_A_SHARD, MOST_SHARDS
from sscd_jax.embedding.reading import Reader, compare
from sscd_jax.embedding.saved_rows import IMAGE
from sscd_jax.embedding.shards import Shards
from sscd_jax.provenance import Provenance

LENGTH = 60  # bytes of a path
PROVENANCE = Provenance("0" * 64, "small_288", computation="made up")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", nargs="+", default=["1e6", "2e6", "5e6", "10e6"], help="default: %(default)s")
    parser.add_argument("--dims", type=int, default=16, help="length of a made-up descriptor (default: %(default)s)")
    parser.add_argument("--folder", help="folder for temporary files (default: the system's)")
    parser.add_argument("--curve", type=Path, help="SVG file for the curve (default: none)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(given.one, given.dims, Path(given.folder))))
        return
    rows = []
    for number in given.images:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            command = [sys.executable, __file__, "--one", str(int(float(number))), "--dims", str(given.dims)]
            found = subprocess.run([*command, "--folder", folder], check=True, stdout=subprocess.PIPE)
            rows.append(json.loads(found.stdout))
    print(table(rows))
    if given.curve:
        draw(rows, given.curve)


def measure(count: int, dims: int, folder: Path) -> dict[str, float]:
    """Returns the memory in MB above that after the imports, times in seconds, and the number of files."""
    source_file, out = folder / "list.txt", folder / "descriptors"
    with source_file.open("w") as file:
        for start in range(0, count, 1000):
            head = f"/photos/{start // 1000:06d}/"
            rows = range(start, min(start + 1000, count))
            file.writelines(f"{head}{row:0{LENGTH - len(head) - 4}d}.jpg\n" for row in rows)
    row: dict[str, float] = {"images": count}
    imported = anonymous()
    with measured(row, "open, plan", imported):
        source = open_source(str(source_file))
        check_unique_ids(source)
        shards = Shards(out, PROVENANCE, "float16", "made up")
        shards.plan.add(source.lookup, max(LEAST_A_SHARD, -(-count // MOST_SHARDS)))
    with measured(row, "write", imported):
        for number in shards.plan.numbers():
            ids = shards.plan.ids(number)
            vectors = np.random.default_rng(number).normal(size=(len(ids), dims)).astype(np.float32)
            shards.write(number, ids, vectors, np.zeros(len(ids), IMAGE), [])
        assert shards.finish(dims)
    with measured(row, "resume", imported):
        again = Shards(out, PROVENANCE, "float16", "made up")
        assert again.plan.add(source.lookup, 1) == 0
        assert not compare(again, again.complete(), Reader(source)).gone
    row["files"] = sum(path.is_file() for path in out.rglob("*"))
    del source, shards, again
    before, begun = anonymous(), time.perf_counter()
    found = Descriptors.read(out)
    row["read MB"], row["read s"] = round(anonymous() - before), round(time.perf_counter() - begun)
    row["vectors MB"] = round(found.vectors.shape[0] * dims * 4 / 1e6)
    assert len(found.ids) == count
    return row


@contextmanager
def measured(row: dict[str, float], name: str, before: float) -> Iterator[None]:
    """Adds the time of a block, and the highest memory during it, in MB above `before`, to a row."""
    peak, done = 0.0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.02):
            peak = max(peak, anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    start = time.perf_counter()
    yield
    row[f"{name} s"] = round(time.perf_counter() - start)
    done.set()
    thread.join()
    row[f"{name} MB"] = round(max(peak, anonymous()) - before)
    print(f"{name}: {row[f'{name} MB']} MB, {row[f'{name} s']} s", file=sys.stderr)


def anonymous() -> float:
    """Returns the memory in MB that this process holds itself."""
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1000


def draw(rows: list[dict[str, float]], path: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for name, label in (("open, plan MB", "open and plan"), ("resume MB", "resume"), ("read MB", "read descriptors")):
        axes.plot([row["images"] / 1e6 for row in rows], [row[name] / 1000 for row in rows], marker="o", label=label)
    axes.set(xlabel="million images", ylabel="memory, GB", xlim=0, ylim=0)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
