"""What the devices compute of the augmentations is what the host computes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.extras import needs_augly

from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches
from sscd_jax.sharding import by_rows, create_mesh, to_devices
from sscd_jax.training import device_augment

OPTIONS = {"batch_size": 32, "image_size": 64, "seed": 3, "mixup_group": 8}


def batch(images, **options) -> dict:
    return next(train_batches(open_source(str(images)), **(OPTIONS | options)).as_numpy_iterator())


def on_devices(made: dict, count: int) -> np.ndarray:
    arrays = to_devices(
        {name: made[name] for name in ("images", "color_ops", "mixing")}, create_mesh(jax.devices()[:count])
    )

    @jax.jit
    def compute(images, color_ops, mixing):
        recolored = device_augment.color_ops(images, **color_ops)
        return device_augment.mix(recolored, **mixing, group=OPTIONS["mixup_group"])

    return np.asarray(compute(**arrays))


@pytest.mark.slow
@pytest.mark.parametrize(
    "augmentation",
    ["SIMCLR", "STRONG_BLUR", pytest.param("ADVANCED", marks=needs_augly)],
)
def test_the_pixels_are_those_of_the_host(images, augmentation):
    host, device = (batch(images, augmentation=augmentation, color_ops=where) for where in ("host", "device"))
    np.testing.assert_array_equal(host["instance_ids"], device["instance_ids"])
    assert (host["instance_ids"][:, 0] != host["instance_ids"][:, 1]).any(), "some are mixed"
    difference = np.abs(on_devices(device, 8).astype(int) - host["images"])
    assert difference.mean() < 0.1, "but for values that a rounding takes to either side"
    assert (difference > 2).mean() < 0.005
    assert np.abs(device["images"].astype(int) - host["images"]).mean() > 5


@pytest.mark.slow
def test_each_recoloring_is_left_to_the_device(images):
    made = batch(images, augmentation="STRONG_BLUR", color_ops="device")
    applied = made["color_ops"]["flags"].mean(0)
    assert ((applied > 0.05) & (applied < 1)).all()
    assert made["images"].dtype == np.uint8


def test_partners_come_from_the_device_that_has_them_as_uint8():
    rows, mesh = 512, create_mesh(jax.devices()[:8])
    batch = {"images": np.zeros((rows, 32, 32, 3), np.uint8), "share": np.ones(rows, np.float32)}
    batch["box"] = np.zeros((rows, 4), np.int32)
    mix = jax.jit(
        lambda images, share, box: device_augment.mix(images, share=share, box=box, group=32),
        out_shardings=by_rows(mesh),
    )
    hlo = mix.lower(**to_devices(batch, mesh)).compile().as_text()
    assert "all-gather" not in hlo
    assert re.search(r"= u8\[\S+ collective-permute\(", hlo)


def test_the_blur_is_exact_in_the_products_of_a_tpu():
    """By default they take bfloat16, which has 8 bits."""
    for radius in np.linspace(0.1, 5, 50):
        weights = device_augment._blur_weights(jnp.float32(radius))
        assert weights.sum() == 256
        for numbers in (weights, jnp.cumsum(weights)):  # what the edges of the band hold
            np.testing.assert_array_equal(numbers.astype(jnp.bfloat16).astype(jnp.float32), numbers)
