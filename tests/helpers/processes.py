"""Training in several processes on this machine, each with its devices."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

TRAIN = "from sscd_jax.cli.main import main; main()"


def recipe(path: Path, images: Path, steps: int, *, every: int = 5000, rate: float = 0.05, more: str = "") -> Path:
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


def start(
    configs: Path | Sequence[Path], workdir: Path, processes: int, devices: int, code: str = TRAIN
) -> list[subprocess.Popen]:
    """One config for all, or one for each."""
    configs = [configs] * processes if isinstance(configs, Path) else configs
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = ["--workdir", str(workdir), "--coordinator", f"localhost:{port}", "--processes", str(processes)]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env |= {"JAX_NUM_CPU_DEVICES": str(devices)}
    started = []
    for number, config in enumerate(configs):
        with log_of(workdir, number).open("w") as log:  # a pipe that nobody reads would fill
            command = [sys.executable, "-c", code, "train", str(config), *job, "--process", str(number)]
            started.append(subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT))
    return started


def log_of(workdir: Path, number: int) -> Path:
    return workdir.with_name(f"{workdir.name}-{number}.log")


def ended(workdir: Path, processes: list[subprocess.Popen], timeout: float = 600) -> list[tuple[int, str]]:
    """Status and output of each."""
    try:
        statuses = [process.wait(timeout) for process in processes]
        return [(status, log_of(workdir, number).read_text()) for number, status in enumerate(statuses)]
    finally:
        for process in processes:
            process.kill()
