"""The one-axis mesh of devices, and how a batch lies on it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


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
