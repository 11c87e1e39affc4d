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
    scores: Scores, threshold: float, rows: np.ndarray, others: np.ndarray | None = None, *, most: int = 1 << 22
) -> Iterator[tuple[np.ndarray, ...]]:
    """Finds all pairs at or above a threshold, exactly.

    Args:
        scores: the scores of N images.
        threshold: the least score of a pair.
        rows: int64 [A], the images of which pairs are found.
        others: int64 [B], the images that they are compared with; by default `rows`, where each pair comes once.
        most: the number of pairs that are in memory at once, unless a single image has more.

    Yields:
        For some pairs: rows int64 [P], others int64 [P], similarities float64 [P] and scores float64 [P]. The pairs are
        in the order of the first image, then of the second.
    """
    within = others is None
    others = rows if others is None else others
    waiting = [(start, min(start + BLOCK, len(rows))) for start in range(0, len(rows), BLOCK)][::-1]
    while waiting:
        first, last = waiting.pop()
        found: list[tuple[np.ndarray, np.ndarray]] = []
        count = 0
        for start in range(first if within else 0, len(others), BLOCK):
            block = others[start : start + BLOCK]
            one, other = where(scores.approximate(rows[first:last], block) >= threshold - MARGIN)
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
            one, other = rows[one[order]], others[other[order]]
            similarity = scores.similarities(one, other)
            score = similarity - scores.offsets(one, other)
            is_pair = score >= threshold
            yield one[is_pair], other[is_pair], similarity[is_pair], score[is_pair]
