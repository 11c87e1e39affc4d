"""Checkpoints of a training run, written by Orbax: WORKDIR/checkpoints/STEP, each with the run's config."""

import contextlib
import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from sscd_jax import config as configs
from sscd_jax.config import Config
from sscd_jax.files import is_full
from sscd_jax.training import disk_space, orbax_workarounds
from sscd_jax.training.state import TrainState
from sscd_jax.weights.runs import FOLDER, _config, saved_on_disk, saved_steps

BEST_METRIC = "uAP"


@contextlib.contextmanager
def open_checkpoints(workdir: Path, *, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """Opens the checkpoints of a run. At the end of the block, waits for the one that is being written.

    Orbax writes a checkpoint to a temporary folder and renames it, so that it is complete or absent. Temporary folders
    that a killed process left are removed.

    Args:
        workdir: the run's folder; it is created if it does not exist.
        keep: the number of latest checkpoints that are kept, besides the one with the best validation uAP.

    Raises:
        FullDiskError: the disk has no space left, for a checkpoint or for another file that is written in the block.
        KeyboardInterrupt: Ctrl-C was pressed in the block; the message says where the run resumes.
    """
    policies = ocp.training.preservation_policies
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics[BEST_METRIC], n=1, keep_checkpoints_without_metrics=False
    )
    # By default every device writes a part of each array, and compiles a program for each part; the state is small.
    saving = ocp.options.ArrayOptions.Saving(use_replica_parallel=False)
    options = ocp.Context(array_options=ocp.options.ArrayOptions(saving=saving))
    with options, disk_space.explained(workdir, lambda: f"free some, then {resumption(workdir)}"):
        workdir.mkdir(parents=True, exist_ok=True)
        checkpoints = ocp.training.Checkpointer(
            workdir.absolute() / FOLDER,
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=True,
        )
        try:
            yield checkpoints
        except BaseException as error:
            try:
                orbax_workarounds.wait(checkpoints.close)
            except Exception as other:  # it must not hide the first error, and is often the same
                if not (is_full(other) and is_full(error)):
                    print(f"the last checkpoint could not be written: {other}", file=sys.stderr)
            if isinstance(error, KeyboardInterrupt) and not error.args:
                raise KeyboardInterrupt(resumption(workdir)) from error
            raise
        orbax_workarounds.wait(checkpoints.close)


def save(
    checkpoints: ocp.training.Checkpointer, state: TrainState, config: Config, metrics: dict[str, float] | None
) -> Any:
    """Waits until the previous checkpoint is complete, then starts to write the state under its step.

    Args:
        checkpoints: the run's checkpoints.
        state: the state to write; it is copied before this returns.
        config: the run's config, which is stored with the state.
        metrics: the metrics of a validation at this step, if there was one.

    Returns:
        A handle for `check`.

    Raises:
        FullDiskError: the disk has too little space left. Other errors may come from the previous checkpoint.
    """
    finish(checkpoints)  # Orbax waits for it anyway, and the space left is known only then
    disk_space.check_room(Path(checkpoints.directory), sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
    return checkpoints.save_async(
        int(state.step), dataclasses.asdict(state), metrics=metrics, custom_metadata=configs.to_dict(config)
    )


def check(saving: Any) -> None:
    """Raises the error of a `save` if it has failed by now, rather than at the next one, which may be hours away."""
    orbax_workarounds.raise_noticed()
    with contextlib.suppress(TimeoutError):  # it is still being written
        saving.result(timeout=0)


def finish(checkpoints: ocp.training.Checkpointer) -> None:
    """Waits until the latest `save` is complete on the disk, and raises its error if it fails."""
    orbax_workarounds.wait(checkpoints.wait)


def restore(checkpoints: ocp.training.Checkpointer, state: TrainState, config: Config) -> TrainState:
    """Returns the latest checkpoint, placed on devices as `state` is, or `state` itself if there is no checkpoint.

    Raises:
        ValueError: the checkpoint holds another network than the config describes.
    """
    if checkpoints.latest is None:
        return state
    saved = _config(checkpoints, checkpoints.latest.step)
    if saved.model != config.model:
        raise ValueError(
            f"the run in {checkpoints.directory.parent} trains {saved.model}, not {config.model}: "
            "name another --workdir, or use the same model"
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dataclasses.asdict(state)
    )
    return TrainState(**checkpoints.load(checkpoints.latest, abstract))


def latest_config(checkpoints: ocp.training.Checkpointer) -> Config:
    """Returns the config stored with the latest checkpoint; there must be one."""
    return _config(checkpoints, saved_steps(checkpoints)[-1])


def remove_after(checkpoints: ocp.training.Checkpointer, step: int) -> None:
    """Removes the checkpoints of later steps, so that the run resumes from an earlier one."""
    finish(checkpoints)
    for later in [s for s in saved_steps(checkpoints) if s > step]:
        checkpoints.delete(later)


def resumption(workdir: Path) -> str:
    """Returns a text that says where the same command resumes, or that it begins again."""
    steps = saved_on_disk(workdir)
    if not steps:
        return "rerun the same command; it begins at step 1, as no checkpoint was saved"
    return f"rerun the same command to resume after step {steps[-1]}, that of the latest checkpoint"
