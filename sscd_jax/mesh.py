"""Devices: start-up, the one-axis mesh, and how a batch lies on it."""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jaxlib
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from sscd_jax.cache import cache_folder

# An unknown XLA flag aborts the process: only versions on which the flag was tried.
_CPU_FLAGS = {"0.10.2": "--xla_cpu_experimental_ynn_fusion_type="}


def start() -> None:
    """Sets what must be set before the first computation of a process.

    On the CPU, one fusion pass of XLA makes convolutions slower; it is turned off (scripts/benchmarks/layers.py).
    Compiled programs are kept in ~/.cache/sscd_jax/compiled, or where JAX_COMPILATION_CACHE_DIR says.
    TensorFlow prepares pictures side by side, each on one thread: to share an operation out costs more than it gains
    (scripts/benchmarks/device_augment.py).
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow is imported later; errors still show.
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
    if jax.config.values["jax_compilation_cache_dir"] is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder("compiled")))
    flag = _CPU_FLAGS.get(jaxlib.__version__)
    flags = os.environ.get("XLA_FLAGS", "")
    if flag and flag.split("=")[0] not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {flag}".strip()


def join_hosts() -> None:
    """Joins the processes of a TPU pod, or of a SLURM or Open MPI job, so that each knows its number among them.

    Raises:
        ValueError: JAX finds no such job.
    """
    try:
        # One that is done before the others waits for them at its end, however long: JAX would end them all.
        jax.distributed.initialize(shutdown_timeout_seconds=30 * 24 * 3600)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"JAX finds no TPU pod, SLURM or Open MPI job that this process is of: {error}") from error


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The devices, by default all of all processes, along the axis 'data'."""
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def create_local_mesh() -> Mesh:
    """The devices of this process."""
    return create_mesh(jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """Split over the devices along the first axis."""
    return NamedSharding(mesh, PartitionSpec("data"))


def to_devices(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """This host's rows of a batch, nested arrays, to global arrays, split over the devices along the first axis."""
    return jax.tree.map(partial(jax.make_array_from_process_local_data, by_rows(mesh)), dict(batch))


def check_divisible(batch_size: int, option: str, devices: int | None = None) -> None:
    """Raises ValueError where a batch does not divide over the devices, by default all; says which sizes do."""
    devices = devices or jax.device_count()
    if batch_size < 1 or batch_size % devices:
        near = max(batch_size // devices, 1) * devices
        raise ValueError(
            f"{option} {batch_size} does not divide over {devices} devices: take a multiple of {devices}, as {near}"
        )
