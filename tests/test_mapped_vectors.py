"""Vectors in several arrays are used like one array."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_jax.mapped_vectors import MappedVectors, check_finite, joined

PARTS = [
    np.random.default_rng(k).normal(size=(n, 3)).astype(t)
    for k, (n, t) in enumerate([(4, "f4"), (0, "f4"), (1, "f2"), (6, "f4")])
]
WHOLE = np.concatenate(PARTS, dtype=np.float32)
ROWS = st.lists(st.integers(-11, 10), max_size=8)


@pytest.fixture(scope="module")
def vectors():
    return MappedVectors(PARTS, 3)


@given(st.slices(11))
def test_slices(vectors, rows):
    np.testing.assert_array_equal(vectors[rows], WHOLE[rows])
    np.testing.assert_array_equal(vectors[rows, 1], WHOLE[rows, 1])


@given(ROWS, st.lists(st.booleans(), min_size=11, max_size=11), st.integers(-11, 10))
def test_rows(vectors, rows, mask, row):
    whole = WHOLE[rows] if rows else WHOLE[:0]
    np.testing.assert_array_equal(vectors[rows], whole)
    np.testing.assert_array_equal(vectors[np.array(mask)], WHOLE[mask])
    np.testing.assert_array_equal(vectors[row], WHOLE[row])
    np.testing.assert_array_equal(vectors[row, :2], WHOLE[row, :2])
    np.testing.assert_array_equal(vectors[np.array([[row], [0]])], WHOLE[[[row], [0]]])


@pytest.mark.parametrize("rows", [11, -12, [0, 11], np.ones(10, bool), np.array([0.5]), "a"])
def test_rows_that_do_not_exist(vectors, rows):
    with pytest.raises((IndexError, TypeError, ValueError)):
        vectors[rows]


def test_as_one_array(vectors):
    assert (len(vectors), vectors.shape, vectors.ndim, vectors.dtype) == (11, (11, 3), 2, np.float32)
    np.testing.assert_array_equal(vectors, WHOLE)
    np.testing.assert_array_equal([*vectors], WHOLE)
    np.testing.assert_array_equal(vectors @ vectors.T, WHOLE @ WHOLE.T)
    np.testing.assert_array_equal(WHOLE.T @ vectors, WHOLE.T @ WHOLE)
    np.testing.assert_array_equal(2 * vectors - vectors, WHOLE)
    np.testing.assert_array_equal(vectors == WHOLE, np.ones((11, 3), bool))
    assert np.mean(vectors) == WHOLE.mean()
    assert np.asarray(vectors, np.float64).dtype == np.float64
    np.testing.assert_array_equal(vectors.astype(np.float16), WHOLE.astype(np.float16))
    with pytest.raises(ValueError, match="only by a copy"):
        np.array(vectors, copy=False)
    assert np.asarray(MappedVectors([], 3)).shape == (0, 3)


def test_rows_of_one_part_are_not_copied(vectors):
    assert np.shares_memory(vectors[1:3], PARTS[0])
    assert not np.shares_memory(np.asarray(vectors), PARTS[0])


def test_the_first_that_is_not_finite():
    some, ids = np.zeros((10_000, 2), np.float32), [str(k) for k in range(10_000)]
    check_finite(ids, some)
    some[[9000, 5000], 1] = np.nan, np.inf
    with pytest.raises(ValueError, match="the vector of 5000 is not finite"):
        check_finite(ids, some)


def test_joined_vectors_are_those_of_both():
    rng = np.random.default_rng(0)
    one, two, three = (rng.normal(size=(n, 4)).astype(np.float32) for n in (3, 0, 5))
    for first, second in ((one, three), (MappedVectors([one, three], 4), two), (two, MappedVectors([three], 4))):
        both = joined(first, second)
        np.testing.assert_array_equal(both[:], np.concatenate([np.asarray(first), np.asarray(second)]))
        assert both.shape == (len(first) + len(second), 4)
