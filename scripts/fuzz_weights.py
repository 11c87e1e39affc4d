"""Reads damaged files of weights of every format, and says where a reader does anything but name the file in an error.

    python scripts/fuzz_weights.py [--minutes 60] [--out FOLDER]

A small network is written in every format that can be read: .npz, .safetensors (under this package's and torchvision's
names), .pt as a zip and in the old format, Lightning, TorchScript, ONNX, exported bundles and the folder of a run.
Copies are changed: bytes anywhere; members of archives, JSON, pickles and protocol buffers inside their containers,
with checksums and lengths that fit, so that the damage reaches the inner readers; numbers in headers. Each copy must be
read, or be a ValueError or OSError of one line that names the file (or of a line for each array that does not fit).
Anything else is a finding: another exception, no name, a process that dies, more than 10 seconds of computing or a
minute of waiting, or more than 1 GB of memory. The inputs of findings are kept in FOLDER, and the exit status is 1. The
seed of a case makes the same case again: --first SEED --cases 1.
"""

import argparse
import io
import multiprocessing
import os
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from weights_damage import damage

SECONDS, MEMORY = 10.0, 10**9  # what a small file may take: seconds of computing, and bytes
PATIENCE = 60.0  # seconds; other processes may hold the cores
ADDRESS_SPACE = 6 * 2**30  # beyond this a read fails, so that no case takes the memory of the machine
START = 300.0  # seconds in which a process must have imported the libraries and read every original


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="how long to go on (default: %(default)s)")
    parser.add_argument("--cases", type=int, help="how many cases to read, instead of a time")
    parser.add_argument("--first", type=int, default=0, help="seed of the first case (default: %(default)s)")
    parser.add_argument("--formats", nargs="+", help="names of the originals to change (default: all)")
    parser.add_argument("--out", type=Path, help="folder for the inputs of findings (default: a temporary one)")
    options = parser.parse_args(arguments)
    out = options.out or Path(tempfile.mkdtemp(prefix="fuzz_weights-"))
    out.mkdir(parents=True, exist_ok=True)
    if findings := fuzz(out, options.minutes * 60, options.cases, options.first, options.formats):
        print(f"{len(findings)} findings, of which the inputs are in {out}")
        sys.exit(1)


def fuzz(out: Path, seconds: float, cases: int | None, first: int, formats: Sequence[str] | None) -> list[str]:
    """Reads cases until the time or their number is up, and returns a line for each finding."""
    context = multiprocessing.get_context("spawn")
    findings: list[str] = []
    results: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory(prefix="fuzz_weights-") as temporary:
        folder = Path(temporary)
        maker = context.Process(target=write_originals, args=(folder / "originals",))
        maker.start()
        maker.join()
        if maker.exitcode:
            raise RuntimeError("the originals could not be written")
        seed, ends = first, time.monotonic() + seconds
        while (seed < first + cases) if cases is not None else (time.monotonic() < ends):
            ours, theirs = context.Pipe()
            process = context.Process(target=work, args=(folder, theirs, formats), daemon=True)
            process.start()
            theirs.close()
            if not ours.poll(START) or not ours.recv():
                raise RuntimeError("a process could not read the originals")
            while (seed < first + cases) if cases is not None else (time.monotonic() < ends):
                ours.send(seed)
                name = "?"
                try:
                    name = ours.recv() if ours.poll(PATIENCE) else name
                    result, text = ours.recv() if ours.poll(PATIENCE) else ("hang", f"more than {PATIENCE:g} seconds")
                except EOFError:
                    process.join()
                    result, text = "crash", f"the process ended with status {process.exitcode}"
                results[name, result] += 1
                if result not in ("read", "refused"):
                    findings.append(f"seed {seed}, {name}: {result}: {text}")
                    print(findings[-1], flush=True)
                    kept = out / f"{seed}-{name}"
                    copy(folder / "case" / name, kept)
                seed += 1
                if not results.total() % 1000:
                    print(f"{results.total()} cases, {len(findings)} findings", flush=True)
                if result in ("hang", "crash"):
                    break
            process.kill()
            process.join()
    for name in sorted({name for name, _ in results}):
        counts = ", ".join(f"{count} {result}" for (of, result), count in sorted(results.items()) if of == name)
        print(f"{name:24}{counts}")
    print(f"{results.total()} cases, seeds {first} to {seed - 1}, {len(findings)} findings")
    return findings


def work(folder: Path, connection: Connection, formats: Sequence[str] | None) -> None:
    """Reads the cases whose seeds come through the connection; answers with the name of each, and then the result."""
    warnings.simplefilter("ignore")
    sys.stderr = io.StringIO()
    from sscd_jax import weights

    originals = sorted(path for path in (folder / "originals").iterdir() if not formats or path.name in formats)
    for path in originals:
        weights.load(path)  # so that libraries and programs are loaded before time and memory are measured
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ADDRESS_SPACE, used + ADDRESS_SPACE))
    connection.send(True)
    while True:
        rng = np.random.default_rng(connection.recv())
        original = originals[int(rng.integers(len(originals)))]
        path = folder / "case" / original.name
        remove(path)
        path.parent.mkdir(exist_ok=True)
        copy(original, path)
        damage(path, rng)
        connection.send(original.name)
        connection.send(judged(path))


def judged(path: Path) -> tuple[str, str]:
    """Reads weights, and returns "read", "refused" or what is wrong, and more about it."""
    from sscd_jax import weights

    before, _ = memory()
    began = time.process_time()
    try:
        weights.load(path)
        result, text = "read", ""
    except (ValueError, OSError) as error:
        result, text = "refused", str(error)
        lines = text.splitlines()
        if str(path) not in text:
            result, text = "no name", f"{type(error).__name__}: {text}"
        elif len(lines) > 1 and "do not fit the network:" not in lines[0]:
            result = "several lines"
    except BaseException as error:
        result, text = type(error).__name__, "".join(traceback.format_exception(error)[-3:])
    _, most = memory()
    if most - before > MEMORY:
        result, text = "memory", f"{(most - before) / 1e9:.1f} GB"
    if (took := time.process_time() - began) > SECONDS:
        result, text = "slow", f"{took:.0f} seconds of computing"
    return result, text[:1500]


def memory() -> tuple[int, int]:
    """Returns the memory of this process in bytes, now and at most since the last call."""
    status = dict(re.findall(r"(VmRSS|VmHWM):\s+(\d+)", Path("/proc/self/status").read_text()))
    Path("/proc/self/clear_refs").write_text("5")
    return int(status["VmRSS"]) * 1024, int(status["VmHWM"]) * 1024


def write_originals(folder: Path) -> None:
    """Writes a small network in every format."""
    import dataclasses

    import jax
    import safetensors.numpy
    import torch
    from PIL import Image

    from sscd_jax.config import Config, Model
    from sscd_jax.data.sources import open_source
    from sscd_jax.models import build_model
    from sscd_jax.optimizer import lars
    from sscd_jax.presets import Preset
    from sscd_jax.sharding import create_mesh, replicated
    from sscd_jax.training import checkpoint, state
    from sscd_jax.weights.export import export
    from sscd_jax.weights.native import write_npz, write_safetensors
    from sscd_jax.weights.read_torch import write_state_dict
    from sscd_jax.weights.state_dict import to_state_dict

    folder.mkdir(parents=True)
    config = Config(model=Model(backbone="resnet18", dims=2, width=1))
    model = build_model(**dataclasses.asdict(config.model))
    variables = model.init(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    write_npz(folder / "ours.npz", model, variables, {"name": "a network"})
    write_safetensors(folder / "ours.safetensors", model, variables, {"name": "a network"})
    arrays = to_state_dict(model, variables)
    safetensors.numpy.save_file(arrays, folder / "torchvision.safetensors")
    write_state_dict(folder / "zip.pt", arrays)
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in arrays.items()}
    torch.save(tensors, folder / "old.pt", _use_new_zipfile_serialization=False)
    lightning = {
        "state_dict": {f"model.{key}": value for key, value in tensors.items()},
        "hyper_parameters": {"args": argparse.Namespace(pool_param=2.5)},
    }
    torch.save(lightning, folder / "lightning.ckpt")

    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    root = Module()
    for key, value in tensors.items():
        *parents, leaf = key.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value)
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), folder / "torchscript.pt")

    images = folder.parent / "images"
    images.mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")
    source, preset = open_source(str(images)), Preset("skew", 64)
    for name in ("npz", "safetensors", "onnx", "stablehlo", "saved_model"):
        export(folder / "ours.npz", folder / f"bundle-{name}", format=name, images=source, preset=preset)
    shutil.copy(folder / "bundle-onnx" / "sscd.onnx", folder / "graph.onnx")
    start = state.create(model, lars(0.1), 0, replicated(create_mesh()))
    with checkpoint.open_checkpoints(folder / "run", keep=2) as checkpoints:
        checkpoint.save(checkpoints, start, config, None)


def copy(source: Path, out: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, out, dirs_exist_ok=True)
    elif source.exists():
        shutil.copy(source, out)


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
