"""The blur against Pillow, on real photographs, and by its spread."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageFilter
from scipy import stats

from sscd_jax.data.augment.blur import blur, blur_weights, kernel
from sscd_jax.data.sample import photograph_paths

SIZE = 96
PHOTOGRAPHS = [Image.open(path).convert("RGB").resize((SIZE, SIZE)) for path in photograph_paths().values()]


def blurred(image: Image.Image, radius: float) -> np.ndarray:
    return blur(tf.constant(np.asarray(image)), tf.constant(radius)).numpy()


@pytest.mark.parametrize("radius", [0.1, 0.2, 0.3, 0.5, 1.0, 1.41, 1.42, 2.44, 2.45, 3.46, 3.47, 4.47, 4.48, 5.0])
def test_blur_equals_pillow(radius):
    found = []
    for photograph in PHOTOGRAPHS:
        pillow = np.asarray(photograph.filter(ImageFilter.GaussianBlur(radius)))
        found.append(np.abs(blurred(photograph, radius).astype(int) - pillow))
    means = np.mean(found, (1, 2, 3))
    assert means.max() < 1
    assert means.mean() < 0.6
    inside = np.mean([one[16:-16, 16:-16] for one in found], (1, 2, 3))
    assert inside.mean() < 0.5, "Pillow repeats the edges at each of its three passes"
    coffee = list(photograph_paths()).index("coffee")
    assert means[coffee] < 0.6
    assert inside[coffee] < 0.5


@pytest.mark.parametrize("radius", [0.7, 1.0, 2.0, 3.3, 5.0])
def test_blur_has_the_spread_of_its_radius(radius):
    half = kernel(tf.constant(radius)).numpy()
    weights, at = np.concatenate([half, half[-2::-1]]), np.arange(1 - len(half), len(half))
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert np.sqrt((weights * at**2).sum()) == pytest.approx(radius, rel=1e-3)
    gaussian = stats.norm.pdf(at, scale=radius)
    assert np.abs(weights - gaussian).max() < 0.1 * gaussian.max() or radius < 1
    assert half.min() > -1e-7


@pytest.mark.parametrize("radius", [0.1, 0.7, 1.0, 2.0, 3.3, 5.0])
def test_its_integer_weights_keep_sum_and_spread(radius):
    half = blur_weights(tf.constant(radius)).numpy().astype(int)
    assert half[0] + 2 * half[1:].sum() == 256
    assert half.min() >= 0
    spread = np.sqrt((2 * half * np.arange(len(half)) ** 2).sum() / 256)
    assert spread == pytest.approx(radius, rel=0.02) or radius < 0.7
    assert np.abs(np.cumsum(half[::-1]) / 256 - np.cumsum(kernel(tf.constant(radius))))[:-1].max() <= 0.5 / 256 + 1e-6


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.3, 5.0])
def test_a_blurred_edge_has_the_spread_of_the_radius(radius):
    edge = Image.new("RGB", (SIZE, SIZE))
    edge.paste("white", (edge.width // 2, 0, edge.width, edge.height))
    for axis, image in enumerate((edge.transpose(Image.Transpose.TRANSPOSE), edge)):
        profile = blurred(image, radius)[..., 0].mean(1 - axis)
        steps, at = np.diff(profile) / 255, np.arange(len(profile) - 1)
        assert steps.sum() == pytest.approx(1)
        center = (steps * at).sum()
        assert np.sqrt((steps * (at - center) ** 2).sum()) == pytest.approx(radius, rel=0.03)
