"""Edits that put something over the image cover the share that they say."""

import numpy as np
import pytest

from sscd_jax.datasets.edits import overlay

SEEDS = range(8)


def test_overlay_leaves_most_of_the_image_as_it_was(china, coffee):
    for seed in SEEDS:
        result = overlay.overlay(china, np.random.default_rng(seed), "strong", [coffee])
        changed = (np.asarray(result) != np.asarray(china)).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.08 < box / changed.size < 0.26


@pytest.mark.parametrize(("strength", "least", "most"), [("weak", 1, 2), ("medium", 2, 4), ("strong", 4, 6)])
def test_stickers_cover_some_and_leave_the_rest(strength, least, most, china):
    sides = {"weak": (0.13, 0.18), "medium": (0.18, 0.25), "strong": (0.24, 0.34)}[strength]
    for seed in SEEDS:
        result = overlay.stickers(china, np.random.default_rng(seed), strength)
        share = (np.asarray(result) != np.asarray(china)).any(-1).mean() * 200 / 150  # of the short side's square
        # A star covers a fifth of its square; of the strong ones, some cover one another.
        assert 0.15 * least * sides[0] ** 2 < share < most * sides[1] ** 2
