"""What counts as the same image: equal pixels do, whatever the id; near copies and equal ids do not."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.descriptors import Descriptors
from sscd_jax.provenance import Provenance
from sscd_jax.search import knn as module
from sscd_jax.search import same_images
from sscd_jax.search.knn import capped_search, knn, knn_of_others
from sscd_jax.search.same_images import SameImages, distinct, without

DIMS = 32


def drawn(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, DIMS)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def moved(vectors: np.ndarray, by: float, seed: int = 9) -> np.ndarray:
    """The vectors at this distance from where they were."""
    return (vectors + by * drawn(len(vectors), seed)).astype(np.float32)


def named(vectors: np.ndarray, form: str = "q{}") -> Descriptors:
    return Descriptors([form.format(i) for i in range(len(vectors))], vectors, Provenance("w" * 64, "small_288"))


def pairs(same: SameImages) -> list[tuple[int, int]]:
    held = same.holds(np.arange(len(same.query))[:, None], np.arange(len(same.reference))[None])
    assert held.sum(1).tolist() == same.counts.tolist()
    return [(q, r) for q, r in np.argwhere(held).tolist()]


def test_equal_descriptors_are_the_same_image_whatever_their_ids():
    vectors = drawn(20)
    rounded = moved(vectors[[3, 5]], 2e-6)  # as by a batch of another size
    references = np.concatenate([drawn(10, 1), vectors[[3]], rounded])
    assert pairs(SameImages.find(named(vectors), named(references, "r{}"))) == [(3, 10), (3, 11), (5, 12)]


@pytest.mark.parametrize("distance", [1e-4, 6e-3, 5e-2])  # a pixel, JPEG of quality 100, a row of pixels cut off
def test_near_copies_are_other_images(distance):
    vectors = drawn(20)
    assert not SameImages.find(named(vectors), named(moved(vectors, distance), "r{}")).total


def test_float16_rounds_more():
    vectors = drawn(20)
    half = vectors.astype(np.float16).astype(np.float32)
    assert np.linalg.norm(half - vectors, axis=1).max() > 1e-4
    for one, other in ((vectors, half), (half, vectors), (half, half)):
        assert pairs(SameImages.find(named(one), named(other, "r{}"))) == [(i, i) for i in range(20)]
    assert not SameImages.find(named(half), named(moved(half, 6e-3), "r{}")).total


def test_equal_ids_are_the_same_image_if_the_descriptors_are_close():
    """Of bfloat16 and float32; but two folders may number different images alike."""
    vectors = drawn(20)
    assert pairs(SameImages.find(named(vectors), named(moved(vectors, 0.04)))) == [(i, i) for i in range(20)]
    assert not SameImages.find(named(vectors), named(drawn(20, 1))).total
    assert SameImages.find(named(vectors), named(moved(vectors, 0.23))).total == 20
    shifted = np.roll(moved(vectors, 0.04), 1, axis=0)  # the hard negative of each has its id
    assert not SameImages.find(named(vectors), named(shifted)).total


def test_what_the_ground_truth_names_is_kept():
    vectors = drawn(4)
    references = named(np.concatenate([vectors, vectors]), "q{}")  # q4 to q7 are the same images again
    kept = np.array([0 * 8 + 0, 1 * 8 + 5, 2 * 8 + 3])
    expected = [(0, 4), (1, 1), (2, 2), (2, 6), (3, 3), (3, 7)]
    assert pairs(SameImages.find(named(vectors), references, kept)) == expected


@pytest.mark.parametrize("spread", [0.0, 1e-7, 1e-3])
def test_a_network_that_tells_nothing_apart_is_not_excused(spread):
    collapsed = moved(np.repeat(drawn(1), 50, axis=0), spread)
    one, other = named(collapsed[:20]), named(collapsed[20:], "r{}")
    assert not SameImages.find(one, other).total
    assert not SameImages.find(one, named(collapsed[:20])).total
    assert distinct(one) is one
    assert without(one, other) is one


def test_equal_hashes_are_no_proof():
    bits = np.sign(drawn(20)) / np.float32(np.sqrt(DIMS))
    one, other = named(bits), named(bits, "r{}")
    assert SameImages.find(one, other).total == 0
    assert SameImages.find(one, one).total == 20, "the same ids"
    assert distinct(named(np.concatenate([bits, bits]))).ids == [f"q{i}" for i in range(40)]


def test_sets_without_repeated_images():
    vectors = drawn(20)
    repeated = named(np.concatenate([vectors[:5], vectors[:3], vectors[5:]]))
    kept = distinct(repeated)
    assert kept.ids == [f"q{i}" for i in (0, 1, 2, 3, 4, *range(8, 23))]
    np.testing.assert_array_equal(kept.vectors, vectors)
    assert distinct(kept) is kept
    assert without(named(vectors), named(vectors[[2, 4]], "r{}")).ids == [f"q{i}" for i in range(20) if i not in (2, 4)]


def test_few_and_no_images():
    one, none = named(drawn(1)), named(np.empty((0, DIMS), np.float32))
    for first in (one, none):
        for second in (one, none):
            assert SameImages.find(first, second).total == 0
        assert distinct(first) is first


@settings(max_examples=60)
@given(st.integers(1, 12), st.integers(1, 25), st.integers(1, 60), st.integers(0, 99), st.integers(1, 20))
def test_searches_leave_them_out_exactly(queries, references, k, seed, most):
    rng = np.random.default_rng(seed)
    images = drawn(12, seed)
    q, r = named(images[rng.integers(0, 12, queries)]), named(images[rng.integers(0, 12, references)], "r{}")
    kept = np.unique(rng.integers(0, queries * references, rng.integers(0, 5)))
    same = SameImages.find(q, r, kept)
    counts = ~same.holds(np.arange(queries)[:, None], np.arange(references)[None])
    scores = np.where(counts, q.vectors @ r.vectors.T, -np.inf)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST", most)  # a few queries at once
        found, at = knn_of_others(q.vectors, r.vectors, k, "inner_product", same)
        known = (found, at) if seed % 2 else None
        query, reference, best = capped_search(q.vectors, r.vectors, k, "inner_product", known=known, same=same)
    np.testing.assert_allclose(found, -np.sort(-scores, 1)[:, : found.shape[1]], atol=1e-6)
    assert ((at >= 0) == np.isfinite(found)).all()
    rows = np.repeat(np.arange(queries), found.shape[1])[at.ravel() >= 0]
    np.testing.assert_allclose(scores[rows, at[at >= 0]], found[at >= 0], atol=1e-6)
    assert len(best) == min(k, counts.sum())
    np.testing.assert_allclose(best, -np.sort(-scores.ravel())[: len(best)], atol=1e-6)
    assert counts[query, reference].all()
    assert len(set(zip(query, reference, strict=True))) == len(best)


def test_a_search_without_them_is_the_plain_one(monkeypatch):
    q, r = named(drawn(5)), named(drawn(9, 1), "r{}")
    same = SameImages.find(q, r)
    for one, other in zip(
        knn_of_others(q.vectors, r.vectors, 4, "l2", same), knn(q.vectors, r.vectors, 4, "l2"), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_blocks_do_not_matter(monkeypatch):
    vectors = drawn(50)
    references = named(np.concatenate([vectors[10:30], drawn(7, 2)]), "r{}")
    expected = pairs(SameImages.find(named(vectors), references))
    monkeypatch.setattr(same_images, "_BLOCK", 3)
    assert pairs(SameImages.find(named(vectors), references)) == expected
    assert len(expected) == 20
