"""The mesh, and how a batch is placed on it."""

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from sscd_jax import sharding


def test_a_batch_is_split_by_rows_and_the_state_is_everywhere():
    devices = sharding.create_mesh()
    assert devices.axis_names == ("data",)
    assert devices.axis_types == (AxisType.Auto,)
    rows = np.arange(32, dtype=np.float32).reshape(16, 2)
    batch = sharding.to_devices({"x": rows}, devices)["x"]
    np.testing.assert_array_equal(batch, rows)
    assert {shard.data.shape for shard in batch.addressable_shards} == {(2, 2)}
    everywhere = jax.device_put(rows, sharding.replicated(devices))
    assert {shard.data.shape for shard in everywhere.addressable_shards} == {(16, 2)}


@pytest.mark.parametrize(("batch", "near"), [(12, 8), (4, 8), (31, 24)])
def test_a_batch_that_does_not_divide_is_refused_with_one_that_does(batch, near):
    with pytest.raises(
        ValueError, match=rf"--x {batch} does not divide over 8 devices: take a multiple of 8, such as {near}$"
    ):
        sharding.check_divisible(batch, "--x")
    sharding.check_divisible(near, "--x")
