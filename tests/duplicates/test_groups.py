"""Groups, compared with naive implementations that follow their definitions word by word."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.duplicates import groups as module
from sscd_jax.duplicates.groups import components, leaders
from sscd_jax.duplicates.scores import Scores


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@st.composite
def collections(draw) -> tuple[Scores, np.ndarray, float]:
    """Images around a few centers, some of them equal; an order of preference; a threshold."""
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    count, centers = draw(st.integers(0, 40)), rng.normal(size=(4, 5))
    vectors = unit(centers[rng.integers(0, 4, count)] + rng.normal(size=(count, 5)) * draw(st.floats(0.01, 1)))
    if count > 3:
        vectors[rng.integers(0, count, 3)] = vectors[0]
    background = rng.uniform(0, 0.3, count) if draw(st.booleans()) else np.zeros(count)
    order = rng.permutation(count)[: count - int(draw(st.booleans()) and count > 2)]  # one may be left out
    return Scores(vectors, background), order, draw(st.floats(0.2, 0.99))


def pairwise(scores: Scores) -> np.ndarray:
    rows = np.arange(len(scores))
    one, other = (part.ravel() for part in np.meshgrid(rows, rows, indexing="ij"))
    return scores.scores(one, other).reshape(len(rows), len(rows))


@settings(max_examples=60)
@given(collections(), st.sampled_from([1, 3, 8, 2048]))
def test_leaders(given_, size):
    scores, order, threshold = given_
    score = pairwise(scores)
    before, module.BLOCK = module.BLOCK, size
    try:
        found = leaders(scores, threshold, order)
    finally:
        module.BLOCK = before
    kept: list[int] = []
    expected = np.arange(len(scores))
    for row in order.tolist():
        best = max(kept, key=lambda other: score[row, other], default=None)  # of equal ones the first
        if best is not None and score[row, best] >= threshold:
            expected[row] = best
        else:
            kept.append(row)
    assert found.kept.tolist() == expected.tolist()
    for row in order.tolist():  # what the docstring promises
        if row in kept:
            assert found.is_kept[row]
            assert (found.similarity[row], found.score[row]) == (1, np.inf)
            assert all(score[row, other] < threshold for other in kept if other != row)
        else:
            assert found.score[row] == score[row, found.kept[row]] >= threshold


@settings(max_examples=60)
@given(collections(), st.integers(1, 12), st.sampled_from([1, 7, 10**6]))
def test_components(given_, max_group, waiting):
    networkx = pytest.importorskip("networkx")
    scores, order, threshold = given_
    score = pairwise(scores)
    before, module._PAIRS = module._PAIRS, waiting
    try:
        found = components(scores, threshold, order, max_group=max_group)
    finally:
        module._PAIRS = before

    def split(rows: list[int], least: float) -> list[set[int]]:
        """Connected components, by networkx; those that are too large, at the next higher score inside."""
        graph = networkx.Graph()
        graph.add_nodes_from(rows)
        graph.add_edges_from((a, b) for a in rows for b in rows if a < b and score[a, b] >= least)
        parts: list[set[int]] = []
        for part in networkx.connected_components(graph):
            if len(part) <= max_group:
                parts.append(part)
            else:
                inside = sorted(score[a, b] for a in part for b in part if a < b and score[a, b] >= least)
                parts += split(sorted(part), np.nextafter(inside[0], np.inf))
        return parts

    expected = split(sorted(order.tolist()), threshold)
    groups: dict[int, set[int]] = {}
    for row in order.tolist():
        groups.setdefault(int(found.kept[row]), set()).add(row)
    if len(np.unique(score[np.triu_indices(len(score), 1)])) == len(score) * (len(score) - 1) // 2:  # no ties
        assert sorted(map(sorted, groups.values())) == sorted(map(sorted, expected))
    assert max(map(len, groups.values()), default=0) <= max_group
    rank = {row: i for i, row in enumerate(order.tolist())}
    for kept, members in groups.items():
        assert kept == min(members, key=rank.__getitem__)
        for row in members - {kept}:
            assert found.score[row] == pytest.approx(score[row, kept])


def test_groups_of_leaders_do_not_chain():
    """A turns into B and B into C, step by step; only neighbors look alike."""
    angles = np.arange(40) * 0.3
    scores = Scores.plain(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)[:10])
    found = leaders(scores, np.cos(0.31), np.arange(10))
    assert found.kept.tolist() == [0, 0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert components(scores, np.cos(0.31), np.arange(10), max_group=100).kept.tolist() == [0] * 10
