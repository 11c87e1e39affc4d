"""A full disk: one line, complete checkpoints, and a run that resumes once there is room."""

import dataclasses
import errno
import re
import shlex
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tensorflow as tf
from helpers.processes import TRAIN, ended, recipe, start
from helpers.runs import small_config
from helpers.small_disk import on_small_disk
from orbax.checkpoint import v1 as ocp

from sscd_jax.training import checkpoint, disk_space
from sscd_jax.training.checkpoint import open_checkpoints
from sscd_jax.training.disk_space import FullDiskError, explained
from sscd_jax.training.log import TrainLog, read_metrics
from sscd_jax.training.preemption import Interruption
from sscd_jax.training.train import train
from sscd_jax.weights.runs import load_state, saved_on_disk

FULL = "No space left on device"
# As with quotas, or where others fill the disk in the meantime: the writing itself fails.
UNCHECKED = f"from sscd_jax.training import disk_space; disk_space.check_room = lambda *_: None; {TRAIN}"


@pytest.mark.slow
def test_a_run_on_a_full_disk_ends_with_one_line_and_resumes_where_there_is_room(images, tmp_path):
    """A checkpoint has 1.4 MB: the first fits, the second neither where it is tried nor where it is refused before."""
    config = recipe(tmp_path / "config.py", images, 10, every=3)

    def life(code: str, log: str, workdir: str = '"$DISK/run"') -> str:
        command = shlex.join([sys.executable, "-c", code, "train", str(config), "--workdir"])
        return f"status=0; {command} {workdir} >{tmp_path / log} 2>&1 || status=$?; echo $status"

    script = [
        life(UNCHECKED, "tried"),
        f'cp -r "$DISK/run" {tmp_path}/tried.run',
        life(TRAIN, "refused"),
        'rm "$DISK/ballast"',
        life(TRAIN, "resumed"),
        f'cp -r "$DISK/run" {tmp_path}/killed',
        life(TRAIN, "whole.log", str(tmp_path / "whole")),
    ]
    done = on_small_disk("\n".join(script), tmp_path, left=2_200_000)
    outputs = {name: (tmp_path / name).read_text() for name in ("tried", "refused", "resumed")}
    assert done.stdout.split() == ["1", "1", "0", "0"], (done.stderr, outputs)
    for name, why in (("tried", ""), ("refused", r" \(a checkpoint takes up to 1.\d MB, and 0.\d MB are left\)")):
        said = rf"sscd-jax train: no space left on the disk of /\S+/run{why}: free some, then rerun the same command "
        said += "to resume after step 3, that of the latest checkpoint"
        assert re.fullmatch(said, outputs[name].splitlines()[-1])
        assert "Traceback" not in outputs[name]
    assert saved_on_disk(tmp_path / "tried.run") == [3]
    assert int(load_state(tmp_path / "tried.run")[1]["step"]) == 3

    (_, whole), (_, resumed) = (load_state(tmp_path / name) for name in ("whole", "killed"))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    losses = [[(line["step"], line["loss"]) for line in read_metrics(tmp_path / name)] for name in ("whole", "killed")]
    assert losses[0] == losses[1]
    assert [path.name for path in (tmp_path / "killed" / "checkpoints").iterdir() if not path.name.isdigit()] == []


@pytest.mark.slow
def test_of_several_processes_none_waits_for_the_one_that_finds_the_disk_full(images, tmp_path):
    """In the middle of the last checkpoint, while the other one has written its part of it."""
    config = recipe(tmp_path / "config.py", images, 6, every=3)
    code = (
        "import builtins, errno, sys\n"
        "def full(path, mode='r', *rest, **more):\n"
        "    if sys.argv[-1] == '0' and 'w' in mode and '/checkpoints/6.' in str(path):\n"
        f"        raise OSError(errno.ENOSPC, {FULL!r})\n"
        "    return opened(path, mode, *rest, **more)\n"
        "opened, builtins.open = open, full\n" + TRAIN
    )
    results = ended(tmp_path / "run", start(config, tmp_path / "run", 2, 1, code))
    (status, output), (other, _) = results
    said = f"no space left on the disk of {tmp_path}/run: free some, then rerun the same command to resume after step 3"
    assert output.splitlines()[-1] == f"sscd-jax train: {said}, that of the latest checkpoint", results
    assert "Traceback" not in output
    assert status == 1
    assert other not in (0, 75), results
    assert saved_on_disk(tmp_path / "run") == [3]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, FULL),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        ValueError(f"RESOURCE_EXHAUSTED: Failed writing: /run/checkpoints/3: {FULL} [os_error_code='28']"),
        tf.errors.ResourceExhaustedError(None, None, f"/run/events; {FULL}"),
    ],
)
def test_whoever_notices_it(error, tmp_path):
    said = r"^no space left on the disk of /run: free some$"
    with pytest.raises(FullDiskError, match=said) as found, explained(Path("/run"), lambda: "free some"):
        raise error
    assert found.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    for error in (OSError(errno.EACCES, "Permission denied"), ValueError("no"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as found, explained(Path("/run"), lambda: "free some"):
            raise error
        assert found.value is error


def log_in(workdir: Path) -> TrainLog:
    return TrainLog(workdir, saved=[], total=9, batch_size=4, schedule=lambda step: 0.1)


def test_metrics_that_cannot_be_written(tmp_path):
    """/dev/full is a file on a disk that is always full."""

    def write() -> None:
        with open_checkpoints(tmp_path, keep=1), log_in(tmp_path) as log, open("/dev/full", "a") as log._lines:
            log.later(1, {"loss": np.float32(1)}, 0.0)
            log.write()

    with pytest.raises(FullDiskError, match=f"the disk of {tmp_path}: free some, then rerun .*; it begins at step 1"):
        write()


@pytest.mark.slow
def test_the_config_of_a_run_stays_complete(trained, tmp_path, monkeypatch):
    def write_half(path: Path, data: bytes) -> None:
        with path.open("wb") as file:
            file.write(data[:20])
        raise OSError(errno.ENOSPC, FULL)

    workdir = trained.copied(tmp_path / "run")
    written = (workdir / "config.json").read_text()
    monkeypatch.setattr(Path, "write_bytes", write_half)
    with pytest.raises(FullDiskError, match="to resume after step 6,"):
        train(dataclasses.replace(trained.config, steps=8), workdir)
    assert (workdir / "config.json").read_text() == written
    assert [path.name for path in workdir.iterdir() if path.name.endswith(".tmp")] == []


def test_the_error_before_is_the_one_that_is_raised(tmp_path, monkeypatch, capsys):
    def stop() -> None:
        with open_checkpoints(tmp_path, keep=1) as checkpoints, log_in(tmp_path) as log:
            log._lines = full
            log._lines.write("it is written when the file is closed")
            close = checkpoints.close
            monkeypatch.setattr(checkpoints, "close", lambda: (close(), fail()))
            raise FloatingPointError("the loss is not finite")

    def fail() -> None:
        raise ValueError(f"RESOURCE_EXHAUSTED: {FULL}")

    with Path("/dev/full").open("a") as full, pytest.raises(FloatingPointError):
        stop()
    assert full.closed
    assert f"the last checkpoint could not be written: RESOURCE_EXHAUSTED: {FULL}" in capsys.readouterr().err


def test_a_save_that_failed_is_noticed_before_the_next(tmp_path):
    class Saving:
        def __init__(self, error: Exception | None):
            self.error = error

        def result(self, timeout: float) -> None:
            assert timeout == 0
            if self.error:
                raise self.error

    checkpoint.check(Saving(None))
    checkpoint.check(Saving(TimeoutError()))
    with pytest.raises(ValueError, match="failed"):
        checkpoint.check(Saving(ValueError("failed")))


@pytest.mark.slow
def test_a_preempted_run_says_that_it_is_saved_only_where_it_is(images, tmp_path, monkeypatch):
    def save(*arguments: object) -> object:
        saving = written(*arguments)
        monkeypatch.setattr(ocp.training.Checkpointer, "wait", fail)
        return saving

    def fail(_: object) -> None:
        raise OSError(errno.ENOSPC, FULL)

    written = checkpoint.save
    monkeypatch.setattr(checkpoint, "save", save)
    monkeypatch.setattr(Interruption, "stops_at", lambda self, step: step == 2)
    with pytest.raises(FullDiskError):
        train(small_config(images), tmp_path / "run")


def test_room_is_asked_of_the_disk(tmp_path):
    disk_space.check_room(tmp_path, 1)
    with pytest.raises(FullDiskError, match=r"takes up to 1000000000000.0 MB, and \d+\.\d MB are left"):
        disk_space.check_room(tmp_path, 10**18)
