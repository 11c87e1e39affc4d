"""PyTorch's files, made once a session in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import needs_torch

from sscd_jax.config import Config
from sscd_jax.models import SSCD, describe, normalize
from sscd_jax.weights.read_torch import write_state_dict
from sscd_jax.weights.state_dict import to_state_dict

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def torch_files(tmp_path_factory) -> Path:
    """The folder that tests/torch_files.py fills, shared by all workers of pytest-xdist."""
    needs_torch()
    from filelock import FileLock  # which torch brings

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / "torch_files"
    with FileLock(shared / "torch_files.lock"):
        if not (folder / "done").exists():
            folder.mkdir(exist_ok=True)
            command = [sys.executable, str(TESTS / "torch_files.py"), str(folder)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True)
            (folder / "done").touch()
    return folder


@pytest.fixture
def official_loss(tmp_path) -> Callable[..., float]:
    """The loss of a batch of a run by tests/official_loss.py, for a network in training mode."""
    needs_torch()

    def loss(run: Config, batch: dict[str, np.ndarray], model: SSCD, variables: Any) -> float:
        images = np.ascontiguousarray(np.asarray(normalize(batch["images"])).transpose(0, 3, 1, 2))
        settings = {"temperature": run.loss.temperature, "entropy_weight": run.loss.entropy_weight}
        np.savez(tmp_path / "batch.npz", images=images, instance_ids=batch["instance_ids"], **settings)
        write_state_dict(tmp_path / "state.pt", to_state_dict(model, variables))
        arguments = [tmp_path / "state.pt", json.dumps(describe(model)), tmp_path / "batch.npz"]
        command = [sys.executable, *map(str, [TESTS / "official_loss.py", *arguments])]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    return loss
