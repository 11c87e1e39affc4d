"""Keeps the background of collections in the cache folder, as measuring it compares all images with one another.

So searching the same collection again, or at another threshold, takes a fraction of the time.
"""

import contextlib
import hashlib
import os
from pathlib import Path

import numpy as np

from sscd_jax.duplicates import background
from sscd_jax.duplicates.groups import Groups
from sscd_jax.duplicates.scores import BLOCK
from sscd_jax.files import NPZ_ERRORS, atomic_file, cache_folder
from sscd_jax.mapped_vectors import Vectors

LEAST = 5000  # images; with fewer, it is measured in seconds
MOST = 16  # collections that are kept, the last ones that were used
_VERSION = f"1 {background.ALIKE} {background.NEIGHBORS}"


def measured(vectors: Vectors, order: np.ndarray) -> tuple[Groups, np.ndarray]:
    """Returns what `background.first_pass` and `background.of_collection` return, from the cache if it is there.

    Args:
        vectors: float32 [N, D] of norm 1.
        order: int64 [M], the rows that belong to the collection, in order of preference.
    """
    path = None
    if len(order) >= LEAST:
        path = cache_folder("background") / f"{_key(vectors, order)}.npz"
        with contextlib.suppress(*NPZ_ERRORS), np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in ("kept", "similarity", "score", "background")]
            if all(len(array) == len(vectors) for array in arrays):
                os.utime(path)
                return Groups(*arrays[:3]), arrays[3]
    grouped = background.first_pass(vectors, order)
    found = background.of_collection(vectors, order, grouped)
    if path is not None:
        with contextlib.suppress(OSError):  # a full disk is no reason to fail
            _keep(path, grouped, found)
    return grouped, found


def _key(vectors: Vectors, order: np.ndarray) -> str:
    """Returns what identifies vectors and their order."""
    digest = hashlib.blake2b(f"{_VERSION} {vectors.shape}\n".encode(), digest_size=16)
    for start in range(0, len(vectors), BLOCK):
        digest.update(np.ascontiguousarray(vectors[start : start + BLOCK]).data)
    digest.update(np.ascontiguousarray(order, np.int64).data)
    return digest.hexdigest()


def _keep(path: Path, grouped: Groups, found: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, kept=grouped.kept, similarity=grouped.similarity, score=grouped.score, background=found)
    files = sorted(path.parent.glob("*.npz"), key=lambda one: one.stat().st_mtime)
    for one in files[:-MOST]:
        one.unlink(missing_ok=True)
