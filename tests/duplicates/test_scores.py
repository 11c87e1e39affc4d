"""Pairs of images at a threshold, compared with all products in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.duplicates import scores as module
from sscd_jax.duplicates.scores import Scores, all_pairs
from sscd_jax.mapped_vectors import MappedVectors


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def naive(scores: Scores) -> np.ndarray:
    vectors = np.asarray(scores.vectors).astype(np.float64)
    return vectors @ vectors.T - (scores.background[:, None] + scores.background[None]) / 2


def listed(pairs) -> list[tuple[int, int, float, float]]:
    return [pair for block in pairs for pair in zip(*(part.tolist() for part in block), strict=True)]


@pytest.fixture(params=[3, 5, 4096])
def block(request, monkeypatch) -> int:
    monkeypatch.setattr(module, "BLOCK", request.param)
    return request.param


@settings(max_examples=40)
@given(
    count=st.integers(0, 30), dims=st.integers(1, 4), seed=st.integers(0, 10**6), threshold=st.floats(-1, 1),
    size=st.sampled_from([1, 3, 7, 64]), most=st.sampled_from([1, 5, 1000]),
)  # fmt: skip
def test_all_pairs_are_found_once_and_in_order(count, dims, seed, threshold, size, most):
    rng = np.random.default_rng(seed)
    scores = Scores(unit(rng.normal(size=(count, dims)) + 1e-9), rng.uniform(-0.2, 0.4, count))
    before, module.BLOCK = module.BLOCK, size
    try:
        found = listed(all_pairs(scores, threshold, np.arange(count), most=most))
    finally:
        module.BLOCK = before
    expected = naive(scores)
    wanted = [(a, b) for a in range(count) for b in range(a + 1, count) if expected[a, b] >= threshold + 1e-12]
    allowed = {(a, b) for a in range(count) for b in range(a + 1, count) if expected[a, b] >= threshold - 1e-12}
    pairs = [(a, b) for a, b, _, _ in found]
    assert pairs == sorted(set(pairs))
    assert set(wanted) <= set(pairs) <= allowed
    for a, b, similarity, score in found:
        assert score == pytest.approx(expected[a, b], abs=1e-12)
        assert similarity == pytest.approx(expected[a, b] + (scores.background[a] + scores.background[b]) / 2)


def test_pairs_with_other_images_and_of_some_rows(block):
    rng = np.random.default_rng(0)
    vectors = unit(rng.normal(size=(20, 4)))
    scores, expected = Scores.plain(vectors), vectors.astype(np.float64) @ vectors.T
    rows, others = np.array([17, 2, 9, 4, 11]), np.array([3, 0, 19, 5, 6, 7, 8])
    found = [(a, b) for a, b, _, _ in listed(all_pairs(scores, 0.3, rows, others))]
    assert found == [(a, b) for a in rows for b in others if expected[a, b] >= 0.3]
    found = [(a, b) for a, b, _, _ in listed(all_pairs(scores, 0.3, rows))]
    assert found == [(a, b) for i, a in enumerate(rows) for b in rows[i + 1 :] if expected[a, b] >= 0.3]


def test_vectors_in_several_files_give_the_same(block):
    vectors = unit(np.random.default_rng(1).normal(size=(23, 6)))
    mapped = MappedVectors([vectors[:4], vectors[4:17].astype(np.float32), vectors[17:]], 6)
    one, other = (listed(all_pairs(Scores.plain(v), 0.2, np.arange(23))) for v in (vectors, mapped))
    assert one == other


def test_what_a_pair_scores_does_not_depend_on_its_place(monkeypatch):
    """Matrices of other sizes are rounded in other ways, so that a pair at the threshold would come and go."""
    vectors = unit(np.random.default_rng(2).normal(size=(120, 512)) + 0.3)
    scores = Scores.plain(vectors)
    threshold = scores.scores(np.array([5]), np.array([100]))[0]  # exactly at the threshold
    results = []
    for size in (7, 17, 64, 4096):
        monkeypatch.setattr(module, "BLOCK", size)
        results.append(listed(all_pairs(scores, threshold, np.arange(120))))
    assert any((a, b) == (5, 100) for a, b, _, _ in results[0])
    assert all(result == results[0] for result in results)


def test_memory_does_not_grow_with_the_pairs(monkeypatch):
    vectors = np.repeat(unit(np.ones((1, 8))), 600, 0)
    sizes = [len(block[0]) for block in all_pairs(Scores.plain(vectors), 0.5, np.arange(600), most=2000)]
    assert sum(sizes) == 600 * 599 // 2
    assert max(sizes) <= 2000
