"""Codecs and indexes of faiss; the only file that imports it, when a search begins."""

import os
from pathlib import Path

import numpy as np


def knn(queries: np.ndarray, references: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """As `search.knn.knn` by faiss, of a block of queries and contiguous references, k at most R."""
    import faiss

    l2 = metric == "l2"
    scores, indexes = faiss.knn(
        contiguous(queries), references, k, metric=faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT
    )
    return (-scores if l2 else scores), indexes


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
    import faiss

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
        index.train(contiguous(training))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(
            f"codec {codec} cannot be fitted on {len(training)} vectors of {training.shape[1]} dimensions: {reason}; "
            "give more training descriptors, or a codec of fewer dimensions"
        ) from error
    encoded = [index.sa_encode(contiguous(v)).view(np.float32) for v in [*given, *others]]
    if not all(np.isfinite(v).all() for v in encoded):
        raise ValueError(
            f"codec {codec} gives numbers that are not finite: its {len(training)} training vectors span fewer "
            "dimensions than it asks for; give more of them, or a codec of fewer dimensions"
        )
    return encoded


def write_index(path: str | os.PathLike[str], vectors: np.ndarray, factory: str = "Flat") -> None:
    """Writes a faiss index of the vectors, by inner product; its labels are the rows. Renamed into place when whole."""
    import faiss

    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(contiguous(vectors))
    index.add(contiguous(vectors))
    unfinished = Path(path).with_name(f"{Path(path).name}.unfinished")
    faiss.write_index(index, str(unfinished))
    unfinished.replace(path)


def contiguous(vectors: np.ndarray) -> np.ndarray:
    """Float32, in the layout that faiss takes."""
    return np.ascontiguousarray(vectors, np.float32)
