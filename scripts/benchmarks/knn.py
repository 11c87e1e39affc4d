"""Measures exact search for nearest neighbors on this machine, and the metrics of its result.

    python scripts/benchmarks/knn.py [--queries 50000] [--references 100000] [--dims 512] [--k 10] [--rounds 2]
        [--unknown-processor]

The vectors are random unit vectors with planted copies. In turn it runs faiss.knn itself, in a process that imports
faiss without us, our search by faiss, our search by JAX on all devices, and only the matrix products of JAX's tiles
with a sum of each. Then it computes the three metrics of queries x k predictions.
"""

import argparse
import ctypes
import importlib.util
import multiprocessing
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from sscd_jax import distributed
from sscd_jax.evaluation.metrics import (
    Predictions,
    accuracy_at_1,
    average_precision,
    precision_recall,
    recall_at_precision,
)
from sscd_jax.search import jax_backend, openblas
from sscd_jax.search.faiss_backend import import_faiss, openblas_files
from sscd_jax.search.knn import knn

Found = tuple[np.ndarray, np.ndarray]
VECTORS: list[np.ndarray] = []  # queries and references, in the process that imports faiss without us


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=50_000, help="number of queries (default %(default)s)")
    parser.add_argument("--references", type=int, default=100_000, help="number of references (default %(default)s)")
    parser.add_argument("--dims", type=int, default=512, help="length of the vectors (default %(default)s)")
    parser.add_argument("--k", type=int, default=10, help="number of neighbors of each query (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of runs of each, of which the best counts (default %(default)s)"
    )
    parser.add_argument(
        "--unknown-processor",
        action="store_true",
        help="let faiss's OpenBLAS choose the kernels that it takes for a processor of Intel that it does not know",
    )
    given = parser.parse_args()
    distributed.start()

    rng = np.random.default_rng(0)
    references = unit(rng.standard_normal((given.references, given.dims), np.float32))
    queries = rng.standard_normal((given.queries, given.dims), np.float32)
    copied = rng.integers(0, given.references, given.queries // 5)
    queries[: len(copied)] = references[copied] * np.sqrt(given.dims) + queries[: len(copied)] / 2
    queries = unit(queries)

    others = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    others.submit(prepare, given.unknown_processor, queries, references).result()
    if given.unknown_processor:
        take_old_kernels()
    import_faiss()
    jobs: dict[str, Callable[[], tuple[float, Found | None]]] = {
        "faiss.knn": lambda: others.submit(search_plainly, given.k).result(),
        "ours, faiss": lambda: timed(lambda: knn(queries, references, given.k, "inner_product", backend="faiss")),
        "ours, JAX": lambda: timed(lambda: knn(queries, references, given.k, "inner_product", backend="jax")),
        "JAX's product alone": lambda: timed(lambda: multiply(queries, references)),
    }
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    jax_backend.knn(queries[: jax_backend.QUERIES], references, given.k, "inner_product")  # compiles
    for _ in range(given.rounds):
        for name, job in jobs.items():
            took, result = job()
            seconds[name].append(took)
            if result is not None:
                found[name] = result[1]
    print(f"{given.queries} queries, {given.references} references, {given.dims} dimensions, k = {given.k}")
    alone, here = others.submit(kernels).result(), kernels()
    if alone != here:
        print(f"OpenBLAS uses the kernels for {alone} in faiss.knn, and those for {here} in our search by faiss")
    print(f"{'':22}{'seconds':>9}{'of faiss':>10}{'same neighbors':>17}")
    plain = min(seconds["faiss.knn"])
    for name, times in seconds.items():
        same = f"{(found[name] == found['faiss.knn']).mean():17.6f}" if name in found else ""
        print(f"{name:22}{min(times):9.2f}{plain / min(times):9.2f}x{same}")
    share = min(seconds["JAX's product alone"]) / min(seconds["ours, JAX"])
    print(f"the product alone takes {share:.2f} of JAX's time")

    count = given.queries * given.k
    query = np.repeat(np.arange(given.queries), given.k)
    is_match = np.zeros(count, bool)
    is_match[: len(copied) * given.k] = (found["ours, faiss"][: len(copied)] == copied[:, None]).ravel()
    scores = rng.standard_normal(count).astype(np.float32)
    positives = (np.arange(given.queries) < len(copied)).astype(np.int64)
    predictions = Predictions(query, found["ours, faiss"].ravel(), scores, is_match, positives)
    start = time.perf_counter()
    curve = precision_recall(predictions)
    average_precision(curve), recall_at_precision(curve), accuracy_at_1(predictions)
    print(f"metrics of {count} predictions: {time.perf_counter() - start:.3f} s")


def prepare(unknown_processor: bool, *vectors: np.ndarray) -> None:
    """Keeps the queries and references in this process."""
    if unknown_processor:
        take_old_kernels()
    VECTORS[:] = vectors


def search_plainly(k: int) -> tuple[float, Found]:
    import faiss

    queries, references = VECTORS
    return timed(lambda: faiss.knn(queries, references, k, metric=faiss.METRIC_INNER_PRODUCT))


def timed(job: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = job()
    return time.perf_counter() - start, result


def take_old_kernels() -> None:
    """Loads faiss's OpenBLAS as if the processor were unknown to it. An import of faiss then uses it."""
    spec = importlib.util.find_spec("faiss")
    assert spec is not None
    assert spec.submodule_search_locations
    os.environ[openblas.VARIABLE] = "Prescott"
    ctypes.CDLL(str(Path(spec.submodule_search_locations[0]) / "libfaiss.so"))
    del os.environ[openblas.VARIABLE]


def kernels() -> str:
    """Returns the core types whose kernels faiss's OpenBLAS uses in this process."""
    import faiss

    libraries = [openblas.loaded(path) for path in openblas_files(faiss)]
    return ", ".join(openblas.core_name(library) for library in libraries if library is not None) or "an unknown core"


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@jax.jit
def product(queries: Array, tiles: Array) -> Array:
    def step(total: Array, tile: Array) -> tuple[Array, None]:
        return total + jnp.matmul(queries, tile.T, precision=lax.Precision.HIGHEST).sum(), None

    return lax.scan(step, jnp.zeros(()), tiles)[0]


def multiply(queries: np.ndarray, references: np.ndarray) -> None:
    whole = len(references) // jax_backend.TILE * jax_backend.TILE
    tiles = jnp.asarray(references[:whole].reshape(-1, jax_backend.TILE, references.shape[1]))
    for start in range(0, len(queries), jax_backend.QUERIES):
        product(jnp.asarray(queries[start : start + jax_backend.QUERIES]), tiles).block_until_ready()


if __name__ == "__main__":
    main()
