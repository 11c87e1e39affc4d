"""The mesh of devices, which has the one axis "data", and how arrays are placed on it."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec


def create_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of devices along the one axis "data".

    Args:
        devices: the devices; by default all devices of all processes.
    """
    devices = jax.devices() if devices is None else devices
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def create_local_mesh() -> Mesh:
    """Returns a mesh of the devices of this process alone."""
    return create_mesh(jax.local_devices())


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that every device holds completely, such as the parameters."""
    return NamedSharding(mesh, PartitionSpec())


def by_rows(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of an array that is split over the devices along its first axis, such as a batch."""
    return NamedSharding(mesh, PartitionSpec("data"))


def to_devices(batch: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Makes global arrays of the rows of all processes, split over the devices along the first axis.

    Args:
        batch: name -> array [rows of this process, ...], or nested dictionaries of such arrays.
        mesh: the devices; all their processes must call this.

    Returns:
        The same structure with arrays [rows of all processes, ...], in the order of the processes.

    Examples:
        >>> mesh = create_mesh()
        >>> to_devices({"images": np.zeros((16, 224, 224, 3), np.uint8)}, mesh)["images"].sharding == by_rows(mesh)
        True
    """
    return jax.tree.map(partial(jax.make_array_from_process_local_data, by_rows(mesh)), dict(batch))


def check_divisible(batch_size: int, option: str, devices: int | None = None) -> None:
    """Checks that a batch can be split evenly over the devices.

    Args:
        batch_size: the number of rows.
        option: the option that sets it, for the message, such as "--data.batch-size".
        devices: the number of devices; by default all of all processes.

    Raises:
        ValueError: it cannot; the message says which sizes can.
    """
    devices = devices or jax.device_count()
    if batch_size < 1 or batch_size % devices:
        near = max(batch_size // devices, 1) * devices
        raise ValueError(
            f"{option} {batch_size} does not divide over {devices} devices: "
            f"take a multiple of {devices}, such as {near}"
        )
