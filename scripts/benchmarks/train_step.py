"""Measures the training step of this package and the same step in PyTorch, in views per second.

    pip install -r requirements.txt -e '.[torch]'
    python scripts/benchmarks/train_step.py [--device cpu] [--rounds 7]

On the CPU, the steps are ResNet-18 at 64 pixels with 128 images and ResNet-50 at 224 pixels with 16 images, in float32,
and PyTorch runs with its own order of axes and with channels last. On a GPU, the step is ResNet-50 at 224 pixels with
128 images in bfloat16, and PyTorch runs with autocast and channels last, eager and compiled. Both have torchvision's
network with GeM and a projection, the paper's loss, the same parameters, and uint8 views of photographs. Our step uses
LARS; PyTorch's uses SGD with momentum, which computes less. Each variant of PyTorch runs beside ours in two warm
processes, one step each in turn, and the median counts. On the CPU there are never three processes, because one
that waits would slow down the others by the memory that it holds.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

THREADS = os.cpu_count() or 1
# Device: backbone, side of a view in pixels, images of a batch.
SETTINGS = {"cpu": [("resnet18", 64, 128), ("resnet50", 224, 16)], "gpu": [("resnet50", 224, 128)]}
PEERS = {"cpu": ("PyTorch", "PyTorch, channels last"), "gpu": ("PyTorch, channels last", "PyTorch, compiled")}
DIMS, TEMPERATURE, ENTROPY_WEIGHT, RATE = 512, 0.05, 30.0, 1e-3

Step = Callable[[], float]


def prepare(folder: Path, backbone: str, size: int, images: int) -> None:
    """Writes the parameters and a batch of views. It runs in a separate process."""
    import jax

    from sscd_jax.data.sample import photograph_paths
    from sscd_jax.models import build_model
    from sscd_jax.weights.native import write_safetensors
    from sscd_jax.weights.read_torch import write_state_dict
    from sscd_jax.weights.state_dict import to_state_dict

    model = build_model(backbone, DIMS)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    write_safetensors(folder / "weights.safetensors", model, variables, {})
    write_state_dict(folder / "weights.pt", to_state_dict(model, variables))
    rng = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in photograph_paths().values()]
    views = np.empty((2, images, size, size, 3), np.uint8)
    for image in range(images):
        photograph = photographs[image % len(photographs)]
        for view in views:
            side = float(rng.uniform(0.2, 0.6)) * min(photograph.size)
            left, top = (float(rng.uniform(0, whole - side)) for whole in photograph.size)
            cut = photograph.resize((size, size), box=(left, top, left + side, top + side))
            view[image] = np.asarray(cut)
    np.savez(folder / "batch.npz", images=views.reshape(-1, size, size, 3), ids=np.tile(np.arange(images), 2))


def pytorch(folder: Path, backbone: str, device: str, way: str) -> Step:
    import torch

    from sscd_jax.presets import IMAGENET_MEAN, IMAGENET_STD
    from sscd_jax.weights.torch_model import build_torch

    torch.set_num_threads(THREADS)
    form = torch.contiguous_format if way == "PyTorch" else torch.channels_last
    where = torch.device("cuda" if device == "gpu" else "cpu")
    model = build_torch({"backbone": backbone, "dims": DIMS, "pool_param": 3.0}).train()
    model.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
    model.to(where, memory_format=form)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9, weight_decay=1e-6)
    batch = np.load(folder / "batch.npz")
    views = torch.from_numpy(batch["images"]).permute(0, 3, 1, 2).to(where)
    match = torch.from_numpy(batch["ids"][:, None] == batch["ids"][None]).to(where)
    positive = match & ~torch.eye(len(match), dtype=torch.bool, device=where)
    mean, std = (torch.tensor(values, device=where)[:, None, None] for values in (IMAGENET_MEAN, IMAGENET_STD))
    network = torch.compile(model) if way == "PyTorch, compiled" else model

    def step() -> float:
        with torch.autocast("cuda", torch.bfloat16, enabled=device == "gpu"):
            z = network((views.float().div(255).sub(mean) / std).contiguous(memory_format=form))
        z = z.float()
        similarity = z @ z.T
        logits = similarity / TEMPERATURE
        negatives = logits.masked_fill(match, -1e9).logsumexp(1, keepdim=True)
        info_nce = (torch.nn.functional.softplus(negatives - logits) * positive).sum() / positive.sum()
        nearest = similarity.masked_fill(match, -1).argmax(1)
        koleo = -(z - z[nearest]).square().sum(1).clamp(min=1e-6).log().mean() / 2
        loss = info_nce + ENTROPY_WEIGHT * koleo
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def ours(folder: Path, backbone: str, device: str) -> Step:
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch uses the same GPU
    from sscd_jax import distributed

    distributed.start()
    import jax
    import jax.numpy as jnp

    from sscd_jax.config import Loss
    from sscd_jax.models import build_model
    from sscd_jax.optimizer import lars
    from sscd_jax.training.state import TrainState
    from sscd_jax.training.train import train_step
    from sscd_jax.weights import load

    _, variables = load(folder / "weights.safetensors")
    model = build_model(backbone, DIMS, dtype=jnp.bfloat16 if device == "gpu" else jnp.float32)
    optimizer = lars(RATE)
    state = TrainState(jnp.zeros((), jnp.int32), **variables, opt_state=optimizer.init(variables["params"]))
    loss = Loss(temperature=TEMPERATURE, entropy_weight=ENTROPY_WEIGHT)
    compiled = jax.jit(partial(train_step, model=model, optimizer=optimizer, loss=loss), donate_argnums=0)
    batch = np.load(folder / "batch.npz")
    images, ids = jax.device_put(batch["images"]), jax.device_put(batch["ids"].astype(np.int32))

    def step() -> float:
        nonlocal state
        state, metrics = compiled(state, images, ids)
        jax.block_until_ready(state)
        return float(metrics["loss"])

    return step


def work(way: str, folder: Path, backbone: str, device: str) -> None:
    """Warms up and writes the loss to stdout. Then, for each line of stdin, runs a step and writes its seconds."""
    answers = os.fdopen(os.dup(1), "w")  # libraries print to stdout too
    os.dup2(2, 1)
    step = ours(folder, backbone, device) if way == "ours" else pytorch(folder, backbone, device, way)
    first = step()
    step()
    print(first, file=answers, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        step()
        print(time.perf_counter() - start, file=answers, flush=True)


def answer(worker: Any) -> float:
    line = worker.stdout.readline()
    if not line:
        sys.exit("a process has ended; its output is above")
    return float(line)


def compare(backbone: str, size: int, images: int, device: str, peer: str, rounds: int) -> None:
    """Prints two rows for a network: the step in PyTorch, and ours."""
    ways = (peer, "ours")
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        prepared = [folder, backbone, str(size), str(images)]
        subprocess.run([sys.executable, __file__, "--prepare", *prepared], check=True)
        workers, losses = {}, {}
        for way in ways:
            command = [sys.executable, __file__, "--work", way, folder, backbone, device]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            workers[way] = stack.enter_context(subprocess.Popen(command, **pipes))
            losses[way] = answer(workers[way])
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(rounds):
            for way, worker in workers.items():
                print(file=worker.stdin, flush=True)
                seconds[way].append(answer(worker))
    median = {way: statistics.median(times) for way, times in seconds.items()}
    for way in ways:
        spread = f"{min(seconds[way]):.3f} to {max(seconds[way]):.3f}"
        print(
            f"{f'{backbone}, {size} px, {way}':42}{2 * images / median[way]:9.1f}{median[way]:9.3f}"
            f"  {spread:18}{median[way] / median['ours']:6.2f}x{losses[way]:12.5f}",
            flush=True,
        )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=SETTINGS, default="cpu", help="device to measure on (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="number of timed steps of each (default %(default)s)")
    given = parser.parse_args(arguments)
    if absent := [name for name in ("torch", "torchvision") if not find_spec(name)]:
        sys.exit(f"not installed: {', '.join(absent)}; pip install 'sscd_jax[torch]'")
    print(f"{THREADS} cores\n{'':42}{'views/s':>9}{'seconds':>9}  {'':18}{'ours':>7}{'first loss':>12}")
    for setting in SETTINGS[given.device]:
        for peer in PEERS[given.device]:
            compare(*setting, given.device, peer, given.rounds)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--prepare"]:
        prepare(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    elif sys.argv[1:2] == ["--work"]:
        work(sys.argv[2], Path(sys.argv[3]), sys.argv[4], sys.argv[5])
    else:
        main()
