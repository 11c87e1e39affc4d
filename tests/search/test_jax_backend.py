"""Neighbors by JAX, over eight devices, are those of faiss and of numpy's float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.search import jax_backend
from sscd_jax.search.knn import knn
from sscd_jax.sharding import create_mesh


def unit(rows: int, dims: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
@pytest.mark.parametrize("devices", [1, 8])
def test_equal_to_faiss(metric, devices, monkeypatch):
    monkeypatch.setattr(jax_backend, "TILE", 64)
    monkeypatch.setattr(jax_backend, "QUERIES", 32)
    queries, references = unit(75, 24, 0), unit(1000, 24, 1)
    queries[:40] = references[100:140] + np.float32(0.05) * unit(40, 24, 2)
    mesh = create_mesh(jax.devices()[:devices])
    scores, indexes = jax_backend.knn(queries, references, 10, metric, mesh=mesh)
    expected_scores, expected = knn(queries, references, 10, metric)
    np.testing.assert_array_equal(indexes, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=2e-6)
    assert (scores.dtype, indexes.dtype) == (np.float32, np.int64)


@pytest.mark.slow
@settings(max_examples=25)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 40), st.sampled_from(["l2", "inner_product"]))
def test_whole_numbers_with_ties(count, queries, k, metric):
    """Small integers: scores are exact, and often equal."""
    k = min(k, count)
    rng = np.random.default_rng([count, queries, k])
    some, others = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (queries, count))
    scores, indexes = jax_backend.knn(some, others, k, metric)
    exact = some.astype(int) @ others.T.astype(int)
    if metric == "l2":
        exact = -((some[:, None] - others[None]) ** 2).sum(-1).astype(int)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(indexes, order)
    np.testing.assert_array_equal(scores, np.take_along_axis(exact, order, 1))
