"""Search against numpy."""

import subprocess
import sys

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.search import knn as module
from sscd_jax.search.faiss_backend import project, write_index
from sscd_jax.search.knn import capped_search, knn

RNG = np.random.default_rng(0)


def vectors(count: int, dims: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dims)).astype(np.float32)


def all_scores(queries, references, metric):
    if metric == "inner_product":
        return queries @ references.T
    return -np.square(queries[:, None] - references[None]).sum(2)


@pytest.mark.parametrize("metric", ["l2", "inner_product"])
def test_knn(metric):
    queries, references = vectors(20), vectors(50, seed=1)
    expected = all_scores(queries, references, metric)
    scores, indexes = knn(queries, references, 7, metric)
    np.testing.assert_array_equal(indexes, np.argsort(-expected, 1)[:, :7])
    np.testing.assert_allclose(scores, np.take_along_axis(expected, indexes, 1), rtol=1e-5, atol=1e-5)
    assert knn(queries, references[:3], 7, metric)[1].shape == (20, 3)


@settings(max_examples=40)
@given(
    st.integers(1, 30),
    st.integers(1, 40),
    st.integers(1, 200),
    st.sampled_from(["l2", "inner_product"]),
    st.integers(0, 9),
)
def test_capped_search_is_exact_in_any_blocks(queries, references, count, metric, neighbors):
    q, r = vectors(queries), vectors(references, seed=1)
    q[0] *= 3  # by inner product, one query has more good pairs than its share
    expected = np.sort(all_scores(q, r, metric).ravel())[::-1][:count]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", 4)
        known = knn(q, r, neighbors, metric) if neighbors else None
        query, reference, score = capped_search(q, r, count, metric, known=known)
    assert len(score) == min(count, queries * references)
    np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(score, all_scores(q, r, metric)[query, reference], rtol=1e-5, atol=1e-5)
    assert len(set(zip(query, reference, strict=True))) == len(score)


def test_whitening_whitens():
    correlated = vectors(500) @ vectors(8, seed=3)
    training, others = project("PCAW8,Flat", correlated, correlated[:100])
    covariance = np.cov(training.T)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(8), atol=0.02)
    np.testing.assert_allclose(others, training[:100], atol=1e-5)


def test_whitening_of_too_few_dimensions_is_refused():
    flat = vectors(100)
    flat[:, 4:] = 0
    with pytest.raises(ValueError, match="PCAW8,L2norm,Flat"):
        project("PCAW8,L2norm,Flat", flat, flat)


def test_index_on_disk(tmp_path):
    references = vectors(40)
    write_index(tmp_path / "index.faiss", references)
    index = faiss.read_index(str(tmp_path / "index.faiss"))
    scores, labels = index.search(references[:5], 3)
    np.testing.assert_array_equal(labels, knn(references[:5], references, 3, "inner_product")[1])
    assert [path.name for path in tmp_path.iterdir()] == ["index.faiss"]
    assert scores.shape == (5, 3)


@pytest.mark.slow
def test_libraries_are_loaded_when_a_search_begins():
    """Importing what may search loads no faiss, and measuring by faiss loads no JAX."""
    code = """
import sys
import numpy as np
import sscd_jax.evaluation.disc
from sscd_jax.search.knn import knn
assert not {"faiss", "jax"} & {*sys.modules}
knn(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32), 1, "l2", backend="faiss")
assert "faiss" in sys.modules
assert "jax" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import sys, sscd_jax.embedding.collection; assert 'jax' in sys.modules; assert 'faiss' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
