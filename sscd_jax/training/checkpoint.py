"""Checkpoints of a training run by Orbax: WORKDIR/checkpoints/STEP, each with the run's config."""

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import jax
from orbax.checkpoint import v1 as ocp

from sscd_jax import config as configs
from sscd_jax.config import Config
from sscd_jax.distributed import has_other_hosts
from sscd_jax.training import disk_space
from sscd_jax.training.state import TrainState
from sscd_jax.weights.runs import FOLDER, _config, saved_on_disk, saved_steps

BEST_METRIC = "uAP"


@contextlib.contextmanager
def open_checkpoints(workdir: Path, *, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """The checkpoints of a run; on leaving waits for the one being written.

    Keeps the last `keep` and the one of the best validation uAP. Orbax writes to a temporary folder and renames it, so
    that a checkpoint is whole or absent; what a killed process left is removed.

    Raises:
        FullDiskError: there is no room on the disk, for them or for what else is written within.
    """
    policies = ocp.training.preservation_policies
    best = policies.BestN(
        get_metric_fn=lambda metrics: metrics[BEST_METRIC], n=1, keep_checkpoints_without_metrics=False
    )
    # Every device would write a part of each array, and compile a program for each part. The whole state is small.
    whole = ocp.options.ArrayOptions.Saving(use_replica_parallel=False)
    options = ocp.Context(array_options=ocp.options.ArrayOptions(saving=whole))
    with options, disk_space.explained(workdir, lambda: _remedy(workdir)):
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
                _wait(checkpoints.close)
            except Exception as other:  # must not take the place of the error; often it is the same
                if not (disk_space.is_full(other) and disk_space.is_full(error)):
                    print(f"the last checkpoint could not be written: {other}", file=sys.stderr)
            raise
        _wait(checkpoints.close)


def save(
    checkpoints: ocp.training.Checkpointer, state: TrainState, config: Config, metrics: dict[str, float] | None
) -> Any:
    """Starts to write the state under its step and returns what `check` takes; `metrics` are of a validation there.

    Raises:
        FullDiskError: there is no room for it. Other errors may be those of the checkpoint before.
    """
    finish(checkpoints)  # it would, and what is free is known only then
    disk_space.check_room(Path(checkpoints.directory), sum(leaf.nbytes for leaf in jax.tree.leaves(state)))
    return checkpoints.save_async(
        int(state.step), dataclasses.asdict(state), metrics=metrics, custom_metadata=configs.to_dict(config)
    )


def check(saving: Any) -> None:
    """Raises what has gone wrong with a `save`, if it has by now; the next one may be hours away."""
    disk_space.raise_noticed()
    with contextlib.suppress(TimeoutError):  # it is still being written
        saving.result(timeout=0)


def finish(checkpoints: ocp.training.Checkpointer) -> None:
    """Waits until the latest `save` is whole on the disk; raises what has gone wrong with it."""
    _wait(checkpoints.wait)


def _wait(for_threads: Callable[[], None]) -> None:
    """Calls what waits for the threads of Orbax; in one of several processes only until they find the disk full.

    Orbax itself raises that twenty minutes later: its threads wait for the other processes, and they for its part.
    """
    if not has_other_hosts():
        for_threads()
        return
    done: Future[None] = Future()

    def run() -> None:
        try:
            for_threads()
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, daemon=True).start()  # nobody waits for a daemon when the process ends
    while not futures.wait([done], timeout=0.1).done:
        disk_space.raise_noticed()
    done.result()


def restore(checkpoints: ocp.training.Checkpointer, state: TrainState, config: Config) -> TrainState:
    """The latest checkpoint, laid out as `state` is; `state` itself where there is none yet.

    Raises:
        ValueError: the checkpoint is of another network than the config's.
    """
    if checkpoints.latest is None:
        return state
    saved = _config(checkpoints, checkpoints.latest.step)
    if saved.model != config.model:
        raise ValueError(
            f"the run in {checkpoints.directory.parent} trains {saved.model}, not {config.model}: "
            "take another --workdir, or the same model"
        )
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), dataclasses.asdict(state)
    )
    return TrainState(**checkpoints.load(checkpoints.latest, abstract))


def latest_config(checkpoints: ocp.training.Checkpointer) -> Config:
    """The config of the run when the latest checkpoint was made; there must be one."""
    return _config(checkpoints, saved_steps(checkpoints)[-1])


def remove_after(checkpoints: ocp.training.Checkpointer, step: int) -> None:
    """Removes the checkpoints of later steps, so that the run continues before them."""
    finish(checkpoints)
    for later in [s for s in saved_steps(checkpoints) if s > step]:
        checkpoints.delete(later)


def _remedy(workdir: Path) -> str:
    steps = saved_on_disk(workdir)
    goes_on = f"goes on after step {steps[-1]}, that of the latest checkpoint" if steps else "begins anew"
    return f"free some, and the same command {goes_on}"
