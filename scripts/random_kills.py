"""Kills a training run at random moments and compares its result with that of a run that was not killed.

    python scripts/random_kills.py [--kills 50] [--steps 300]

This takes half an hour on 2 cores. A small network is trained on cuts of the bundled photographs, with a checkpoint
every few steps: once to the end, then again with SIGKILL during its start-up, between its steps, and while a checkpoint
is being written. Both runs must leave the same parameters, statistics and momentum bit for bit, the same metrics, each
step once, and only checkpoints that can be read. Otherwise the exit status is 1.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from tqdm import tqdm

from sscd_jax import distributed
from sscd_jax.cli.output import table
from sscd_jax.data.sample import photograph_paths
from sscd_jax.training.log import read_metrics
from sscd_jax.weights import runs

MOMENTS = ("start-up", "steps", "save")
# The metrics that differ between two runs that are otherwise the same.
TIMES = ("images_per_second", "data_wait_seconds", "data_wait_share")
SAVE = 0.3  # a run is killed at most this many seconds after it has begun to write a checkpoint
POLL = 0.002  # seconds between two checks of the state of a run


@dataclass(frozen=True)
class Kill:
    """One process of the run, which was killed.

    Attributes:
        moment: one of `MOMENTS`, at which it was to be killed.
        saving: whether a checkpoint was being written.
        lost: the number of steps that have to be done again.
        good: the step after which the run resumes.
    """

    moment: str
    saving: bool
    lost: int
    good: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="how often the run is killed (default: %(default)s)")
    parser.add_argument(
        "--steps", type=int, default=300, help="length of the run, six steps for each kill (default: %(default)s)"
    )
    parser.add_argument("--every", type=int, default=3, help="steps between two checkpoints (default: %(default)s)")
    parser.add_argument(
        "--moments", nargs="+", choices=MOMENTS, default=MOMENTS, help="when to kill, taken in turn (default: all)"
    )
    parser.add_argument("--seed", type=int, default=0, help="random seed of the moments (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="empty folder for both runs and their output; by default a temporary one"
    )
    given = parser.parse_args(arguments)
    distributed.start()
    with tempfile.TemporaryDirectory() as made:
        out = given.out or Path(made)
        out.mkdir(parents=True, exist_ok=True)
        if any(out.iterdir()):
            parser.error(f"{out} is not empty")
        wrong = run(out, given.kills, given.steps, given.every, given.moments, np.random.default_rng(given.seed))
    for line in wrong:
        print(f"DIFFERENT: {line}")
    if wrong:
        sys.exit(1)
    print("The killed run ended bit for bit like the one that was not killed.")


def run(out: Path, kills: int, steps: int, every: int, moments: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Runs both, prints a table of the kills, and returns a line for everything that is wrong."""
    config, whole, killed = write_config(out, steps, every), out / "whole", out / "killed"
    process, begun = start(config, whole), time.monotonic()
    wait_until(lambda: last_step(whole) > 0, process)
    start_up = time.monotonic() - begun
    finish(process, whole)
    second_a_step = (time.monotonic() - begun - start_up) / (steps - 1)
    print(f"{steps} steps without a kill; {start_up:.1f} s until the first, then {second_a_step:.2f} s a step")

    done = []
    for number in tqdm(range(kills), desc="killed", unit="process"):
        ahead = steps - last_good(killed)
        moment = moments[number % len(moments)] if ahead > steps / 5 else "start-up"
        process = start(config, killed)
        if moment == "start-up":
            done.append(kill(process, killed, moment, 0, rng.uniform(0, start_up)))
        elif moment == "steps":
            count = int(rng.integers(1, 1 + max(1, min(steps // kills, ahead // 2))))
            done.append(kill(process, killed, moment, count, rng.uniform(0, every * second_a_step)))
        else:
            done.append(kill(process, killed, moment, 1, rng.uniform(0, SAVE)))
    finish(start(config, killed), killed)
    rows = []
    for name in (*MOMENTS, "all"):
        some = [one for one in done if name in (one.moment, "all")]
        lost = [one.lost for one in some]
        row: dict[str, object] = {"moment": name, "kills": len(some), "during a save": sum(one.saving for one in some)}
        rows.append(row | {"steps lost": sum(lost), "at most": max(lost, default=0)})
    print(table(rows))
    wrong = [f"{one} lost more than two intervals" for one in done if one.lost > 2 * every]
    goods = [one.good for one in done]
    if goods != sorted(goods):
        wrong.append(f"the latest checkpoint went back: {goods}")
    return [*wrong, *differences(whole, killed)]


def write_config(out: Path, steps: int, every: int) -> Path:
    """Writes the images, and a recipe whose steps take some milliseconds each on one core."""
    (out / "images").mkdir()
    rng = np.random.default_rng(0)
    for number, path in enumerate(list(photograph_paths().values()) * 2):
        photograph = Image.open(path).convert("RGB")
        left, top = (int(rng.integers(0, side - 80)) for side in photograph.size)
        photograph.crop((left, top, left + 80, top + 80)).save(out / "images" / f"{number}.jpg")
    config = out / "config.py"
    config.write_text(
        "from sscd_jax.config import *\n"
        "def get_config():\n"
        f"    data = Data(source={str(out / 'images')!r}, batch_size=16, image_size=32)\n"
        f"    return Config(steps={steps}, data=data, model=Model(backbone='resnet18', dims=16, width=8),\n"
        "        loss=Loss(entropy_weight=5.0), optimizer=Optimizer(warmup_steps=2, absolute_learning_rate=0.05),\n"
        f"        checkpoint=Checkpoint(every_steps={every}))\n"
    )
    return config


def start(config: Path, workdir: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", "from sscd_jax.cli.main import main; main()", "train", str(config)]
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # as distributed.start left them
    with workdir.with_suffix(".log").open("a") as log:
        return subprocess.Popen([*command, "--workdir", str(workdir)], env=env, stdout=log, stderr=subprocess.STDOUT)


def finish(process: subprocess.Popen[bytes], workdir: Path) -> None:
    if process.wait():
        log = workdir.with_suffix(".log").read_text()[-2000:]
        raise RuntimeError(f"the run ended by itself with status {process.returncode}: {log}")


def kill(process: subprocess.Popen[bytes], workdir: Path, moment: str, steps: int, delay: float) -> Kill:
    """Kills a process of the run `delay` seconds after a number of steps, or after the next checkpoint is begun."""
    before, left, good = inode(workdir / "metrics.jsonl"), incomplete(workdir), last_good(workdir)

    def has_made(steps: int) -> bool:  # a process first replaces the file by one without the steps to do again
        return inode(workdir / "metrics.jsonl") != before and last_step(workdir) >= good + steps

    def is_saving() -> bool:
        return bool(incomplete(workdir) - left)

    if steps:
        wait_until(lambda: has_made(steps), process)
    if moment == "save":
        wait_until(is_saving, process)
    time.sleep(delay)
    process.kill()
    if process.wait() != -signal.SIGKILL:
        finish(process, workdir)
        raise RuntimeError(f"the run of {workdir} ended before it was killed: give more --steps, or fewer --kills")
    lost = last_step(workdir) - last_good(workdir) if has_made(1) else 0
    if last_good(workdir):
        runs.load_state(workdir)  # raises if it cannot be read
    return Kill(moment, is_saving(), lost, last_good(workdir))


def wait_until(what: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    while not what() and process.poll() is None:
        time.sleep(POLL)


def inode(path: Path) -> int:
    """Returns the inode of a file, or 0 if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_ino
    return 0


def incomplete(workdir: Path) -> set[tuple[str, int]]:
    """Returns the checkpoints that are being written, or were when the run was killed."""
    return {(path.name, inode(path)) for path in (workdir / runs.FOLDER).glob("*.orbax-checkpoint-tmp*")}


def last_good(workdir: Path) -> int:
    return max(runs.saved_on_disk(workdir), default=0)


def last_step(workdir: Path) -> int:
    """Returns the step of the last complete line of the metrics, or 0 if there is none."""
    try:
        lines = (workdir / "metrics.jsonl").read_bytes().split(b"\n")
    except FileNotFoundError:
        return 0
    return int(json.loads(lines[-2])["step"]) if len(lines) > 1 else 0


def differences(whole: Path, killed: Path) -> list[str]:
    """Returns a line for each difference between the two runs, and for each checkpoint that cannot be read."""
    wrong = []
    states = []
    for workdir in (whole, killed):
        for step in runs.saved_on_disk(workdir):
            try:
                _, state = runs.load_state(workdir / runs.FOLDER / str(step))
            except Exception as error:  # a damaged checkpoint can raise anything
                wrong.append(f"checkpoint {step} of {workdir} cannot be read: {error}")
        states.append(state)
    flat = [dict(jax.tree.leaves_with_path(state)) for state in states]
    print(f"compared {len(flat[0])} arrays of the checkpoint of step {int(states[0]['step'])}: {', '.join(states[0])}")
    if flat[0].keys() != flat[1].keys():
        wrong.append("the arrays have other names")
    for path, one in flat[0].items():
        if path not in flat[1] or not np.array_equal(one, flat[1][path]):
            wrong.append(f"array {jax.tree_util.keystr(path)}")
    lines = [
        [{name: value for name, value in line.items() if name not in TIMES} for line in read_metrics(workdir)]
        for workdir in (whole, killed)
    ]
    steps = [[line["step"] for line in some] for some in lines]
    if steps[1] != steps[0]:
        wrong.append(f"the steps of metrics.jsonl are {steps[1]}")
    wrong += [f"metrics {one} and {other}" for one, other in zip(*lines, strict=False) if one != other]
    return wrong


if __name__ == "__main__":
    main()
