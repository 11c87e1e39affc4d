"""Training in processes of its own on this machine: one, or several that are one job, each with its devices."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

TRAIN = "from sscd_jax.cli.main import main; main()"

# JAX 0.10.2 makes the number of the process a part of the key of a compiled program on CPUs (jax/_src/cache_key.py,
# _hash_accelerator_config), and only process 0 writes to the cache, so that all others compile every program each time
# that they start. With this the key of a program for the devices of all processes is the same in all of them.
SHARED_PROGRAMS = "from jax._src import cache_key; cache_key._hash_accelerator_config = cache_key._hash_devices; "


def recipe(path: Path, images: Path, steps: int, *, every: int = 90_000, rate: float = 0.05, more: str = "") -> Path:
    """Writes the recipe of helpers.runs.small_config: tests that have the same steps and rate share its program."""
    path.write_text(
        "from sscd_jax.config import *\n"
        "from sscd_jax.presets import Preset\n"
        "def get_config():\n"
        f"    return Config(steps={steps}, data=Data(source={str(images)!r}, batch_size=16, image_size=32),\n"
        "        model=Model(backbone='resnet18', dims=16, width=8), loss=Loss(entropy_weight=5.0),\n"
        f"        optimizer=Optimizer(warmup_steps=2, absolute_learning_rate={rate}),\n"
        f"        checkpoint=Checkpoint(every_steps={every}, keep=10), {more})\n"
    )
    return path


def start_one(config: Path, workdir: Path) -> subprocess.Popen:
    """Starts a run in one process on one device."""
    # As in a terminal; a shell's background jobs ignore Ctrl-C.
    terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    command = [sys.executable, "-c", terminal + TRAIN, "train", str(config), "--workdir", str(workdir)]
    return _start(command, workdir, 0, os.environ | {"JAX_PLATFORMS": "cpu"})


def start(
    configs: Path | Sequence[Path], workdir: Path, processes: int, devices: int, code: str = TRAIN
) -> list[subprocess.Popen]:
    """Starts a run in several processes, with one config for all or one for each."""
    configs = [configs] * processes if isinstance(configs, Path) else configs
    job = ["--workdir", str(workdir), "--coordinator", free_address(), "--processes", str(processes)]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env |= {"JAX_NUM_CPU_DEVICES": str(devices)}
    terminal = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    return [
        _start(
            [sys.executable, "-c", terminal + SHARED_PROGRAMS + code, "train", str(config), *job, "--process", str(i)],
            workdir,
            i,
            env,
        )
        for i, config in enumerate(configs)
    ]


def two_processes(code: str, *arguments: str, before: tuple[str, ...] = ()) -> list[tuple[int, str, str]]:
    """Runs code that does not train in two processes, and returns the status, output and errors of each.

    Its arguments are the address of the first process, the number of the process, and `arguments`.
    """
    address = free_address()
    env = os.environ | {"JAX_NUM_CPU_DEVICES": "1"}
    started = [
        subprocess.Popen(
            [*before, sys.executable, "-c", code, address, str(number), *arguments],
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=300) for process in started]
        return [(process.returncode, *output) for process, output in zip(started, outputs, strict=True)]
    finally:
        for process in started:
            process.kill()


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


def _start(command: list[str], workdir: Path, number: int, env: dict[str, str]) -> subprocess.Popen:
    with log_of(workdir, number).open("w") as log:  # a pipe that nobody reads would fill, and the process wait
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT)


def log_of(workdir: Path, number: int) -> Path:
    return workdir.with_name(f"{workdir.name}-{number}.log")


def ended(workdir: Path, processes: list[subprocess.Popen], timeout: float = 600) -> list[tuple[int, str]]:
    """Waits for all, and returns the status and output of each."""
    try:
        statuses = [process.wait(timeout) for process in processes]
        return [(status, log_of(workdir, number).read_text()) for number, status in enumerate(statuses)]
    finally:
        for process in processes:
            process.kill()


def lines_in(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_text().count("\n") if path.exists() else 0


def wait_for_lines(workdir: Path, count: int, processes: list[subprocess.Popen]) -> None:
    """Waits until metrics.jsonl has so many lines, or until a process has ended."""
    deadline = time.monotonic() + 600
    while lines_in(workdir) < count and all(process.poll() is None for process in processes):
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
            pytest.fail(str(ended(workdir, processes)))
        time.sleep(0.01)
