"""The copies between two sets, compared with a loop over all pairs."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.duplicates import scores
from sscd_jax.duplicates.crossing import BYTES, NEAR, PIXELS, Best, crossing_pairs, noted
from sscd_jax.duplicates.find import Collection
from sscd_jax.duplicates.identical import numbered
from sscd_jax.duplicates.scores import Scores


def random_collection(count: int, dims: int, seed: int) -> Collection:
    """Images of a few pixels each, some of which are in several files, some with the same bytes; some are broken."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, max(count // 2, 1), count)
    content = numbered([*zip(pixels.tolist(), rng.integers(0, 2, count).tolist(), strict=True)])
    broken = np.isin(pixels, rng.integers(0, count + 1, count // 5))
    content = np.where(broken, numbered([*zip(pixels.tolist(), strict=True)]), content)
    drawn, levels = rng.normal(size=(count + 1, dims)) + 1e-9, rng.uniform(-0.2, 0.4, count + 1)
    vectors, background, row = [], [], np.full(count, -1)
    rows: dict[int, int] = {}
    for image in np.flatnonzero(~broken).tolist():
        if (one := int(content[image])) not in rows:
            rows[one] = len(vectors)
            vectors.append(drawn[pixels[image]] / np.linalg.norm(drawn[pixels[image]]))
            background.append(levels[pixels[image]])
        row[image] = rows[one]
    found = np.array(vectors, np.float32).reshape(-1, dims)
    known = Scores(found, np.array(background))
    return Collection(known, row, content, numbered(pixels.tolist()), np.arange(count))


def listed(pairs: Iterator[tuple[np.ndarray, ...]]) -> list[tuple[int, int, float, float, int]]:
    return [pair for block in pairs for pair in zip(*(part.tolist() for part in block), strict=True)]


@settings(max_examples=80)
@given(
    count=st.integers(0, 25), share=st.floats(0, 1), dims=st.integers(2, 4), seed=st.integers(0, 10**6),
    threshold=st.floats(-1, 1), size=st.sampled_from([1, 3, 64]),
)  # fmt: skip
def test_pairs_and_best_copies(count, share, dims, seed, threshold, size):
    images, split = random_collection(count, dims, seed), int(share * count)
    before, scores.BLOCK = scores.BLOCK, size
    try:
        one, other = Best.of_none(split), Best.of_none(count - split)
        found = listed(noted(crossing_pairs(images, split, threshold), images, one, other))
    finally:
        scores.BLOCK = before
    pairs = {(a, b + split): kind for a, b, _, _, kind in found}
    assert len(pairs) == len(found)
    vectors = np.asarray(images.scores.vectors, np.float64)

    def score(a: int, b: int) -> float:
        rows = images.row[[a, b]]
        if (rows < 0).any():
            return np.nan
        return float(vectors[rows[0]] @ vectors[rows[1]] - images.scores.background[rows].mean())

    for (a, b), kind in pairs.items():
        if kind == BYTES:
            assert images.content[a] == images.content[b]
        elif kind == PIXELS:
            assert images.content[a] != images.content[b]
            assert images.pixels[a] == images.pixels[b]
        else:
            assert kind == NEAR
            assert images.pixels[a] != images.pixels[b]
            assert score(a, b) >= threshold - 1e-6
    for _, _, similarity, value, kind in found:
        assert kind == NEAR or similarity == 1
        assert kind != NEAR or not np.isnan(value)
    for mine, others, best in ((range(split), range(split, count), one), (range(split, count), range(split), other)):
        for image in mine:
            ranks = [
                3.0 if images.content[image] == images.content[two] else
                2.5 if images.pixels[image] == images.pixels[two] else
                np.nan_to_num(score(image, two), nan=-9)
                for two in others
            ]  # fmt: skip
            at = image - mine.start
            highest = max(ranks, default=-9)
            assert best.has_copy[at] == (highest >= threshold if abs(highest - threshold) > 1e-6 else best.has_copy[at])
            if best.has_copy[at]:
                match = int(best.match[at]) + others.start
                assert best.kind[at] == {3.0: BYTES, 2.5: PIXELS}.get(highest, NEAR)
                if highest == 3:
                    assert images.content[image] == images.content[match]
                elif highest == 2.5:
                    assert images.pixels[image] == images.pixels[match]
                else:
                    assert best.score[at] == pytest.approx(highest, abs=1e-6)


def test_a_thousand_equal_files_are_not_a_million_pairs():
    count = 1000
    same = np.zeros(2 * count, np.int64)
    images = Collection(Scores.plain(np.ones((1, 1), np.float32)), same, same, same, np.arange(2 * count))
    one, other = Best.of_none(count), Best.of_none(count)
    found = listed(noted(crossing_pairs(images, count, 0.5), images, one, other))
    assert len(found) == 2 * count - 1
    assert one.has_copy.all()
    assert other.has_copy.all()


def test_of_near_copies_the_best_counts_and_spreads_to_equal_pixels():
    vectors = np.array([[1, 0], [0.8, 0.6], [0.96, 0.28]], np.float32)
    row = np.array([0, 0, 1, 2])  # two equal files, and two images of the other set
    images = Collection(Scores.plain(vectors), row, np.array([0, 0, 2, 3]), np.array([0, 0, 2, 3]), np.arange(4))
    one, other = Best.of_none(2), Best.of_none(2)
    found = listed(noted(crossing_pairs(images, 2, 0.5), images, one, other))
    assert [(a, b, round(score, 2)) for a, b, _, score, _ in found] == [(0, 0, 0.8), (0, 1, 0.96)]
    assert one.match.tolist() == [1, 1]
    assert one.score.round(2).tolist() == [0.96, 0.96]
    assert other.match.tolist() == [0, 0]
