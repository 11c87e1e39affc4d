"""Training in processes of its own on this machine: one, or several that are one job, each with its devices."""

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import pytest

TRAIN = "from sscd_jax.cli.main import main; main()"

# JAX 0.10.2 makes the number of the process a part of the key of a compiled program on CPUs (jax/_src/cache_key.py,
# _hash_accelerator_config), and only process 0 writes to the cache, so that all others compile every program each time
# that they start. With this the key of a program for the devices of all processes is the same in all of them.
SHARED_PROGRAMS = "from jax._src import cache_key; cache_key._hash_accelerator_config = cache_key._hash_devices; "

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["pytest", "sscd_jax.cli.train", "sscd_jax.training.train"])


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


def start_one(config: Path, workdir: Path) -> "Started":
    """Starts a run in one process on one device."""
    return Started(["train", str(config), "--workdir", str(workdir)], log_of(workdir, 0))


def start(
    configs: Path | Sequence[Path], workdir: Path, processes: int, devices: int, code: str = TRAIN
) -> list["Started"]:
    """Starts a run in several processes, with one config for all or one for each."""
    configs = [configs] * processes if isinstance(configs, Path) else configs
    job = ["--workdir", str(workdir), "--coordinator", free_address(), "--processes", str(processes)]
    return [
        Started(["train", str(config), *job, "--process", str(i)], log_of(workdir, i), devices, SHARED_PROGRAMS + code)
        for i, config in enumerate(configs)
    ]


class Started:
    """A process that runs `code`, with what it prints in a file. Its methods are as those of subprocess.Popen.

    It is a fork of a process that has imported what training imports and has computed nothing, which saves the seconds
    of importing TensorFlow and JAX again. From there on it is as a process of its own, up to what runs at its exit.
    """

    def __init__(self, arguments: list[str], log: Path, devices: int = 1, code: str = TRAIN) -> None:
        self._process = SERVER.Process(target=_run, args=(arguments, str(log), devices, code, dict(os.environ)))
        self._process.start()
        self.pid = self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout} s")
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()


def _run(arguments: list[str], log: str, devices: int, code: str, environment: dict[str, str]) -> None:
    """What a forked process does."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)  # a pipe that nobody reads would fill
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ.clear()
    os.environ.update(environment)
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")  # JAX, which is imported already, no longer reads the environment
    jax.config.update("jax_num_cpu_devices", devices)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as in a terminal
    sys.argv = ["sscd-jax", *arguments]
    try:
        exec(code, {"__name__": "__main__"})
    finally:  # multiprocessing ends a forked process without these
        threading._shutdown()
        atexit._run_exitfuncs()


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


def log_of(workdir: Path, number: int) -> Path:
    return workdir.with_name(f"{workdir.name}-{number}.log")


def ended(workdir: Path, processes: list[Started], timeout: float = 600) -> list[tuple[int, str]]:
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


def wait_for_lines(workdir: Path, count: int, processes: list[Started]) -> None:
    """Waits until metrics.jsonl has so many lines, or until a process has ended."""
    deadline = time.monotonic() + 600
    while lines_in(workdir) < count and all(process.poll() is None for process in processes):
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
            pytest.fail(str(ended(workdir, processes)))
        time.sleep(0.01)
