"""Images of several sizes in one array: each descriptor is that of the image alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.networks import seeded

from sscd_jax.models import transpose
from sscd_jax.models.folding import fold
from sscd_jax.models.resnet import BACKBONES

CANVAS = (70, 320)
# Odd and even, from 1:1 to 1:20, some that end in a map of one pixel, and one that fills the canvas.
SIZES = [(33, 47), (64, 64), (70, 320), (16, 320), (1, 20), (70, 71), (65, 129), (32, 1)]


def together(images: list[np.ndarray], beyond: float) -> np.ndarray:
    canvas = np.full((len(images), *CANVAS, 3), beyond, np.float32)
    for row, image in enumerate(images):
        canvas[row, : image.shape[0], : image.shape[1]] = image
    return canvas


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.normal(size=(*size, 3)).astype(np.float32) for size in SIZES]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_descriptor_is_that_of_the_image_alone(backbone, images):
    """Whatever is beyond the images in the array."""
    model, variables = fold(*seeded(backbone))
    apply, sizes = jax.jit(model.apply), np.array(SIZES, np.int32)
    beside_zeros, beside_nan = (apply(variables, together(images, beyond), sizes=sizes) for beyond in (0.0, np.nan))
    for image, *found in zip(images, beside_zeros, beside_nan, strict=True):
        alone = apply(variables, image[None])[0]
        for descriptor in found:
            np.testing.assert_allclose(descriptor, alone, atol=2e-6)


def test_without_sizes_padding_changes_descriptors(images):
    model, variables = seeded("resnet18")
    padded, alone = (jax.jit(model.apply)(variables, one)[0] for one in (together(images[:1], 0.0), images[0][None]))
    assert float(padded @ alone) < 0.999


@pytest.mark.slow
def test_unfolded_and_in_bfloat16(images):
    images, sizes = images[3:6], np.array(SIZES[3:6], np.int32)
    for options in ({}, {"dtype": jnp.bfloat16}):
        model, variables = seeded("resnet18", **options)
        found = jax.jit(model.apply)(variables, together(images, np.nan), sizes=sizes)
        for image, descriptor in zip(images, found, strict=True):
            alone = jax.jit(model.apply)(variables, image[None])[0]
            np.testing.assert_allclose(descriptor, alone, atol=2e-2 if options else 2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["resnet18", "resnext101_32x4d"])
def test_transposed_variables_see_transposed_images(backbone, images):
    model, variables = fold(*seeded(backbone))
    apply = jax.jit(model.apply)
    upright = apply(variables, images[0][None])
    turned = apply(transpose(variables), images[0][None].swapaxes(1, 2))
    np.testing.assert_allclose(turned, upright, atol=2e-6)
    assert float((apply(variables, images[0][None].swapaxes(1, 2)) * upright).sum()) < 0.999
