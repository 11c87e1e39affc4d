"""The background of scores, compared with its definition in plain numpy, and what it is for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.duplicates import background as module
from sscd_jax.duplicates.background import first_pass, of_collection, of_others
from sscd_jax.mapped_vectors import MappedVectors


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@settings(max_examples=60)
@given(
    count=st.integers(0, 30), others=st.integers(0, 30), seed=st.integers(0, 10**6), size=st.sampled_from([1, 4, 2048]),
    alike=st.floats(-0.5, 1.1), neighbors=st.integers(1, 12),
)  # fmt: skip
def test_the_mean_over_the_nearest_that_are_no_copies(count, others, seed, size, alike, neighbors):
    rng = np.random.default_rng(seed)
    one, other = (unit(rng.normal(size=(n, 4)) + 1e-6) for n in (count, others))
    rows = np.flatnonzero(rng.random(others) < 0.8)
    similarity = one @ other[rows].T
    if (np.abs(similarity - alike) < 1e-6).any():
        return  # products are rounded in several ways
    before, module.BLOCK = module.BLOCK, size
    try:
        found = of_others(one, MappedVectors([other], 4), rows, alike=alike, neighbors=neighbors)
    finally:
        module.BLOCK = before
    for got, row in zip(found, similarity, strict=True):
        best = np.sort(row[row < alike])[::-1][:neighbors]
        assert got == pytest.approx(best.mean() if len(best) else 0, abs=1e-6)


def test_copies_of_an_image_are_not_its_background():
    """Thirty images, one of which has twenty copies: these change nothing."""
    rng = np.random.default_rng(0)
    images = unit(rng.normal(size=(30, 64)))
    copies = unit(images[:1] + 0.05 * rng.normal(size=(20, 64)))
    rows = np.arange(50)
    with_copies = np.concatenate([images, copies])
    alone = of_collection(images, rows[:30], first_pass(images, rows[:30]))
    together = of_collection(with_copies, rows, first_pass(with_copies, rows))
    np.testing.assert_allclose(together[:30], alone, atol=1e-6)
    nearest = np.sort(with_copies @ with_copies.T, 1)[:, -11:-1].mean(1)
    assert nearest[0] > 0.8 > 0.4 > together[0]  # what its neighbors would have said


def test_images_like_all_others_have_a_higher_background():
    """A look-alike pair of a crowd scores less than a copy of an image that stands alone, and is more similar."""
    rng = np.random.default_rng(1)
    crowd = unit(0.45 * np.eye(128)[:1] + 0.6 * unit(rng.normal(size=(60, 128))))
    alone = unit(rng.normal(size=(1, 128)))
    copy = unit(alone + 1.45 * unit(rng.normal(size=(1, 128))))
    vectors = np.concatenate([crowd, alone, copy])
    rows = np.arange(62)
    found = of_collection(vectors, rows, first_pass(vectors, rows))
    similarity = vectors @ vectors.T - 2 * np.eye(62)
    look_alike = np.unravel_index(similarity[:60, :60].argmax(), (60, 60))
    score = similarity - (found[:, None] + found[None]) / 2
    assert similarity[look_alike] > similarity[60, 61]
    assert score[look_alike] < score[60, 61]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_images(count):
    vectors, rows = np.eye(4, dtype=np.float32)[:count], np.arange(count)
    assert of_collection(vectors, rows, first_pass(vectors, rows)).tolist() == [0] * count
