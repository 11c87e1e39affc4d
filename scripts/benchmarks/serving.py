"""Measures how many images per second each runtime and the official network in PyTorch embed on this CPU.

    python scripts/benchmarks/serving.py SRC [--size 288] [--seconds 20]

SRC is a network of torchvision's width (64) in any format that `sscd-jax weights` reads. It is exported to a temporary
folder. Each runtime loads its bundle in a separate process and must compute the golden descriptors. All runtimes take
the same photographs as numpy arrays and return numpy arrays; the second column says whether these are uint8 pixels or
normalized float32. All use as many threads as there are CPUs. They run in turn, and the best call of each counts. On a
busy machine, PyTorch slows down most, which makes the ratios too good: run this on an idle machine.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROUNDS = 10  # many short ones, so that every runtime gets an undisturbed one
BATCHES = (1, 8)
THREADS = os.cpu_count() or 1
EXPORTS = {  # bundle: format, input
    "torchvision": ("torchvision", "float32"),
    "stablehlo": ("stablehlo", "uint8"),
    "onnx float32": ("onnx", "float32"),
    "onnx uint8": ("onnx", "uint8"),
    "saved_model": ("saved_model", "uint8"),
}

Call = Callable[[np.ndarray], np.ndarray]


def export(source: str, folder: Path, size: int) -> None:
    """Writes the bundles of `EXPORTS`. It runs in a separate process, whose memory is freed before the first round."""
    from sscd_jax import distributed

    distributed.start()
    from sscd_jax.data.sources import open_source
    from sscd_jax.presets import Preset
    from sscd_jax.weights import export as exports

    for name, (format, input) in EXPORTS.items():
        out = folder / name
        options: dict[str, Any] = {"format": format, "input": input}
        exports.export(source, out, images=open_source("sample"), preset=Preset("skew", size), **options)


def pytorch(bundle: Path) -> Call:
    import torch

    from sscd_jax.weights.torch_model import build_torch

    torch.set_num_threads(THREADS)
    model = build_torch(json.loads((bundle / "model_card.json").read_text())["network"]).eval()
    model.load_state_dict(torch.load(bundle / "sscd.torchvision.pt", weights_only=True))

    def call(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(images)).numpy()

    return call


def our_network(bundle: Path, *, folded: bool) -> Call:
    from sscd_jax import distributed

    distributed.start()
    import jax

    from sscd_jax.models.folding import fold
    from sscd_jax.weights import load

    model, variables = load(bundle)
    model, variables = fold(model, variables) if folded else (model, variables)
    variables = jax.device_put(variables)
    apply = jax.jit(model.apply)
    return lambda images: np.asarray(apply(variables, images))


def stablehlo(bundle: Path) -> Call:
    from sscd_jax import distributed

    distributed.start()
    import jax
    import safetensors.numpy
    from jax import export

    weights = jax.device_put(safetensors.numpy.load_file(bundle / "weights.safetensors"))
    program = jax.jit(export.deserialize(bytearray((bundle / "sscd.stablehlo").read_bytes())).call)
    return lambda images: np.asarray(program(weights, images))


def onnx_runtime(bundle: Path) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = THREADS, 1
    session = onnxruntime.InferenceSession(bundle / "sscd.onnx", options, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["descriptors"], {"images": images})[0]


def saved_model(bundle: Path) -> Call:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    loaded = tf.saved_model.load(str(bundle / "sscd" / "1"))
    signature = loaded.signatures["serving_default"]
    return lambda images: signature(images=tf.constant(images))["descriptors"].numpy()


# What is measured: its bundle, its input, and the function that loads it. The first is the reference.
RUNTIMES: dict[str, tuple[str, str, Callable[[Path], Call]]] = {
    "official network, PyTorch": ("torchvision", "float32 NCHW", pytorch),
    "our network, batch normalization": (
        "torchvision",
        "float32 NHWC",
        lambda bundle: our_network(bundle, folded=False),
    ),
    "our network, folded": ("torchvision", "float32 NHWC", lambda bundle: our_network(bundle, folded=True)),
    "StableHLO": ("stablehlo", "uint8 NHWC", stablehlo),
    "ONNX Runtime, float32": ("onnx float32", "float32 NCHW", onnx_runtime),
    "ONNX Runtime, uint8": ("onnx uint8", "uint8 NHWC", onnx_runtime),
    "SavedModel, TensorFlow": ("saved_model", "uint8 NHWC", saved_model),
}


def golden_images(bundle: Path, input: str) -> np.ndarray:
    """Returns the golden images as the input of a runtime."""
    pixels = np.stack([np.asarray(Image.open(path)) for path in sorted(bundle.glob("golden/*.png"))])
    if input.startswith("uint8"):
        return pixels
    preset = json.loads((bundle / "model_card.json").read_text())["preset"]
    images = ((pixels / 255 - preset["mean"]) / preset["std"]).astype(np.float32)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)) if input.endswith("NCHW") else images


def work(runtime: str, folder: Path) -> None:
    """Loads and checks a runtime, then measures it for as many seconds as each line of stdin says.

    Writes the images per second of each batch size to stdout, as JSON.
    """
    name, input, load = RUNTIMES[runtime]
    images = golden_images(folder / name, input)
    expected = np.load(folder / name / "golden" / "descriptors.npy")
    answers = os.fdopen(os.dup(1), "w")  # libraries print to stdout too
    os.dup2(2, 1)
    call = load(folder / name)
    for batch in BATCHES:  # compiles, too
        cosines = (call(images[:batch]) * expected[:batch]).sum(1)
        if not cosines.min() > 1 - 1e-4:
            raise ValueError(f"{runtime} does not compute the golden descriptors: lowest cosine {cosines.min():.6f}")
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        best = [batch / fastest(call, images[:batch], float(line) / len(BATCHES)) for batch in BATCHES]
        print(json.dumps(best), file=answers, flush=True)


def fastest(call: Call, images: np.ndarray, seconds: float) -> float:
    """Returns the seconds of the fastest call, among as many as fit into `seconds`, and at least two."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        start = time.perf_counter()
        call(images)
        times.append(time.perf_counter() - start)
    return min(times)


def measure(folder: Path, seconds: float) -> dict[str, list[float]]:
    """Returns the images per second of each runtime for each batch size, in its best round."""
    best = {runtime: [0.0] * len(BATCHES) for runtime in RUNTIMES}
    here = [sys.executable, __file__, "--work"]
    with contextlib.ExitStack() as stack:
        workers: dict[str, Any] = {}
        for runtime in RUNTIMES:
            log = stack.enter_context((folder / f"{runtime}.log").open("w"))
            started = subprocess.Popen(
                [*here, runtime, str(folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
            workers[runtime] = stack.enter_context(started)
            answer(workers[runtime], folder / f"{runtime}.log")
        for _ in range(ROUNDS):
            for runtime, worker in workers.items():
                print(seconds / ROUNDS, file=worker.stdin, flush=True)
                found = json.loads(answer(worker, folder / f"{runtime}.log"))
                best[runtime] = [max(pair) for pair in zip(best[runtime], found, strict=True)]
    return best


def answer(worker: Any, log: Path) -> str:
    line = worker.stdout.readline()
    if not line:
        sys.exit(f"a runtime has ended; the end of its output:\n{log.read_text()[-2000:]}")
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SRC", help="weights in any format")
    parser.add_argument("--size", type=int, default=288, help="side of the images in pixels (default 288)")
    parser.add_argument(
        "--seconds", type=float, default=20, help="seconds for which each runtime is measured (default 20)"
    )
    given = parser.parse_args(arguments)
    if absent := [name for name in ("torch", "torchvision", "onnx", "onnxruntime") if not find_spec(name)]:
        sys.exit(f"not installed: {', '.join(absent)}; pip install 'sscd_jax[torch,onnx]'")
    with tempfile.TemporaryDirectory() as folder:
        print(f"exporting {given.source}", file=sys.stderr)
        if subprocess.run([sys.executable, __file__, "--export", given.source, folder, str(given.size)]).returncode:
            sys.exit(f"{given.source} cannot be exported")
        best = measure(Path(folder), given.seconds)
    reference = next(iter(best.values()))[-1]
    print(f"images a second, {given.size} x {given.size}, {THREADS} threads; ratio: to PyTorch, both at batch 8")
    print(f"{'runtime':34}{'input':14}{'batch 1':>9}{'batch 8':>9}{'ratio':>8}")
    for runtime, (one, eight) in best.items():
        print(f"{runtime:34}{RUNTIMES[runtime][1]:14}{one:9.2f}{eight:9.2f}{eight / reference:7.2f}x")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--export"]:
        export(sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
    elif sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]))
    else:
        main()
