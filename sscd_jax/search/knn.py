"""Exact nearest neighbors, by faiss on CPUs and by JAX on accelerators; both are imported when a search begins."""

from typing import Literal

import numpy as np
from tqdm import tqdm

from sscd_jax.mapped_vectors import Vectors
from sscd_jax.search.same_images import SameImages

Metric = Literal["l2", "inner_product"]
Backend = Literal["faiss", "jax"]
BLOCK = 4096  # queries that are searched at once; faiss itself uses the same number
MOST = 2**24  # neighbors that are in memory at once where many of them do not count
SPARE = 4  # each query gets this many times the average number of pairs first, as some queries have more


def knn(
    queries: Vectors, references: Vectors, k: int, metric: Metric, *, backend: Backend | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k best references of each query.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        k: the number of references for each query. If it is larger than R, all R are returned.
        metric: inner_product; or l2, for which the score is minus the squared distance, so that higher is better.
        backend: faiss, for CPUs, or jax, for accelerators. By default jax if JAX finds an accelerator, else faiss.

    Returns:
        Scores float32 [Q, k] and indexes of references int64 [Q, k], best first.

    Examples:
        >>> references = np.eye(3, dtype=np.float32)
        >>> scores, indexes = knn(references[:1], references, 1, "inner_product")
        >>> scores, indexes
        (array([[1.]], dtype=float32), array([[0]]))
    """
    k = min(k, len(references))
    if backend != "faiss":
        from sscd_jax.search import jax_backend

        if (backend or jax_backend.default_backend()) == "jax":
            return jax_backend.knn(queries, references, k, metric)
    from sscd_jax.search import faiss_backend

    references = faiss_backend.contiguous(references)
    scores, indexes = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in tqdm(
        range(0, len(queries), BLOCK), desc="search", unit="block", dynamic_ncols=True, leave=False, delay=1
    ):
        block = queries[start : start + BLOCK]
        here = slice(start, start + len(block))
        scores[here], indexes[here] = faiss_backend.knn(block, references, k, metric)
    return scores, indexes


def knn_of_others(
    queries: np.ndarray, references: np.ndarray, k: int, metric: Metric, same: SameImages
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k best references of each query that are not the same image, as `knn` does.

    A query that has fewer such references ends in the score -inf and the index -1.
    """
    k = min(k, len(references))
    if not same.total:
        return knn(queries, references, k, metric)
    scores, indexes = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
    # Powers of two, so that few different numbers of neighbors are searched for.
    more = np.where(same.counts > 0, 1 << np.ceil(np.log2(np.maximum(same.counts, 1))).astype(np.int64), 0)
    for extra in np.unique(more).tolist():
        rows = np.flatnonzero(more == extra)
        if not extra:
            scores[rows], indexes[rows] = knn(queries[rows], references, k, metric)
            continue
        block = max(1, MOST // min(k + extra, len(references)))
        for start in range(0, len(rows), block):
            some = rows[start : start + block]
            found, at = knn(queries[some], references, k + extra, metric)
            is_other = ~same.holds(some[:, None], at)
            rank = np.cumsum(is_other, 1) - 1
            row, column = np.nonzero(is_other & (rank < k))
            place = some[row], rank[row, column]
            scores[place], indexes[place] = found[row, column], at[row, column]
    return scores, indexes


def similarities(
    queries: Vectors, references: Vectors, query: np.ndarray, reference: np.ndarray, metric: Metric
) -> np.ndarray:
    """Returns the scores of given pairs, as `knn` computes them.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        query: int64 [P], the row of each pair's query.
        reference: int64 [P], the row of each pair's reference.
        metric: as for `knn`.

    Returns:
        float32 [P].
    """
    scores = np.empty(len(query), np.float32)
    for start in range(0, len(query), BLOCK):
        here = slice(start, start + BLOCK)
        some, others = queries[query[here]], references[reference[here]]
        if metric == "l2":
            scores[here] = -np.square(some - others).sum(1)
        else:
            scores[here] = np.einsum("nd,nd->n", some, others)
    return scores


def is_unit(vectors: Vectors) -> bool:
    """Returns whether all vectors, float32 [N, D], have norm 1 within 0.001."""
    blocks = range(0, len(vectors), BLOCK)
    norms = (np.linalg.norm(vectors[start : start + BLOCK], axis=1) for start in blocks)
    return all(np.allclose(some, 1, atol=1e-3) for some in norms)


def capped_search(
    queries: np.ndarray,
    references: np.ndarray,
    count: int,
    metric: Metric,
    *,
    known: tuple[np.ndarray, np.ndarray] | None = None,
    same: SameImages | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the best pairs of all queries together (official isc/descriptor_matching.py `search_with_capped_res`).

    The result is exact, and the memory is of the order of `count`: a query whose last neighbor is worse than `count`
    known pairs has no further pair among the best. The other queries are searched again for four times as many
    neighbors, until none is left.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        count: the number of pairs.
        metric: as for `knn`.
        known: what `knn` or, with `same`, `knn_of_others` returned for these arguments, if it was called before. With
            more than count / Q neighbors for each query, few further searches are needed.
        same: pairs that do not count.

    Returns:
        Queries int64 [n], references int64 [n] and scores float32 [n] of the pairs, best first; n is `count`, or the
        number of pairs that count if that is less.

    Examples:
        >>> one = np.eye(2, dtype=np.float32)
        >>> capped_search(one, one, 2, "inner_product")[2]
        array([1., 1.], dtype=float32)
    """

    def search(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        if same is None:
            return knn(queries[rows], references, k, metric)
        return knn_of_others(queries[rows], references, k, metric, same.of(rows))

    count = min(count, len(queries) * len(references) - (same.total if same else 0))
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    rows = np.arange(len(queries))
    if known is None or known[0].size < count:
        known = search(rows, SPARE * -(-count // len(queries)))
    # Pairs of queries that have no further pair among the best.
    found: list[np.ndarray] = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)]
    while True:
        scores, indexes = known
        k = scores.shape[1]
        worst = -np.partition(-np.concatenate([found[2], scores.ravel()]), count - 1)[count - 1]
        more = scores[:, -1] > worst if k < len(references) else np.zeros(len(rows), bool)
        done: list[np.ndarray] = [np.repeat(rows[~more], k), indexes[~more].ravel(), scores[~more].ravel()]
        kept = done[2] >= worst
        found = [np.concatenate([old, new[kept]]) for old, new in zip(found, done, strict=True)]
        rows = rows[more]
        if not len(rows):
            break
        known = search(rows, SPARE * k)
    query, reference, score = found
    best = np.argsort(-score, kind="stable")[:count]
    return query[best], reference[best], score[best]
