"""Eight CPU devices for every test, and real photographs on disk."""

import gc
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis
import jax
import numpy as np
import pytest
from helpers.networks import needs_torch
from helpers.shared import made_once
from PIL import Image

from sscd_jax import distributed
from sscd_jax.config import Config
from sscd_jax.data.sample import photograph_paths
from sscd_jax.models import SSCD, describe, normalize
from sscd_jax.weights.read_torch import write_state_dict
from sscd_jax.weights.state_dict import to_state_dict

TESTS = Path(__file__).parent


distributed.start()
jax.config.update("jax_num_cpu_devices", 8)
gc.set_threshold(50_000, 10, 5)  # as the command sets it
hypothesis.settings.register_profile("any time", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("any time")


def pytest_configure(config: pytest.Config) -> None:
    """What one process compiles, the others need not: the workers of xdist, and those that tests start."""
    if not hasattr(config, "workerinput"):
        config.compiled = tempfile.mkdtemp(prefix="sscd_jax-compiled-")
        os.environ["TF_XLA_FLAGS"] = f"--tf_xla_persistent_cache_directory={config.compiled}"
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # as the command sets it: TensorFlow then imports no Keras
        os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # of LLVM; compiling small networks is most of the time
        for library in ("OMP", "OPENBLAS"):  # their threads wait in loops, which takes the cores of other workers
            os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    jax.config.update("jax_disable_most_optimizations", True)


# These take longest. They come first, so that at the end no worker of xdist waits long for another one.
LONG = (
    *("scripts/test_random_kills", "scripts/test_faults", "test_demo", "test_wheel", "test_docs", "test_docs_training"),
    *("test_readme", "weights/test_real_weights", "training/test_processes", "training/test_topologies"),
)


@pytest.hookimpl(trylast=True)  # after the items of other tiers are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = [str(TESTS / f"{one}.py") for one in LONG]
    items.sort(key=lambda item: places.index(str(item.path)) if str(item.path) in places else len(places))
    # The first test makes what the fixture `trained` gives. Its other users come last, so that none waits for it.
    first, *others = [item for item in items if "trained" in getattr(item, "fixturenames", ())] or [None]
    if others:
        items[:] = [first, *(item for item in items if item is not first and item not in others), *others]


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.compiled)


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """A folder of 40 cuts of photographs, JPEG, 80 x 96 pixels."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in photograph_paths().values()]
    for number in range(40):
        photograph = photographs[number % len(photographs)]
        left, top = (int(rng.integers(0, side - cut)) for side, cut in zip(photograph.size, (96, 80), strict=True))
        photograph.crop((left, top, left + 96, top + 80)).save(folder / f"{number:03d}.jpg", quality=90)
    return folder


@pytest.fixture(scope="session")
def torch_files(tmp_path_factory) -> Path:
    """The folder that tests/helpers/torch_files.py fills."""
    needs_torch()
    with made_once(tmp_path_factory, "torch_files") as (folder, absent):
        if absent:
            command = [sys.executable, str(TESTS / "helpers" / "torch_files.py"), str(folder)]
            subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(TESTS)}, capture_output=True)
    return folder


@pytest.fixture
def official_loss(tmp_path) -> Callable[..., float]:
    """The loss of a batch of a run by tests/helpers/official_loss.py, for a network in training mode."""
    needs_torch()

    def loss(run: Config, batch: dict[str, np.ndarray], model: SSCD, variables: Any) -> float:
        images = np.ascontiguousarray(np.asarray(normalize(batch["images"])).transpose(0, 3, 1, 2))
        settings = {"temperature": run.loss.temperature, "entropy_weight": run.loss.entropy_weight}
        np.savez(tmp_path / "batch.npz", images=images, instance_ids=batch["instance_ids"], **settings)
        write_state_dict(tmp_path / "state.pt", to_state_dict(model, variables))
        arguments = [tmp_path / "state.pt", json.dumps(describe(model)), tmp_path / "batch.npz"]
        command = [sys.executable, *map(str, [TESTS / "helpers" / "official_loss.py", *arguments])]
        environment = {**os.environ, "PYTHONPATH": str(TESTS)}
        return float(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)

    return loss
