"""Each workaround for Orbax does what it is for, and is needed with the version that is installed."""

import errno
import importlib.metadata
import logging
import shlex
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers.small_disk import on_small_disk

from sscd_jax.training import checkpoint, orbax_workarounds
from sscd_jax.training.checkpoint import open_checkpoints
from sscd_jax.training.disk_space import FullDiskError, explained

FULL = "No space left on device"

# Saves four arrays of 1 MB.
SAVE = """
import contextlib, sys
from pathlib import Path
import jax, jax.numpy as jnp
from sscd_jax.training import orbax_workarounds
from sscd_jax.training.checkpoint import open_checkpoints
from sscd_jax.training.disk_space import FullDiskError
if sys.argv[2] == "without":
    orbax_workarounds.quiet = lambda is_expected: contextlib.nullcontext()
state = {str(i): jax.random.normal(jax.random.key(i), 250_000) for i in range(4)}
try:
    with open_checkpoints(Path(sys.argv[1]), keep=1) as checkpoints:
        checkpoints.save_async(1, state)
except FullDiskError as error:
    print(error)
"""


@pytest.mark.slow
def test_orbax_logs_tracebacks_of_a_full_disk_and_they_are_dropped(tmp_path):
    """If this fails without them: Orbax reports a full disk once by now, and `quiet` can be removed."""
    lines = [
        f'{shlex.join([sys.executable, "-c", SAVE])} "$DISK/{how}" {how} >{tmp_path / how} 2>&1; rm -rf "$DISK/{how}"'
        for how in ("without", "with")
    ]
    done = on_small_disk("\n".join(lines), tmp_path, left=1_500_000)
    without, within = ((tmp_path / how).read_text() for how in ("without", "with"))
    assert done.returncode == 0, (done.stderr, without, within)
    assert "no space left on the disk" in without
    assert "Traceback" in without, "Orbax logs no traceback by now: remove orbax_workarounds.quiet"
    assert within.splitlines()[-1].startswith("no space left on the disk")
    assert "Traceback" not in within


def test_the_version_on_which_the_wait_was_tried():
    """That Orbax waits for 20 minutes cannot be shown in a test: look again at each version, then change this line."""
    assert importlib.metadata.version("orbax-checkpoint") == "0.12.8", (
        "does a process whose disk is full still wait for the others for 20 minutes? If not, remove "
        "orbax_workarounds.wait; try tests/training/test_disk_space.py -k several without it"
    )


def test_of_a_save_only_the_first_error_is_shown(monkeypatch):
    """As TensorStore tells those of the other arrays to an event loop that Orbax has closed."""
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", lambda other: shown.append(str(other.exc_value)))
    with explained(Path("/run"), lambda: "free some"):
        for error in (RuntimeError("Event loop is closed"), RuntimeError("another")):
            sys.unraisablehook(SimpleNamespace(exc_value=error))
    sys.unraisablehook(SimpleNamespace(exc_value="later"))
    assert shown == ["another", "later"]


def test_one_of_several_processes_waits_only_until_its_threads_find_the_disk_full(tmp_path, monkeypatch):
    """Orbax waits for the other processes then, and they for this one."""
    monkeypatch.setattr(orbax_workarounds, "has_other_processes", lambda: True)
    others = threading.Event()

    def wait() -> None:
        try:
            raise OSError(errno.ENOSPC, FULL)
        except OSError:
            logging.getLogger("absl").exception("as the threads of Orbax say it")
        others.wait()

    def save() -> None:
        with open_checkpoints(tmp_path, keep=1) as checkpoints:
            monkeypatch.setattr(checkpoints, "wait", wait)
            monkeypatch.setattr(checkpoints, "close", others.wait)
            checkpoint.finish(checkpoints)

    with pytest.raises(FullDiskError, match="it begins at step 1"):
        save()
    others.set()


def test_one_of_several_processes_waits_for_its_threads_and_has_their_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(orbax_workarounds, "has_other_processes", lambda: True)
    waited = []

    def fail() -> None:
        waited.append(threading.current_thread())
        raise ValueError("failed")

    with open_checkpoints(tmp_path, keep=1) as checkpoints:
        checkpoint.finish(checkpoints)
        monkeypatch.setattr(checkpoints, "wait", fail)
        with pytest.raises(ValueError, match="failed"):
            checkpoint.finish(checkpoints)
    assert waited
    assert waited[0].daemon
