"""Reads the folder of a training run, and the weights of its checkpoints."""

from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from sscd_jax import config as configs
from sscd_jax.config import Config
from sscd_jax.weights.native import most_unpacked

FOLDER = "checkpoints"


def saved_steps(checkpoints: ocp.training.Checkpointer) -> list[int]:
    """Returns the steps of all complete checkpoints, in order."""
    return sorted(c.step for c in checkpoints.checkpoints)


def is_run(path: Path) -> bool:
    """Returns whether a path is the folder of a run or of one of its checkpoints, which `load_run` reads."""
    return (path / FOLDER).is_dir() or path.parent.name == FOLDER


def has_step(workdir: Path) -> bool:
    """Returns whether a run has a complete checkpoint from which it can resume."""
    return bool(saved_on_disk(workdir))


def saved_on_disk(workdir: Path) -> list[int]:
    """Returns the steps of all complete checkpoints, in order, of a run that may be in progress."""
    return sorted(int(path.name) for path in (workdir / FOLDER).glob("*") if path.name.isdigit())


def load_run(path: Path) -> tuple[Config, dict[str, Any]]:
    """Loads the config and variables of a run's latest checkpoint, or of one checkpoint (WORKDIR/checkpoints/STEP).

    The variables are on one device of this process, whatever devices the run had.

    Raises:
        FileNotFoundError: there is no complete checkpoint.
    """
    config, state = load_state(path)
    return config, {k: state[k] for k in ("params", "batch_stats")}


def load_state(path: Path) -> tuple[Config, dict[str, Any]]:
    """Loads the config and the complete training state, with the fields of `training.state.TrainState`."""
    path = path.absolute()
    folder = path.parent if path.parent.name == FOLDER else path / FOLDER
    step = None
    if folder == path.parent:
        step = int(path.name) if path.name.isdigit() else -1
    with ocp.training.Checkpointer(folder) as checkpoints:
        found = saved_steps(checkpoints)
        if not found or (step is not None and step not in found):
            raise FileNotFoundError(f"no complete checkpoint in {path}; there are {found or 'none'} in {folder}")
        step = max(found) if step is None else step
        one_device = SingleDeviceSharding(jax.local_devices()[0])
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one_device), checkpoints.metadata(step).metadata
        )
        size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(abstract))
        on_disk = sum(file.stat().st_size for file in (folder / str(step)).rglob("*") if file.is_file())
        if size > (most := most_unpacked(on_disk)):  # TensorStore fills what is missing with zeros
            raise ValueError(f"{folder / str(step)} would unpack to more than {most >> 20} MiB")
        config, state = _config(checkpoints, step), checkpoints.load(step, abstract)
    return config, state


def _config(checkpoints: ocp.training.Checkpointer, step: int) -> Config:
    metadata = checkpoints.metadata(step).custom_metadata
    assert isinstance(metadata, dict)
    return configs.from_dict(metadata)
