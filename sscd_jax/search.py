"""Exact nearest neighbours, faiss codecs and indexes; the only file that imports faiss."""

import os
from pathlib import Path
from typing import Literal

import faiss
import numpy as np
from tqdm import tqdm

Metric = Literal["l2", "inner_product"]
Backend = Literal["faiss", "jax"]
BLOCK_ELEMENTS = 200_000_000  # similarities that a block of `capped_search` looks at; few of them are kept
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
        from sscd_jax import search_jax

        return search_jax.knn(queries, references, k, metric)
    scores, indexes = faiss.knn(_contiguous(queries), _contiguous(references), k, metric=_FAISS_METRIC[metric])
    return (-scores if metric == "l2" else scores), indexes


def default_backend() -> Backend:
    """What serves this machine's devices."""
    import jax

    return "faiss" if jax.default_backend() == "cpu" else "jax"


def capped_search(
    queries: np.ndarray, references: np.ndarray, count: int, metric: Metric
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The best `count` pairs over all queries together (official isc/descriptor_matching.py search_with_capped_res).

    Exact, in memory of the order of `count` and one block of queries. As many pairs as are asked for are known from a
    first search for neighbours: only pairs better than the worst of these are looked for in the second.

    Returns:
        (query int64 [n], reference int64 [n], score float32 [n]), best first; n = min(count, Q R).
    """
    queries, references = _contiguous(queries), _contiguous(references)
    count = min(count, len(queries) * len(references))
    if not count:
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)
    known, _ = knn(queries, references, -(-count // len(queries)), metric, backend="faiss")
    worst = _nth_best(known.ravel(), count)
    index = faiss.IndexFlat(references.shape[1], _FAISS_METRIC[metric])
    index.add(references)
    block = max(1, BLOCK_ELEMENTS // len(references))
    # The two searches need not round alike: by as much they may differ.
    slack = 1e-5 * max(float(np.einsum("nd,nd->n", some, some).max()) for some in (queries, references))
    kept: list[np.ndarray] = [np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32)]
    steps = range(0, len(queries), block)
    for start in tqdm(steps, desc="best pairs", unit="block", dynamic_ncols=True, leave=False, disable=len(steps) < 2):
        least = worst - slack
        lims, scores, found = index.range_search(queries[start : start + block], -least if metric == "l2" else least)
        rows = np.repeat(np.arange(start, start + len(lims) - 1), np.diff(lims.astype(np.int64)))
        scores = -scores if metric == "l2" else scores
        more: list[np.ndarray] = [rows, found, scores]
        kept = [np.concatenate(pair) for pair in zip(kept, more, strict=True)]
        if len(kept[2]) > 2 * count:
            worst = max(worst, _nth_best(kept[2], count))
            kept = [part[kept[2] >= worst] for part in kept]
    query, reference, score = kept
    best = np.argsort(-score, kind="stable")[:count]
    return query[best], reference[best], score[best]


def _nth_best(scores: np.ndarray, count: int) -> float:
    return float(np.partition(scores, len(scores) - count)[len(scores) - count])


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
