"""Measures photographs per second from files to descriptors on this CPU, by this package and by PyTorch.

    python scripts/benchmarks/embed.py [--photographs DIR] [--count 1000] [--weights SRC]

    (a) PyTorch, small_288, one image at a time, as the official code runs images that keep their aspect
    (b) ours, small_288
    (c) PyTorch in batches of 8, and ours, skew_320
    (d) our decoding and resizing alone, small_288

Without --photographs it uses cuts of the bundled photographs, in the sizes and aspects that cameras and web pages have.
Without --weights it uses a ResNet-50 with initial weights; the time does not depend on them. All variants take the same
files in turn, each in its own warm process. Each uses as many threads as there are CPUs, and PyTorch also uses as many
processes that decode. The last figure is the time of the complete command `sscd-jax embed` for one photograph with a
warm compilation cache. The descriptors of PyTorch and ours are compared.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

THREADS = os.cpu_count() or 1
BATCH, ROUNDS = 8, 2
# Width and height of files, and how many of a hundred have these; a third of them are in portrait format.
SIZES = {
    (640, 480): 15,
    (1024, 768): 15,
    (1600, 1200): 10,
    (1024, 683): 15,
    (1500, 1000): 10,
    (1280, 720): 10,
    (800, 450): 5,
    (1080, 1080): 8,
    (600, 600): 5,
    (1200, 500): 3,
    (1000, 873): 3,
    (2400, 300): 1,
}

Describe = Callable[[Sequence[int]], np.ndarray]


def make_photographs(folder: Path, count: int) -> None:
    """Writes cuts of the bundled photographs as JPEG."""
    from sscd_jax.data.sample import photograph_paths

    photographs = [Image.open(path).convert("RGB") for path in photograph_paths().values()]
    rng = np.random.default_rng(0)
    sizes = [size for size, share in SIZES.items() for _ in range(share)]
    for number in range(count):
        width, height = sizes[int(rng.integers(len(sizes)))]
        if rng.random() < 1 / 3:
            width, height = height, width
        photograph = photographs[number % len(photographs)]
        scale = min(photograph.width / width, photograph.height / height) * float(rng.uniform(0.5, 1))
        cut = scale * width, scale * height
        left, top = (float(rng.uniform(0, side - used)) for side, used in zip(photograph.size, cut, strict=True))
        box = (left, top, left + cut[0], top + cut[1])
        resized = photograph.resize((width, height), Image.Resampling.BICUBIC, box=box)
        resized.save(folder / f"{number:05d}.jpg", quality=int(rng.integers(80, 96)))


def pytorch(weights: Path, folder: Path, *, aspect: bool) -> Describe:
    import torch
    from torch.utils.data import DataLoader, Subset
    from torchvision import transforms
    from torchvision.datasets.folder import default_loader

    from sscd_jax.presets import IMAGENET_MEAN, IMAGENET_STD
    from sscd_jax.weights.torch_model import build_torch

    torch.set_num_threads(THREADS)
    model = build_torch(json.loads((weights / "model_card.json").read_text())["network"]).eval()
    model.load_state_dict(torch.load(weights / "sscd.torchvision.pt", weights_only=True))
    prepare = transforms.Compose(
        [
            transforms.Resize(288 if aspect else [320, 320]),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )

    class Photographs(torch.utils.data.Dataset):
        paths = sorted(folder.iterdir())

        def __getitem__(self, index: int) -> Any:
            return prepare(default_loader(str(self.paths[index])))

    def describe(indexes: Sequence[int]) -> np.ndarray:
        rows = Subset(Photographs(), indexes)
        with torch.inference_mode():
            batches = DataLoader(rows, batch_size=1 if aspect else BATCH, num_workers=THREADS)
            return np.concatenate([model(batch).numpy() for batch in batches])

    return describe


def ours(weights: Path, folder: Path, preset: str) -> Describe:
    from sscd_jax import distributed, sharding

    distributed.start()
    from sscd_jax.data.inference_pipeline import Unreadable
    from sscd_jax.data.sources import open_source
    from sscd_jax.embedding.collection import default_batch_size
    from sscd_jax.embedding.embed import embed
    from sscd_jax.presets import PRESETS
    from sscd_jax.weights import load

    source, (model, variables) = open_source(str(folder)), load(weights)
    devices = sharding.create_mesh()

    def describe(indexes: Sequence[int]) -> np.ndarray:
        vectors = np.empty((len(indexes), model.dims), np.float32)
        first = indexes[0]
        options: dict[str, Any] = {"batch_size": default_batch_size(), "mesh": devices, "groups": [indexes]}
        for item in embed(model, variables, source, PRESETS[preset], **options):
            assert not isinstance(item, Unreadable)
            vectors[item[0] - first] = item[1]
        return vectors

    return describe


def decode(folder: Path) -> Describe:
    from sscd_jax.data.inference_pipeline import inference_batches
    from sscd_jax.data.sources import open_source
    from sscd_jax.presets import PRESETS

    source = open_source(str(folder))

    def describe(indexes: Sequence[int]) -> np.ndarray:
        for _ in inference_batches(source, [indexes], PRESETS["small_288"], batch_size=BATCH):
            pass
        return np.zeros((len(indexes), 1), np.float32)

    return describe


# What is measured, and the variant that its speed and its descriptors are compared with.
WAYS: dict[str, tuple[Callable[[Path, Path], Describe], str]] = {
    "(a) PyTorch, small_288, batch 1": (lambda w, f: pytorch(w, f, aspect=True), ""),
    "(b) ours, small_288": (lambda w, f: ours(w, f, "small_288"), "(a) PyTorch, small_288, batch 1"),
    "(c) PyTorch, skew_320, batch 8": (lambda w, f: pytorch(w, f, aspect=False), ""),
    "(c) ours, skew_320": (lambda w, f: ours(w, f, "skew_320"), "(c) PyTorch, skew_320, batch 8"),
    "(d) decode and resize alone": (lambda w, f: decode(f), ""),
}


def work(way: str, folder: Path, photographs: Path) -> None:
    """Warms up. Then, for each line [first, last) of stdin, embeds these photographs and prints the seconds."""
    answers = os.fdopen(os.dup(1), "w")  # libraries print to stdout too
    os.dup2(2, 1)
    describe = WAYS[way][0](folder / "weights", photographs)
    describe(range(min(len(list(photographs.iterdir())), 200)))  # compiles for every canvas
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        first, last = json.loads(line)
        start = time.perf_counter()
        vectors = describe(range(first, last))
        print(time.perf_counter() - start, file=answers, flush=True)
        np.save(folder / f"{way}-{first}.npy", vectors)


@contextlib.contextmanager
def workers(folder: Path, photographs: Path) -> Iterator[dict[str, subprocess.Popen[str]]]:
    with contextlib.ExitStack() as stack:
        started = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--work", way, str(folder), str(photographs)]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            started[way] = stack.enter_context(subprocess.Popen(command, **pipes))
            answer(started[way])
        yield started


def answer(worker: Any) -> str:
    line = worker.stdout.readline()
    if not line:
        sys.exit("a process has ended; its output is above")
    return line


def startup(weights: Path, photographs: Path, folder: Path) -> float:
    """Returns the seconds that the complete command takes for one photograph with a warm compilation cache."""
    (folder / "one.txt").write_text(f"{min(photographs.iterdir()).absolute()}\n")
    for out in ("cold", "warm"):
        start = time.perf_counter()
        options = [str(folder / "one.txt"), "--weights", str(weights), "--out", str(folder / out)]
        command = [sys.executable, "-c", "from sscd_jax.cli.main import main; main()", "embed", *options]
        subprocess.run(command, check=True, stdout=2, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def export(source: str | None, folder: Path) -> None:
    """Writes the weights for both. It runs in a separate process, whose memory is free again afterwards."""
    from sscd_jax import distributed

    distributed.start()
    import jax

    from sscd_jax.data.sources import open_source
    from sscd_jax.models import build_model
    from sscd_jax.presets import PRESETS
    from sscd_jax.weights.export import export as write
    from sscd_jax.weights.native import write_safetensors

    if not source:
        model = build_model("resnet50")
        variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
        source = str(folder / "initial.safetensors")
        write_safetensors(Path(source), model, variables, {})
    write(source, folder / "weights", format="torchvision", images=open_source("sample"), preset=PRESETS["skew_320"])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photographs", type=Path, help="folder of photographs, without folders in it")
    parser.add_argument("--count", type=int, default=1000, help="number of photographs (default 1000)")
    parser.add_argument(
        "--weights", help="weights of torchvision's width (64), in any format (default: initial weights)"
    )
    given = parser.parse_args(arguments)
    if absent := [name for name in ("torch", "torchvision") if not find_spec(name)]:
        sys.exit(f"not installed: {', '.join(absent)}; pip install 'sscd_jax[torch]'")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photographs = given.photographs or folder / "photographs"
        if not given.photographs:
            photographs.mkdir()
            make_photographs(photographs, given.count)
        count = min(given.count, len(list(photographs.iterdir())))
        subprocess.run([sys.executable, __file__, "--export", given.weights or "", str(folder)], check=True)
        rounds = [(count * i // ROUNDS, count * (i + 1) // ROUNDS) for i in range(ROUNDS)]
        seconds = dict.fromkeys(WAYS, 0.0)
        with workers(folder, photographs) as started:
            for part in rounds:
                for way, worker in started.items():
                    print(json.dumps(part), file=worker.stdin, flush=True)
                    seconds[way] += float(answer(worker))
                    print(f"{way}, photographs {part}: {seconds[way]:.1f} s so far", file=sys.stderr)
        vectors = {way: np.concatenate([np.load(folder / f"{way}-{first}.npy") for first, _ in rounds]) for way in WAYS}
        first_result = startup(folder / "weights", photographs, folder)
    print(f"{count} photographs, {THREADS} threads\n{'':34}{'images/s':>10}{'ratio':>8}{'lowest cosine':>15}")
    for way, (_, peer) in WAYS.items():
        line = f"{way:34}{count / seconds[way]:10.2f}"
        if peer:
            line += f"{seconds[peer] / seconds[way]:7.2f}x{(vectors[way] * vectors[peer]).sum(1).min():15.7f}"
        print(line)
    print(f"sscd-jax embed of one photograph, warm compilation cache: {first_result:.1f} s from start to end")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--export"]:
        export(sys.argv[2], Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
