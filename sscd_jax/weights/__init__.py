"""Weights from files and training runs."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from sscd_jax import checkpoint
from sscd_jax.models import SSCD, build_from


def load(path: Path) -> tuple[SSCD, Any]:
    """Network and variables of a training run, or of one of its checkpoints (RUN/checkpoints/STEP).

    Raises:
        ValueError: the path is not a run; names it.
    """
    if not checkpoint.is_run(path):
        raise ValueError(f"{path} is not a training run: give a folder that `sscd-jax train --workdir` wrote")
    config, variables = checkpoint.load_run(path)
    return build_from(config.model), variables


def sha256(variables: Any) -> str:
    """A hash of names, shapes and values of all variables, which tells one set of weights from another."""
    digest = hashlib.sha256()
    for name, value in sorted(traverse_util.flatten_dict(jax.device_get(variables), sep="/").items()):
        digest.update(f"{name} {value.shape} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
