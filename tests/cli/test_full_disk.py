"""A disk that is full is one line with the place, in every command that writes (training: test_disk_space.py)."""

import json
import os
import sys

import numpy as np
import pytest
from helpers.networks import seeded
from helpers.small_disk import on_small_disk

from sscd_jax import Descriptors, Provenance
from sscd_jax.weights.native import write_npz


@pytest.mark.slow
def test_each_command_names_what_has_no_room(tmp_path, images):
    write_npz(tmp_path / "weights", *seeded("resnet18"), {})
    vectors = np.eye(200, dtype=np.float32)
    Descriptors([str(n) for n in range(200)], vectors, Provenance("w", "p")).write(tmp_path / "descriptors")
    weights, descriptors, photographs = (str(path) for path in (tmp_path / "weights", tmp_path / "descriptors", images))
    commands = [
        ["weights", "convert", weights, "--out", "DISK/a.safetensors"],
        ["descriptors", "export", descriptors, "--out", "DISK/a.npy"],
        ["descriptors", "export", descriptors, "--out", "DISK/a.faiss"],
        ["pack", photographs, "--out", "DISK/pack"],
        ["preview", "debug", "--out", "DISK/sheet.png"],
        ["benchmark", "make", photographs, "--out", "DISK/benchmark", "--workers", "1"],
    ]
    # In one process after the other on the same disk, which stays full.
    code = f"""
import json, os, subprocess, sys
for command in {commands}:
    command = [part.replace("DISK", os.environ["DISK"]) for part in command]
    program = "from sscd_jax.cli.main import main; main()"
    done = subprocess.run([{sys.executable!r}, "-c", program, *command], capture_output=True, text=True)
    print(json.dumps([done.returncode, done.stderr.replace(os.environ["DISK"], "DISK")]))
"""
    (tmp_path / "commands.py").write_text(code)
    done = on_small_disk(f'"{sys.executable}" "{tmp_path / "commands.py"}"', tmp_path, left=8192)
    assert done.returncode == 0, done.stderr
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(ended) == len(commands)
    for command, (status, stderr) in zip(commands, ended, strict=True):
        assert status == 1, stderr
        last = stderr.strip().splitlines()[-1]
        assert "Traceback" not in stderr, stderr
        assert last.startswith("sscd-jax " + " ".join(command[: 2 if command[0] not in ("pack", "preview") else 1]))
        assert command[command.index("--out") + 1] in last, last
        assert os.strerror(28).lower() in last.lower() or "no space left on the disk" in last
