"""Measures exact search for nearest neighbors on this machine, and the metrics of its result.

    python scripts/benchmarks/knn.py [--queries 50000] [--references 100000] [--dims 512] [--k 10] [--rounds 2]

The vectors are random unit vectors with planted copies. In turn it runs faiss.knn itself, our search by faiss, our
search by JAX on all devices, and only the matrix products of JAX's tiles with a sum of each. Then it computes
the three metrics of queries x k predictions.
"""

import argparse
import time
from collections.abc import Callable

import faiss
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
from sscd_jax.search import jax_backend
from sscd_jax.search.knn import knn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=50_000, help="number of queries (default %(default)s)")
    parser.add_argument("--references", type=int, default=100_000, help="number of references (default %(default)s)")
    parser.add_argument("--dims", type=int, default=512, help="length of the vectors (default %(default)s)")
    parser.add_argument("--k", type=int, default=10, help="number of neighbors of each query (default %(default)s)")
    parser.add_argument(
        "--rounds", type=int, default=2, help="number of runs of each, of which the best counts (default %(default)s)"
    )
    given = parser.parse_args()
    distributed.start()

    rng = np.random.default_rng(0)
    references = unit(rng.standard_normal((given.references, given.dims), np.float32))
    queries = rng.standard_normal((given.queries, given.dims), np.float32)
    copied = rng.integers(0, given.references, given.queries // 5)
    queries[: len(copied)] = references[copied] * np.sqrt(given.dims) + queries[: len(copied)] / 2
    queries = unit(queries)

    jobs: dict[str, Callable[[], tuple[np.ndarray, np.ndarray] | None]] = {
        "faiss.knn": lambda: faiss.knn(queries, references, given.k, metric=faiss.METRIC_INNER_PRODUCT),
        "ours, faiss": lambda: knn(queries, references, given.k, "inner_product", backend="faiss"),
        "ours, JAX": lambda: knn(queries, references, given.k, "inner_product", backend="jax"),
        "JAX's product alone": lambda: multiply(queries, references),
    }
    found: dict[str, np.ndarray] = {}
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    jax_backend.knn(queries[: jax_backend.QUERIES], references, given.k, "inner_product")  # compiles
    for _ in range(given.rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            result = job()
            seconds[name].append(time.perf_counter() - start)
            if result is not None:
                found[name] = result[1]
    print(f"{given.queries} queries, {given.references} references, {given.dims} dimensions, k = {given.k}")
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
