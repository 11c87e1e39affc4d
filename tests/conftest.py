"""Eight CPU devices for every test, and real photographs on disk."""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from sscd_jax import sharding as mesh
from sscd_jax.data.sample import photograph_paths

mesh.start()
jax.config.update("jax_num_cpu_devices", 8)
gc.set_threshold(50_000, 10, 5)  # as the command sets it


def pytest_configure(config: pytest.Config) -> None:
    """What one process compiles, the others need not: the workers of xdist, and those that tests start."""
    if not hasattr(config, "workerinput"):
        config.compiled = tempfile.mkdtemp(prefix="sscd_jax-compiled-")
        os.environ["TF_XLA_FLAGS"] = f"--tf_xla_persistent_cache_directory={config.compiled}"
        os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        shutil.rmtree(config.compiled)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 40 cuts of photographs, JPEG, 80 x 96 pixels."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    photographs = [Image.open(path).convert("RGB") for path in photograph_paths().values()]
    for number in range(40):
        photograph = photographs[number % len(photographs)]
        left, top = (int(rng.integers(0, side - cut)) for side, cut in zip(photograph.size, (96, 80), strict=True))
        photograph.crop((left, top, left + 96, top + 80)).save(folder / f"{number:03d}.jpg", quality=90)
    return folder
