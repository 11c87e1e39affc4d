"""Exact nearest neighbors by JAX, for TPUs and GPUs: matrix products and top-k, tile by tile, on all devices."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh
from tqdm import tqdm

from sscd_jax.mapped_vectors import Vectors
from sscd_jax.sharding import by_rows, create_local_mesh, replicated

QUERIES, TILE = 1024, 8192  # rows of a tile of similarities, which takes 32 MB, and its columns
GROUP = 32  # number of adjacent columns that `_top` first compares by their maximum


def knn(
    queries: Vectors, references: Vectors, k: int, metric: str, *, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the k best references of each query, as `sscd_jax.search.knn.knn`.

    Each device holds a share of the references, and queries are searched in blocks. Of references with equal scores,
    the first comes first.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        k: the number of references for each query, at most R.
        metric: inner_product, or l2 for minus the squared distance.
        mesh: the devices; by default those of this process.

    Returns:
        Scores float32 [Q, k] and indexes int64 [Q, k], best first.
    """
    mesh = create_local_mesh() if mesh is None else mesh
    count, dims = references.shape
    if not count or not len(queries):
        return np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    tile = min(TILE, -(-count // (mesh.size * GROUP)) * GROUP)
    tiles = -(-count // (mesh.size * tile))
    padded = np.zeros((mesh.size * tiles * tile, dims), np.float32)
    padded[:count] = references
    shares = jax.device_put(padded.reshape(mesh.size, tiles, tile, dims), by_rows(mesh))
    offsets = _offsets(shares, count, metric)
    scores, indexes = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    # Powers of two, so that few programs are compiled.
    block = min(QUERIES, 1 << (len(queries) - 1).bit_length())
    starts = range(0, len(queries), block)
    waiting: list[tuple[int, tuple[Array, Array]]] = []
    for start in tqdm([*starts, None], desc="search", unit="block", dynamic_ncols=True, leave=False, delay=1):
        if start is not None:
            rows = np.zeros((block, dims), np.float32)
            some = queries[start : start + block]
            rows[: len(some)] = some
            found = _best(jax.device_put(rows, replicated(mesh)), shares, offsets, k=k, double=metric == "l2")
            waiting.append((start, found))
        # Results are fetched one block late, so that the devices do not wait for it.
        while waiting and (start is None or len(waiting) > 1):
            first, found = waiting.pop(0)
            last = min(first + block, len(queries))
            scores[first:last], indexes[first:last] = (np.asarray(one)[: last - first] for one in found)
    if metric == "l2":
        squares = np.einsum("qd,qd->q", queries, queries)[:, None]
        np.minimum(scores - squares, 0, out=scores)
    return scores, indexes


@partial(jax.jit, static_argnames=("count", "metric"))
def _offsets(shares: Array, count: int, metric: str) -> Array:
    """Returns what is added to the product with each reference: for l2 minus its squared norm, for padding -inf."""
    row = jnp.arange(shares.size // shares.shape[-1]).reshape(shares.shape[:-1])
    offset = -jnp.square(shares).sum(-1) if metric == "l2" else jnp.zeros(row.shape, jnp.float32)
    return jnp.where(row < count, offset, -jnp.inf)


@partial(jax.jit, static_argnames=("k", "double"))
def _best(queries: Array, shares: Array, offsets: Array, *, k: int, double: bool) -> tuple[Array, Array]:
    """Returns scores float32 [Q, k] and indexes int32 [Q, k] of the best: first of each device's share, then of all."""
    devices, tiles, tile, _ = shares.shape

    def of_share(share: Array, offset: Array) -> tuple[Array, Array]:
        def step(best: tuple[Array, Array], one: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            references, offset, number = one
            scores = jnp.matmul(queries, references.T, precision=lax.Precision.HIGHEST)
            scores = (2 * scores if double else scores) + offset
            values, at = _top(scores, min(k, tile))
            values, at = jnp.concatenate([best[0], values], 1), jnp.concatenate([best[1], number * tile + at], 1)
            values, chosen = lax.top_k(values, k)  # of equal scores the first, which is of an earlier tile
            return (values, jnp.take_along_axis(at, chosen, 1)), None

        none = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
        return lax.scan(step, none, (share, offset, jnp.arange(tiles)))[0]

    values, at = jax.vmap(of_share, out_axes=1)(shares, offsets)
    at = at + (jnp.arange(devices) * tiles * tile)[:, None]
    values, chosen = lax.top_k(values.reshape(len(queries), -1), k)
    return values, jnp.take_along_axis(at.reshape(len(queries), -1), chosen, 1)


def _top(scores: Array, k: int) -> tuple[Array, Array]:
    """Does the same as `lax.top_k`, faster: the k best are in the k groups of adjacent columns with the best maxima."""
    rows, columns = scores.shape
    groups = columns // GROUP
    if columns % GROUP or k >= groups:
        return lax.top_k(scores, k)
    grouped = scores.reshape(rows, groups, GROUP)
    _, chosen = lax.top_k(grouped.max(-1), k)
    chosen = jnp.sort(chosen, 1)  # of equal scores the first column still comes first
    values, at = lax.top_k(jnp.take_along_axis(grouped, chosen[:, :, None], 1).reshape(rows, -1), k)
    return values, jnp.take_along_axis(chosen, at // GROUP, 1) * GROUP + at % GROUP


def default_backend() -> Literal["faiss", "jax"]:
    """Returns the backend for the devices of this process: faiss for CPUs, jax for accelerators."""
    return "faiss" if jax.default_backend() == "cpu" else "jax"
