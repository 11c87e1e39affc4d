"""Beam pipelines as commands, and what they have written."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.beam.plan import Work
from sscd_jax.descriptors import Descriptors


def command(work: Work, *options: str, env: Mapping[str, str] | None = None) -> dict:
    """Runs the pipeline in a process of its own, and returns what it says; skips without the extra `beam`."""
    pytest.importorskip("apache_beam")
    preset = ["--preset", "custom", "--custom.mode", work.preset.mode, "--custom.size", str(work.preset.size)]
    arguments = [work.images, "--weights", work.weights, "--out", work.out, "--shard-size", "5", *preset, *options]
    done = subprocess.run([sys.executable, "-m", "sscd_jax.beam", *arguments], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def by_id(path: Path | str) -> dict[str, np.ndarray]:
    read = Descriptors.read(path)
    return dict(zip(read.ids, read.vectors, strict=True))


def assert_close(one: Path | str, other: Path | str) -> None:
    """The same ids with the same vectors. Batches differ, and so do the last bits."""
    ours, theirs = by_id(one), by_id(other)
    assert ours.keys() == theirs.keys()
    for image_id, vector in ours.items():
        np.testing.assert_allclose(vector, theirs[image_id], atol=2e-6, err_msg=image_id)
