"""Edits that put something around the image leave it as it was, in the share that they say."""

import numpy as np
import pytest
from PIL import Image

from sscd_jax.datasets.edits import KINDS, frame

SEEDS = range(8)


def test_paste_onto_shows_the_image_small_on_the_other(china):
    red, blue = Image.new("RGB", (200, 150), "red"), Image.new("RGB", (90, 90), "blue")
    for seed in SEEDS:
        result = np.asarray(frame.paste_onto(red, np.random.default_rng(seed), "strong", [blue]))
        share = (result == (255, 0, 0)).all(-1).mean()
        assert result.shape == (150, 200, 3)
        assert 0.49 < share < 0.81
        assert share + (result == (0, 0, 255)).all(-1).mean() == 1


@pytest.mark.parametrize(
    ("name", "strength", "least", "most"),
    [
        ("pad", "weak", 0.86, 0.93),
        ("pad", "medium", 0.72, 0.84),
        ("pad", "strong", 0.52, 0.70),
        ("caption", "weak", 1 / 1.16, 1 / 1.10),
        ("caption", "medium", 1 / 1.30, 1 / 1.20),
        ("caption", "strong", 1 / 1.55, 1 / 1.35),
        ("screenshot", "weak", 0.80, 0.88),
        ("screenshot", "medium", 0.62, 0.74),
        ("screenshot", "strong", 0.46, 0.58),
    ],
)
@pytest.mark.parametrize("size", [(90, 60), (40, 120)])
def test_what_frames_the_image_leaves_it_as_it_was(name, strength, least, most, size, china, coffee):
    image = china.resize(size)
    for seed in SEEDS:
        result = np.asarray(KINDS[name](image, np.random.default_rng(seed), strength, [coffee]))
        assert least - 0.02 < size[0] * size[1] / (result.shape[0] * result.shape[1]) < most + 0.02
        windows = np.lib.stride_tricks.sliding_window_view(result, (size[1], size[0], 3))
        assert (windows == np.asarray(image)).all(axis=(3, 4, 5)).any()


@pytest.mark.parametrize(
    ("strength", "least", "most"), [("weak", 0.68, 0.78), ("medium", 0.48, 0.58), ("strong", 0.28, 0.38)]
)
def test_collage_shows_the_whole_image_beside_others(strength, least, most):
    red, others = Image.new("RGB", (200, 150), "red"), [Image.new("RGB", (90, 90), c) for c in ("blue", "lime", "cyan")]
    for seed in SEEDS:
        result = np.asarray(frame.collage(red, np.random.default_rng(seed), strength, others))
        assert result.shape[0] * result.shape[1] == pytest.approx(200 * 150, rel=0.03)
        own = (result == (255, 0, 0)).all(-1)
        assert least - 0.03 < own.mean() < most + 0.01  # less half the width of a line
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        assert own.sum() == len(rows) * len(columns)
        assert len(columns) / len(rows) == pytest.approx(200 / 150, rel=0.05)
        seen = {tuple(color) for color in result.reshape(-1, 3).tolist()} - {(255, 0, 0)}
        assert len(seen - {(0, 0, 0), (255, 255, 255)}) == (3 if strength == "strong" else 1)
