"""What is kept of a run, and what is read back."""

import dataclasses
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from sscd_jax.config import Config, Model
from sscd_jax.models import build_model
from sscd_jax.optimizer import lars
from sscd_jax.sharding import create_mesh, replicated
from sscd_jax.training import checkpoint
from sscd_jax.training import state as train_state
from sscd_jax.training.state import TrainState
from sscd_jax.weights import runs

CONFIG = Config(model=Model(backbone="resnet18", dims=16, width=8))  # as helpers.runs.small_config


@pytest.fixture(scope="module")
def state() -> TrainState:
    optimizer = lars(lambda step: 0.1)  # with a schedule, as training has it, so that the compiled program is shared
    return train_state.create(build_model(**dataclasses.asdict(CONFIG.model)), optimizer, 0, replicated(create_mesh()))


def save_steps(workdir, state: TrainState, metrics: dict[int, float], steps: int) -> None:
    with checkpoint.open_checkpoints(workdir, keep=2) as checkpoints:
        for step in range(1, steps + 1):
            one = dataclasses.replace(state, step=state.step + step)
            uap = metrics.get(step)
            checkpoint.save(checkpoints, one, CONFIG, None if uap is None else {"uAP": uap, "accuracy_at_1": 0.5})


def steps_in(workdir) -> set[int]:
    return {int(path.name) for path in (workdir / "checkpoints").iterdir()}


@pytest.mark.slow
def test_the_last_ones_and_the_best_are_kept(state, tmp_path):
    save_steps(tmp_path, state, {2: 0.3, 3: 0.9, 5: 0.4}, steps=7)
    assert steps_in(tmp_path) == {3, 6, 7}


def test_all_of_the_state_comes_back(state, tmp_path):
    save_steps(tmp_path, state, {}, steps=3)
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        blank = jax.tree.map(lambda leaf: leaf * 0, state)
        restored = checkpoint.restore(checkpoints, blank, CONFIG)
    assert int(restored.step) == 3
    jax.tree.map(np.testing.assert_array_equal, dataclasses.replace(restored, step=state.step), state)
    assert all(a.sharding == b.sharding for a, b in zip(*map(jax.tree.leaves, (restored, state)), strict=True))


def test_ctrl_c_says_where_the_run_resumes(state, tmp_path):
    """Where nothing was saved for it, as after a second one."""

    def press(workdir) -> None:
        with checkpoint.open_checkpoints(workdir, keep=2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="rerun the same command; it begins at step 1"):
        press(tmp_path)
    save_steps(tmp_path, state, {}, steps=3)
    with pytest.raises(KeyboardInterrupt, match="rerun the same command to resume after step 3"):
        press(tmp_path)


@pytest.mark.slow
def test_what_a_killed_process_left_is_no_checkpoint_and_is_removed(state, tmp_path):
    save_steps(tmp_path, state, {}, steps=2)
    # What orbax has while it writes: the same folder under a temporary name.
    os.rename(tmp_path / "checkpoints" / "2", tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp")
    assert runs.load_run(tmp_path)[0] == CONFIG
    with checkpoint.open_checkpoints(tmp_path, keep=2) as checkpoints:
        assert int(checkpoint.restore(checkpoints, state, CONFIG).step) == 1
    assert steps_in(tmp_path) == {1}


@pytest.mark.slow
def test_a_run_and_one_of_its_checkpoints_can_be_read(state, tmp_path):
    save_steps(tmp_path, state, {}, steps=3)
    for path in (tmp_path, tmp_path / "checkpoints" / "2"):
        assert runs.is_run(path)
        config, variables = runs.load_run(path)
        assert config == CONFIG
        jax.tree.map(np.testing.assert_array_equal, variables["params"], state.params)
    with pytest.raises(FileNotFoundError, match=r"no complete checkpoint in .*; there are \[2, 3\]"):
        runs.load_run(tmp_path / "checkpoints" / "9")
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="there are none"):
        runs.load_run(tmp_path / "empty")
    assert not runs.is_run(tmp_path / "absent")


@pytest.mark.slow
def test_a_run_on_eight_devices_is_read_on_one(state, tmp_path):
    save_steps(tmp_path, state, {}, steps=1)
    code = f"""
import pathlib, jax, numpy
from sscd_jax.weights import runs
assert jax.device_count() == 1
_, variables = runs.load_run(pathlib.Path({str(tmp_path)!r}))
print(sum(float(numpy.abs(leaf).sum()) for leaf in jax.tree.leaves(variables)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = sum(float(np.abs(leaf).sum()) for leaf in jax.tree.leaves(state.variables))
    assert float(done.stdout) == pytest.approx(expected, rel=1e-6)
