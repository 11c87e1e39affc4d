"""Search, codecs and indexes by faiss. Only this module imports faiss, and only when one of its functions is called."""

import os
import sys
import threading
from pathlib import Path
from types import ModuleType

import numpy as np

from sscd_jax.files import atomic_file
from sscd_jax.mapped_vectors import Vectors
from sscd_jax.search import openblas

_IMPORTING = threading.Lock()


def import_faiss() -> ModuleType:
    """Imports faiss and returns it; the first import also gives its OpenBLAS fast kernels, see `openblas`.

    Nothing is changed in a faiss that others have imported before, as they may be searching.
    """
    with _IMPORTING:
        is_first = "faiss" not in sys.modules
        import faiss

        if is_first:
            for library in openblas_files(faiss):
                openblas.use_fast_kernels(library)
    return faiss


def openblas_files(faiss: ModuleType) -> list[Path]:
    """Returns the files of the OpenBLAS in faiss's wheel: none where it uses that of the system, or has it built in."""
    return sorted((Path(str(faiss.__file__)).parents[1] / "faiss_cpu.libs").glob("libopenblas*.so*"))


def knn(queries: np.ndarray, references: np.ndarray, k: int, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k best references of each query, as `sscd_jax.search.knn.knn`.

    Args:
        queries: float32 [Q, D], one block.
        references: float32 [R, D], C-contiguous.
        k: the number of references for each query, at most R.
        metric: inner_product, or l2 for minus the squared distance.

    Returns:
        Scores float32 [Q, k] and indexes int64 [Q, k], best first.
    """
    faiss = import_faiss()
    l2 = metric == "l2"
    scores, indexes = faiss.knn(
        contiguous(queries), references, k, metric=faiss.METRIC_L2 if l2 else faiss.METRIC_INNER_PRODUCT
    )
    return (-scores if l2 else scores), indexes


def project(codec: str, training: Vectors | None, *others: Vectors) -> list[np.ndarray]:
    """Fits a faiss codec and returns vectors as it encodes them, as the official code's `project`.

    Args:
        codec: a faiss factory string that ends in Flat, such as "PCAW512,L2norm,Flat"; "Flat" changes nothing.
        training: float32 [T, D], on which the codec is fitted; None only for "Flat".
        others: further arrays of vectors, each float32 [N, D].

    Returns:
        The encoded training vectors, if they were given, then the encoded others, each float32 [N, K].

    Raises:
        ValueError: the codec is not such a string, cannot be fitted on these vectors, or gives non-finite numbers.
    """
    given = [] if training is None else [training]
    if codec == "Flat":
        return [np.asarray(one) for one in (*given, *others)]
    if not codec.endswith(",Flat"):
        raise ValueError(f"codec {codec}: it must end in Flat, such as PCAW512,L2norm,Flat")
    if training is None:
        raise ValueError(f"codec {codec} must be fitted: give training descriptors, or use the codec Flat")
    faiss = import_faiss()
    try:
        index = faiss.index_factory(training.shape[1], codec)
    except RuntimeError as error:
        raise ValueError(f"codec {codec}: faiss knows no such factory string; one is PCAW512,L2norm,Flat") from error
    encoder = faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index
    if not isinstance(encoder, faiss.IndexFlat):
        raise ValueError(f"codec {codec}: only transforms before Flat give vectors, such as PCAW512,L2norm,Flat")
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


def write_index(path: str | os.PathLike[str], vectors: Vectors, factory: str = "Flat") -> None:
    """Writes a faiss index for inner products, whose labels are the rows of the vectors.

    Args:
        path: the file; one that exists is replaced when the new one is complete.
        vectors: float32 [N, D].
        factory: a faiss factory string; "Flat" for exact search.

    Raises:
        OSError: the file cannot be written.
    """
    faiss = import_faiss()
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors := contiguous(vectors))
    index.add(vectors)
    with atomic_file(path) as temporary:
        faiss.write_index(index, str(temporary))


def contiguous(vectors: Vectors) -> np.ndarray:
    """Returns vectors as a C-contiguous float32 array, as faiss takes them."""
    return np.ascontiguousarray(np.asarray(vectors), np.float32)
