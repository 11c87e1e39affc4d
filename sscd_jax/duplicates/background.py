"""What is similar to an image without being a copy of it, which a score leaves out."""

import numpy as np
from tqdm import tqdm

from sscd_jax.duplicates.groups import Groups, leaders
from sscd_jax.duplicates.scores import BLOCK, Scores, where
from sscd_jax.mapped_vectors import Vectors

NEIGHBORS = 10  # whose mean similarity is the background of an image
_MANY = 0.1  # share of values that count, from which it is faster to take all
ALIKE = 0.5  # plain similarity from which images are taken for copies when the background is measured


def first_pass(vectors: Vectors, order: np.ndarray, *, alike: float = ALIKE) -> Groups:
    """Groups images at a plain similarity, so that no copies are among those that are kept.

    Args:
        vectors: float32 [N, D] of norm 1.
        order: int64 [M], the rows of the images, in order of preference.
        alike: the similarity.
    """
    return leaders(Scores.plain(vectors), alike, order, progress="first pass")


def of_collection(vectors: Vectors, order: np.ndarray, grouped: Groups) -> np.ndarray:
    """Returns the background of each image of a collection, from the collection itself.

    It is the mean similarity to the 10 nearest images that are no copies of it. Other copies of the image would hide
    that it stands out: only images that the first pass kept count, and those at or above its threshold do not.
    `scripts/benchmarks/background.py` compares this with other forms.

    Args:
        vectors: float32 [N, D] of norm 1.
        order: int64 [M], the rows that belong to the collection.
        grouped: what `first_pass` returned for them.

    Returns:
        float64 [N].
    """
    return of_others(vectors, vectors, np.sort(order[grouped.is_kept[order]]))


def of_others(
    vectors: Vectors,
    others: Vectors,
    rows: np.ndarray | None = None,
    *,
    alike: float = ALIKE,
    neighbors: int = NEIGHBORS,
) -> np.ndarray:
    """Returns the mean similarity of each image to the nearest of some others, leaving out copies.

    Args:
        vectors: float32 [N, D] of norm 1.
        others: float32 [M, D] of norm 1.
        rows: int64 [K], the rows of `others` that count; by default, all do.
        alike: the similarity from which images are left out as copies.
        neighbors: the number of images over which the mean is taken.

    Returns:
        float64 [N]: the mean over the nearest that are below `alike`, or over fewer where there are fewer, and 0 where
        there is none.
    """
    rows = np.arange(len(others)) if rows is None else rows
    found = np.zeros(len(vectors))
    blocks = range(0, len(vectors), BLOCK)
    for start in tqdm(blocks, desc="background", unit="block", dynamic_ncols=True, leave=False, delay=1, disable=None):
        some = vectors[start : start + BLOCK]
        best = np.full((len(some), neighbors), -np.inf, np.float32)
        for first in range(0, len(rows), BLOCK):
            similarity = some @ others[rows[first : first + BLOCK]].T
            _keep_best(best, similarity, (similarity > best[:, :1]) & (similarity < alike))
        counts = np.isfinite(best).sum(1)
        total = np.where(np.isfinite(best), best, 0).sum(1, dtype=np.float64)
        found[start : start + BLOCK] = total / np.maximum(counts, 1)
    return found


def _keep_best(best: np.ndarray, similarity: np.ndarray, counts: np.ndarray) -> None:
    """Brings the best values of each row up to date.

    Args:
        best: float32 [A, K], of which the first column has the lowest value; it is changed.
        similarity: float32 [A, B], more values.
        counts: bool [A, B], which of them are better than the lowest; the others do not matter.
    """
    if counts.mean() > _MANY:
        more = np.where(counts, similarity, -np.inf)
    else:
        row, column = where(counts)
        number = np.bincount(row, minlength=len(best))
        place = np.arange(len(row)) - np.repeat(np.cumsum(number) - number, number)  # among those of its row
        more = np.full((len(best), int(number.max(initial=0))), -np.inf, np.float32)
        more[row, place] = similarity[row, column]
    kth = -best.shape[1]
    best[:] = np.partition(np.concatenate([best, more], 1), kth, 1)[:, kth:]
