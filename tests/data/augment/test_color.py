"""Jitter and gray against Pillow, on a real photograph."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance

from sscd_jax.data.augment import color
from sscd_jax.data.augment.packed_pixels import packed, upright
from sscd_jax.data.sample import photograph_paths

SIZE = 96
SQUARE = Image.open(photograph_paths()["coffee"]).convert("RGB").resize((SIZE, SIZE))
OFF = {"flags": [False] * 2, "order": [0, 1, 2, 3], "factors": [1.0] * 3, "hue": 0.0}


def color_ops(image: Image.Image, **settings) -> np.ndarray:
    view = packed(*tf.unstack(tf.constant(np.asarray(image).transpose(1, 0, 2), tf.float32), axis=2))
    s = OFF | settings
    return upright(color.color_ops(SIZE)(view, s["flags"], s["order"], s["factors"], s["hue"])).numpy()


def difference(ours: np.ndarray, pillow: Image.Image) -> np.ndarray:
    return np.abs(ours.astype(int) - np.asarray(pillow))


def test_nothing_is_done_without_flags():
    np.testing.assert_array_equal(color_ops(SQUARE), SQUARE)


@pytest.mark.parametrize(("part", "enhance"), [(0, "Brightness"), (1, "Contrast"), (2, "Color")])
@pytest.mark.parametrize("amount", [0.2, 0.7, 1.0, 1.4, 1.8])
def test_enhancement_equals_pillow(part, enhance, amount):
    factors = [1.0] * 3
    factors[part] = amount
    ours = color_ops(SQUARE, flags=[True, False], factors=factors)
    # The hue that does not turn goes to Pillow's HSV and back too.
    pillow = turn_hue(getattr(ImageEnhance, enhance)(SQUARE).enhance(amount), 0.0)
    assert difference(ours, pillow).mean() < 0.05


def turn_hue(image: Image.Image, turns: float) -> Image.Image:
    """torchvision's adjust_hue for Pillow images."""
    hue, saturation, value = image.convert("HSV").split()
    moved = np.asarray(hue) + np.int32(turns * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(moved.astype(np.uint8)), saturation, value)).convert("RGB")


@pytest.mark.parametrize("turns", [-0.2, -0.05, 0.0, 0.1, 0.2])
def test_hue_equals_pillow(turns):
    ours = color_ops(SQUARE, flags=[True, False], hue=turns)
    assert difference(ours, turn_hue(SQUARE, turns)).mean() < 0.05


def test_the_order_of_the_jitter_is_kept():
    settings = {"flags": [True, False], "factors": [1.7, 0.5, 1.6]}
    one, other = (color_ops(SQUARE, order=order, **settings) for order in ([0, 1, 2, 3], [2, 1, 0, 3]))
    bright = ImageEnhance.Brightness(SQUARE).enhance(1.7)
    pillow = ImageEnhance.Color(ImageEnhance.Contrast(bright).enhance(0.5)).enhance(1.6)
    assert difference(one, turn_hue(pillow, 0.0)).mean() < 0.1
    assert difference(other, turn_hue(pillow, 0.0)).mean() > 3


def test_gray_equals_pillow():
    ours = color_ops(SQUARE, flags=[False, True])
    assert difference(ours, SQUARE.convert("L").convert("RGB")).max() == 0
