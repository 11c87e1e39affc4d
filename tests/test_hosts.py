"""Training in several processes on this machine, each with its devices."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sscd_jax import mesh
from sscd_jax.checkpoint import load_run
from sscd_jax.train_log import read_metrics


def recipe(folder: Path, pictures: Path, steps: int) -> Path:
    path = folder / "config.py"
    path.write_text(
        "from sscd_jax.config import *\n"
        "def get_config():\n"
        f"    return Config(steps={steps}, data=Data(source={str(pictures)!r}, batch_size=16, image_size=32),\n"
        "        model=Model(backbone='resnet18', dims=16, width=8), loss=Loss(entropy_weight=5.0),\n"
        "        optimizer=Optimizer(warmup_steps=2, absolute_learning_rate=0.05),\n"
        "        checkpoint=Checkpoint(every_steps=5000))\n"
    )
    return path


def start(config: Path, workdir: Path, processes: int, devices: int) -> list[subprocess.Popen]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from sscd_jax.cli import main; main()", "train", str(config)]
    job = ["--workdir", str(workdir), "--coordinator", f"localhost:{port}", "--processes", str(processes)]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    env |= {"JAX_NUM_CPU_DEVICES": str(devices)}
    started = []
    for number in range(processes):
        with log_of(config, number).open("w") as log:  # a pipe that nobody reads would fill
            options = {"env": env, "stdout": log, "stderr": subprocess.STDOUT}
            started.append(subprocess.Popen([*command, *job, "--process", str(number)], **options))
    return started


def log_of(config: Path, number: int) -> Path:
    return config.with_name(f"process-{number}.log")


def ended(config: Path, processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Status and output of each."""
    try:
        statuses = [process.wait(timeout=600) for process in processes]
        return [(status, log_of(config, number).read_text()) for number, status in enumerate(statuses)]
    finally:
        for process in processes:
            process.kill()


def test_any_hosts_give_the_same_losses_and_descriptors(pictures, tmp_path):
    """Processes x devices: 1 x 4, 2 x 2, 4 x 1."""
    config = recipe(tmp_path, pictures, 10)
    losses, variables = [], []
    for processes, devices in ((1, 4), (2, 2), (4, 1)):
        workdir = tmp_path / f"{processes}x{devices}"
        results = ended(config, start(config, workdir, processes, devices))
        assert [status for status, _ in results] == [0] * processes, results
        assert sum('"loss"' in output for _, output in results) == 1, "only the first prints"
        lines = read_metrics(workdir)
        assert [line["step"] for line in lines] == list(range(1, 11))
        losses.append([line["loss"] for line in lines])
        variables.append(load_run(workdir)[1])
    for other in losses[1:]:
        assert other[0] == pytest.approx(losses[0][0], rel=1e-5)
        assert other == pytest.approx(losses[0], rel=1e-3)
    assert len({round(loss, 3) for loss in losses[0]}) == 10, "the network did not change"
    for one in variables[1:]:
        for name in ("conv1", "layer4_1"):
            for a, b in zip(*(leaves(v["params"]["backbone"][name]) for v in (variables[0], one)), strict=True):
                np.testing.assert_allclose(a, b, atol=1e-3)


def leaves(tree) -> list[np.ndarray]:
    return [x for one in tree.values() for x in (leaves(one) if isinstance(one, dict) else [np.asarray(one)])]


def test_sigterm_of_one_saves_and_ends_all_and_the_death_of_one_is_noticed(pictures, tmp_path):
    config = recipe(tmp_path, pictures, 100_000)

    def running() -> list[subprocess.Popen]:
        processes = start(config, tmp_path / "run", 2, 1)
        before = metrics.stat().st_size if metrics.exists() else 0
        deadline = time.monotonic() + 600
        while not metrics.exists() or metrics.stat().st_size <= before + 900:
            if any(process.poll() is not None for process in processes) or time.monotonic() > deadline:
                for process in processes:
                    process.kill()
                pytest.fail(str(ended(config, processes)))
            time.sleep(0.05)
        return processes

    metrics = tmp_path / "run" / "metrics.jsonl"
    processes = running()
    processes[1].send_signal(signal.SIGTERM)
    results = ended(config, processes)
    assert [status for status, _ in results] == [75, 75], results
    steps = {re.findall(r"saved after step (\d+) of", output)[0] for _, output in results}
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir() if path.name.isdigit()] == [*steps]

    # The same command goes on; then one is killed, and the other does not wait for it for ever.
    processes = running()
    processes[1].kill()
    (status, output), _ = ended(config, processes)
    assert status not in (0, 75), output


def test_what_does_not_go_together_is_refused():
    for coordinator, count, index in (("localhost:1", None, 0), (None, 2, 0), ("localhost:1", 2, 2)):
        with pytest.raises(ValueError, match="give all three"):
            mesh.join_hosts_if_any(coordinator, count, index)
