"""Exact nearest neighbors, by faiss on CPUs and by JAX on accelerators."""

from typing import Literal

import numpy as np
from tqdm import tqdm

Metric = Literal["l2", "inner_product"]
Backend = Literal["faiss", "jax"]
BLOCK = 4096  # queries at once, as faiss takes them itself
SPARE = 4  # times as many neighbors as are wanted of a query on average, where some may have more


def knn(
    queries: np.ndarray, references: np.ndarray, k: int, metric: Metric, *, backend: Backend | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best references of each query.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        k: how many; at most R are given.
        metric: inner product, or minus the squared L2 distance, so that more is better.
        backend: faiss, for CPUs, or jax, for accelerators (`jax_backend`); by default what JAX finds decides.

    Returns:
        (scores float32 [Q, k], indexes int64 [Q, k]), best first.
    """
    k = min(k, len(references))
    from sscd_jax.search import faiss_backend, jax_backend  # each loads its library

    if (backend or jax_backend.default_backend()) == "jax":
        return jax_backend.knn(queries, references, k, metric)
    references = faiss_backend.contiguous(references)
    scores, indexes = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in tqdm(
        range(0, len(queries), BLOCK), desc="search", unit="block", dynamic_ncols=True, leave=False, delay=1
    ):
        block = queries[start : start + BLOCK]
        here = slice(start, start + len(block))
        scores[here], indexes[here] = faiss_backend.knn(block, references, k, metric)
    return scores, indexes


def similarities(
    queries: np.ndarray, references: np.ndarray, query: np.ndarray, reference: np.ndarray, metric: Metric
) -> np.ndarray:
    """Scores of given pairs, as those of `knn`: float32 [P] of rows int64 [P] of the two."""
    scores = np.empty(len(query), np.float32)
    for start in range(0, len(query), BLOCK):
        here = slice(start, start + BLOCK)
        some, others = queries[query[here]], references[reference[here]]
        if metric == "l2":
            scores[here] = -np.square(some - others).sum(1)
        else:
            scores[here] = np.einsum("nd,nd->n", some, others)
    return scores


def is_unit(vectors: np.ndarray) -> bool:
    """Whether all have norm 1, float32 [N, D]."""
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
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best `count` pairs over all queries together (official isc/descriptor_matching.py search_with_capped_res).

    Exact, in memory of the order of `count`: a query whose last neighbor is worse than `count` pairs are has no more
    to give; those that may have more are searched again, for four times as many neighbors.

    Args:
        queries, references, metric: as for `knn`.
        count: how many pairs.
        known: what `knn` gave for these, if it was asked already; with more than count / Q neighbors, few searches
            follow.

    Returns:
        (query int64 [n], reference int64 [n], score float32 [n]), best first; n = min(count, Q R).
    """
    count = min(count, len(queries) * len(references))
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    if known is None or known[0].size < count:
        known = knn(queries, references, SPARE * -(-count // len(queries)), metric)
    rows = np.arange(len(queries))
    # Of queries that have no more to give.
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
        known = knn(queries[rows], references, SPARE * k, metric)
    query, reference, score = found
    best = np.argsort(-score, kind="stable")[:count]
    return query[best], reference[best], score[best]
