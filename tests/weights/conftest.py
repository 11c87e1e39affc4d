"""PyTorch's files, made once a session in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from networks import needs_torch

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
