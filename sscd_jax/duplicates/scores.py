"""Scores of pairs of images: their similarity, less what is similar to either of them anyway.

A product of two matrices rounds an inner product in one of several ways, which depend on the processor and on the place
of the pair in the matrices. So matrices only find candidates, within `MARGIN`, and what is compared with a threshold is
computed again for each candidate, in float64. No two parts of the package then disagree about a pair.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sscd_jax.mapped_vectors import Vectors

BLOCK = 2048  # images that are compared with as many others at once
MARGIN = 1e-4  # well over the rounding of a product of float32 matrices of norm 1, which is below 1e-6
_EXACT = 1 << 14  # pairs that are computed in float64 at once


@dataclass(frozen=True)
class Scores:
    """The scores of all pairs of images: similarity - (background of one + background of the other) / 2.

    Attributes:
        vectors: float32 [N, D], descriptors of norm 1.
        background: float64 [N]; zeros make the score the similarity.
    """

    vectors: Vectors
    background: np.ndarray

    @classmethod
    def plain(cls, vectors: Vectors) -> "Scores":
        """Returns scores that are similarities."""
        return cls(vectors, np.zeros(len(vectors)))

    def __len__(self) -> int:
        return len(self.vectors)

    def similarities(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Returns the inner product of each pair, float64 [P], given the rows of its images, int64 [P]."""
        found = np.empty(len(one))
        for start in range(0, len(one), _EXACT):
            here = slice(start, start + _EXACT)
            left, right = (self.vectors[rows[here]].astype(np.float64) for rows in (one, other))
            found[here] = np.einsum("pd,pd->p", left, right)
        return found

    def scores(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Returns the score of each pair, float64 [P], given the rows of its images, int64 [P]."""
        return self.similarities(one, other) - self.offsets(one, other)

    def offsets(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Returns what the score of each pair is less than its similarity, float64 [P]."""
        return (self.background[one] + self.background[other]) / 2

    def approximate(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Returns the scores of some images with others, float32 [A, B], to within `MARGIN`.

        Args:
            one: int64 [A], rows.
            other: int64 [B], rows.
        """
        # Two more dimensions subtract the background in the product itself, which takes less time than doing it after.
        half, ones = (-self.background / 2).astype(np.float32), np.ones((1, 1), np.float32)
        left = np.concatenate([self.vectors[one], half[one, None], ones.repeat(len(one), 0)], 1)
        right = np.concatenate([self.vectors[other], ones.repeat(len(other), 0), half[other, None]], 1)
        return left @ right.T


def where(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rows and the columns where a mask, bool [A, B], holds: `np.nonzero`, and many times faster."""
    row, column = np.divmod(np.flatnonzero(mask), mask.shape[1])
    return row, column


def all_pairs(
    scores: Scores,
    threshold: float | np.ndarray,
    rows: np.ndarray,
    others: np.ndarray | None = None,
    *,
    most: int = 1 << 22,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Finds all pairs at or above a threshold, exactly.

    Args:
        scores: the scores of N images.
        threshold: the least score of a pair; or one for each of `rows`, float64 [A].
        rows: int64 [A], the images of which pairs are found.
        others: int64 [B], the images that they are compared with; by default `rows`, where each pair comes once.
        most: the number of pairs that are in memory at once, unless a single image has more.

    Yields:
        For some pairs: rows int64 [P], others int64 [P], similarities float64 [P] and scores float64 [P]. The pairs are
        in the order of the first image, then of the second.
    """
    within = others is None
    least = np.broadcast_to(np.asarray(threshold, np.float64), len(rows))
    others = rows if others is None else others
    waiting = [(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)][::-1]
    waiting = waiting if len(others) else []
    while waiting:
        first, last = waiting.pop()
        found: list[tuple[np.ndarray, np.ndarray]] = []
        count = 0
        for start in range(first if within else 0, len(others), BLOCK):
            block = others[start : start + BLOCK]
            limit = (least[first:last, None] - MARGIN).astype(np.float32)
            one, other = where(scores.approximate(rows[first:last], block) >= limit)
            after = one + first < other + start if within else slice(None)
            found.append((one[after] + first, other[after] + start))
            count += len(found[-1][0])
            if count > most and last - first > 1:  # too many for the memory: half of the images at a time
                middle = (first + last) // 2
                waiting += [(middle, last), (first, middle)]
                break
        else:
            one, other = (np.concatenate(part) for part in zip(*found, strict=True))
            order = np.argsort(one, kind="stable")
            lowest = least[one[order]]
            one, other = rows[one[order]], others[other[order]]
            similarity = scores.similarities(one, other)
            score = similarity - scores.offsets(one, other)
            is_pair = score >= lowest
            yield one[is_pair], other[is_pair], similarity[is_pair], score[is_pair]


def best_pairs(scores: Scores, count: int, rows: np.ndarray, others: np.ndarray) -> Iterator[tuple[np.ndarray, ...]]:
    """Finds the best pairs of each image with some others, exactly.

    Args:
        scores: the scores of N images.
        count: the number of pairs of each image, at least 1. If it is larger than B, each image has B pairs.
        rows: int64 [A], the images of which pairs are found.
        others: int64 [B], the images that they are compared with.

    Yields:
        For some of `rows` what `all_pairs` yields. The pairs of an image are together, the best first; of equal ones,
        the one that comes first in `others`.
    """
    place = np.full(len(scores), -1)
    place[others] = np.arange(len(others))
    least = np.full(len(rows), -np.inf)
    if count < len(others):
        for start in range(0, len(rows), BLOCK):
            some = rows[start : start + BLOCK]
            best = np.empty((len(some), 0), np.float32)
            for first in range(0, len(others), BLOCK):
                found = np.concatenate([best, scores.approximate(some, others[first : first + BLOCK])], 1)
                best = np.partition(found, -count, axis=1)[:, -count:] if found.shape[1] > count else found
            least[start : start + BLOCK] = best.min(1)
    # What is among the best is at most MARGIN worse than the last of those that seem to be.
    for start in range(0, len(rows), BLOCK):
        here = slice(start, start + BLOCK)
        for one, other, similarity, score in all_pairs(scores, least[here] - MARGIN, rows[here], others):
            yield ranked((one, other, similarity, score), place, count)


def ranked(
    pairs: tuple[np.ndarray, ...], place: np.ndarray | None = None, count: int | None = None
) -> tuple[np.ndarray, ...]:
    """Sorts the pairs of each image, the best first.

    Args:
        pairs: what `all_pairs` yields.
        place: int64 [N], by which equal scores are sorted; by default, the row of the second image.
        count: the largest number of pairs of an image that are returned; by default, all are.
    """
    one, other, _, score = pairs
    group = np.cumsum(np.diff(one, prepend=one[:1]) != 0)
    order = np.lexsort((other if place is None else place[other], -score, group))
    starts = np.searchsorted(group, group)  # of the image of each pair, whose pairs are together before and after
    if count is not None:
        order = order[np.arange(len(order)) - starts < count]
    return tuple(part[order] for part in pairs)
