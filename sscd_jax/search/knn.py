"""Exact nearest neighbours, faiss codecs and indexes; the only file that imports faiss."""

import os
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from tqdm import tqdm

Metric = Literal["l2", "inner_product"]
Backend = Literal["faiss", "jax"]
BLOCK = 4096  # queries at once, as faiss takes them itself
SPARE = 4  # times as many neighbours as are wanted of a query on average, where some may have more
_FAISS_METRIC = {"l2": faiss.METRIC_L2, "inner_product": faiss.METRIC_INNER_PRODUCT}


def knn(
    queries: np.ndarray, references: np.ndarray, k: int, metric: Metric, *, backend: Backend | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best references of each query.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        k: how many; at most R are given.
        metric: inner product, or minus the squared L2 distance, so that more is better.
        backend: faiss, for CPUs, or jax, for accelerators (`search_jax`); by default what JAX finds decides.

    Returns:
        (scores float32 [Q, k], indexes int64 [Q, k]), best first.
    """
    k = min(k, len(references))
    if (backend or default_backend()) == "jax":
        from sscd_jax.search import jax_backend

        return jax_backend.knn(queries, references, k, metric)
    references = _contiguous(references)
    scores, indexes = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    for start in tqdm(
        range(0, len(queries), BLOCK), desc="search", unit="block", dynamic_ncols=True, leave=False, delay=1
    ):
        block = _contiguous(queries[start : start + BLOCK])
        here = slice(start, start + len(block))
        scores[here], indexes[here] = faiss.knn(block, references, k, metric=_FAISS_METRIC[metric])
    return (-scores if metric == "l2" else scores), indexes


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


def default_backend() -> Backend:
    """What serves this machine's devices."""
    import jax

    return "faiss" if jax.default_backend() == "cpu" else "jax"


def capped_search(
    queries: np.ndarray,
    references: np.ndarray,
    count: int,
    metric: Metric,
    *,
    known: tuple[np.ndarray, np.ndarray] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best `count` pairs over all queries together (official isc/descriptor_matching.py search_with_capped_res).

    Exact, in memory of the order of `count`: a query whose last neighbour is worse than `count` pairs are has no more
    to give; those that may have more are searched again, for four times as many neighbours.

    Args:
        queries, references, metric: as for `knn`.
        count: how many pairs.
        known: what `knn` gave for these, if it was asked already; with more than count / Q neighbours, few searches
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


def project(codec: str, training: np.ndarray | None, *others: np.ndarray) -> list[np.ndarray]:
    """Vectors as a faiss codec encodes them: the training vectors, where given, then the others.

    Args:
        codec: faiss factory string that ends in Flat, as "PCAW512,L2norm,Flat"; "Flat" changes nothing.
        training: float32 [T, D], on which the codec is fitted.
        others: float32 [N, D] each.

    Raises:
        ValueError: the codec is not such a string, cannot be fitted on these vectors, or gives non-finite numbers.
    """
    given = [] if training is None else [training]
    if codec == "Flat":
        return [*given, *others]
    if not codec.endswith(",Flat"):
        raise ValueError(f"codec {codec}: it must end in Flat, as PCAW512,L2norm,Flat")
    if training is None:
        raise ValueError(f"codec {codec} must be fitted: give training descriptors, or use the codec Flat")
    try:
        index = faiss.index_factory(training.shape[1], codec)
    except RuntimeError as error:
        raise ValueError(f"codec {codec}: faiss knows no such factory string; one is PCAW512,L2norm,Flat") from error
    encoder = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if not isinstance(encoder, faiss.IndexFlat):
        raise ValueError(f"codec {codec}: only transforms before Flat give vectors, as PCAW512,L2norm,Flat")
    try:
        index.train(_contiguous(training))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"codec {codec} cannot be fitted on {len(training)} vectors of {training.shape[1]} dimensions: {reason}; "
            "give more training descriptors, or a codec of fewer dimensions"
        ) from error
    encoded = [index.sa_encode(_contiguous(v)).view(np.float32) for v in [*given, *others]]
    if not all(np.isfinite(v).all() for v in encoded):
        raise ValueError(
            f"codec {codec} gives numbers that are not finite: its {len(training)} training vectors span fewer "
            "dimensions than it asks for; give more of them, or a codec of fewer dimensions"
        )
    return encoded


def write_index(path: str | os.PathLike[str], vectors: np.ndarray, factory: str = "Flat") -> None:
    """Writes a faiss index of the vectors, by inner product; its labels are the rows. Renamed into place when whole."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(_contiguous(vectors))
    index.add(_contiguous(vectors))
    unfinished = Path(path).with_name(f"{Path(path).name}.unfinished")
    faiss.write_index(index, str(unfinished))
    unfinished.replace(path)


def _contiguous(vectors: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(vectors, np.float32)
