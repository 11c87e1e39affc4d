"""Two writers of one shard, interleaved and killed at every file operation: vectors never meet the ids of others."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.saved_rows import IMAGE
from sscd_jax.embedding.shards import Shards
from sscd_jax.provenance import Provenance
from sscd_jax.string_list import Lookup

IDS = ["p0", "p1", "p2"]
# The first writer could not read p0, the second one could not read p2: as many vectors, of other images.
SETS = ({"p1": 1.0, "p2": 2.0}, {"p0": 0.0, "p1": 1.0})


class Killed(BaseException):
    """Ends a writer as SIGKILL does: nothing that comes after runs."""


def opened(folder: Path) -> Shards:
    return Shards(folder, Provenance("f" * 64, "skew_320"), "float32", "/photos")


def write(shards: Shards, images: dict[str, float]) -> None:
    vectors = np.array([[value, 1] for value in images.values()], np.float32)
    lost = [{"id": one, "path": one, "reason": "?", "kind": "read"} for one in IDS if one not in images]
    shards.write(0, [*images], vectors, np.zeros(len(images), IMAGE), lost)


def assert_belong_together(folder: Path) -> None:
    """Finishes as a process does that comes later, and reads."""
    shards = opened(folder)
    shards.plan.add(Lookup(IDS), 10)
    if not shards.is_complete(0):
        write(shards, SETS[0])
    shards.finish(2)
    read = Descriptors.read(folder)
    assert [(one, float(vector[0])) for one, vector in zip(read.ids, read.vectors, strict=True)] in (
        [*SETS[0].items()],
        [*SETS[1].items()],
    )
    assert not [path for path in folder.rglob("*") if path.name.endswith(".tmp")]


def work(folder: Path) -> None:
    """Plans, writes and finishes."""
    shards = opened(folder)
    shards.plan.add(Lookup(IDS), 10)
    write(shards, SETS[1])
    shards.finish(2)


def message_of(folder: Path) -> str | None:
    """The message of the error with which the work ends; None for errors that do no harm."""
    try:
        work(folder)
    except OSError as error:
        return str(error)
    return None


class Operations:
    """The operations on files by which data gets its name. One of them calls `then` before or after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, self.at, self.then = 0, -1, lambda: None
        self.torn = False
        for name in ("replace", "link", "unlink", "rename", "fsync"):
            monkeypatch.setattr(os, name, self.wrapped(getattr(os, name), name))

    def wrapped(self, operation: Callable, name: str) -> Callable:
        def run(*args, **kwargs):
            number, self.count = self.count, self.count + 1
            if number == self.at:
                if self.torn and name == "replace":  # a rename that copies, and is killed in the middle
                    data = Path(args[0]).read_bytes()
                    Path(args[1]).write_bytes(data[: len(data) // 2])
                self.then()
            return operation(*args, **kwargs)

        return run


def begun(folder: Path) -> Shards:
    shutil.rmtree(folder, ignore_errors=True)
    shards = opened(folder)
    shards.plan.add(Lookup(IDS), 10)
    return shards


def test_interleaved_at_every_operation(tmp_path, monkeypatch):
    """The second writer does all of its work between two operations of the first."""
    operations = Operations(monkeypatch)
    write(begun(tmp_path / "d"), SETS[0])
    monkeypatch.undo()
    shards = begun(tmp_path / "d")
    operations = Operations(monkeypatch)
    write(shards, SETS[0])
    total = operations.count
    assert total >= 10
    for at in range(total):
        operations.at = -1
        shards, other = begun(tmp_path / "d"), opened(tmp_path / "d")
        operations.count, operations.at, operations.then = 0, at, lambda other=other: write(other, SETS[1])
        write(shards, SETS[0])
        operations.at = -1
        assert_belong_together(tmp_path / "d")


@pytest.mark.parametrize("torn", [False, True], ids=["atomic", "renaming_copies"])
def test_killed_at_every_operation(tmp_path, monkeypatch, torn):
    """Of planning, writing and finishing, after which another process does the rest."""
    operations = Operations(monkeypatch)
    operations.torn = torn

    work(tmp_path / "d")
    total = operations.count

    def kill() -> None:
        operations.at = -1
        monkeypatch.undo()  # what is in `finally` does not run either
        raise Killed

    for at in range(total):
        shutil.rmtree(tmp_path / "d", ignore_errors=True)
        monkeypatch.undo()
        operations = Operations(monkeypatch)
        operations.torn, operations.at, operations.then = torn, at, kill
        with pytest.raises(Killed):
            work(tmp_path / "d")
        monkeypatch.undo()
        assert_belong_together(tmp_path / "d")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_an_error_at_every_operation(tmp_path, monkeypatch, code):
    operations = Operations(monkeypatch)
    work(tmp_path / "d")
    total = operations.count

    def fail() -> None:
        raise OSError(code, os.strerror(code))

    for at in range(total):
        shutil.rmtree(tmp_path / "d")
        operations.count, operations.at, operations.then = 0, at, fail
        said = message_of(tmp_path / "d")
        assert said is None or str(tmp_path / "d") in said, "the error names the file"
        operations.at = -1
        assert_belong_together(tmp_path / "d")


def test_a_writer_that_is_late_replaces_nothing(tmp_path):
    shards, late = begun(tmp_path / "d"), opened(tmp_path / "d")
    write(shards, SETS[0])
    shards.finish(2)
    late.is_complete = lambda number: False  # as if it had looked before
    write(late, SETS[1])
    read = Descriptors.read(tmp_path / "d")
    assert dict(zip(read.ids, read.vectors[:, 0].tolist(), strict=True)) == SETS[0]
    opened(tmp_path / "d").finish(2)
    assert_belong_together(tmp_path / "d")
