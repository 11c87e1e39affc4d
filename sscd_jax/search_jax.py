"""Exact nearest neighbours by JAX, for TPUs and GPUs: a matrix product and top-k, tile by tile, over all devices."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh

from sscd_jax.mesh import by_rows, create_local_mesh, replicated

QUERIES, TILE = 1024, 8192  # at once: a tile of similarities is 32 MB


def knn(
    queries: np.ndarray, references: np.ndarray, k: int, metric: str, *, mesh: Mesh | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The k best references of each query, as `search.knn`; of equal scores, the first reference comes first.

    Each device holds its share of the references; queries come in blocks.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        k: how many, at most R.
        metric: inner_product, or l2 for minus the squared distance.
        mesh: the devices; by default those of this process.

    Returns:
        (scores float32 [Q, k], indexes int64 [Q, k]), best first.
    """
    mesh = create_local_mesh() if mesh is None else mesh
    count, dims = references.shape
    tile = min(TILE, -(-count // mesh.size))
    tiles = -(-count // (mesh.size * tile))
    padded = np.zeros((mesh.size * tiles * tile, dims), np.float32)
    padded[:count] = references
    shares = jax.device_put(padded.reshape(mesh.size, tiles, tile, dims), by_rows(mesh))
    offsets = _offsets(shares, count, metric)
    scores, indexes = np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64)
    block = min(QUERIES, len(queries))
    for start in range(0, len(queries), block):
        rows = np.zeros((block, dims), np.float32)
        some = np.asarray(queries[start : start + block], np.float32)
        rows[: len(some)] = some
        found = _best(jax.device_put(rows, replicated(mesh)), shares, offsets, k=k, double=metric == "l2")
        values, at = (np.asarray(one)[: len(some)] for one in found)
        if metric == "l2":
            values = np.minimum(values - (some * some).sum(1, keepdims=True), 0)
        scores[start : start + block], indexes[start : start + block] = values, at
    return scores, indexes


@partial(jax.jit, static_argnames=("count", "metric"))
def _offsets(shares: Array, count: int, metric: str) -> Array:
    """What is added to the product with each reference: minus its squared norm for L2, and -inf for padding."""
    row = jnp.arange(shares.size // shares.shape[-1]).reshape(shares.shape[:-1])
    offset = -jnp.square(shares).sum(-1) if metric == "l2" else jnp.zeros(row.shape, jnp.float32)
    return jnp.where(row < count, offset, -jnp.inf)


@partial(jax.jit, static_argnames=("k", "double"))
def _best(queries: Array, shares: Array, offsets: Array, *, k: int, double: bool) -> tuple[Array, Array]:
    """The best of each device's share, and then of these: float32 [Q, k], int32 [Q, k]."""
    devices, tiles, tile, _ = shares.shape

    def of_share(share: Array, offset: Array) -> tuple[Array, Array]:
        def step(best: tuple[Array, Array], one: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
            references, offset, number = one
            scores = jnp.matmul(queries, references.T, precision=lax.Precision.HIGHEST)
            scores = (2 * scores if double else scores) + offset
            values, at = lax.top_k(scores, min(k, tile))
            values, at = jnp.concatenate([best[0], values], 1), jnp.concatenate([best[1], number * tile + at], 1)
            values, chosen = lax.top_k(values, k)  # of equals the first, which are of earlier tiles
            return (values, jnp.take_along_axis(at, chosen, 1)), None

        none = jnp.full((len(queries), k), -jnp.inf), jnp.zeros((len(queries), k), jnp.int32)
        return lax.scan(step, none, (share, offset, jnp.arange(tiles)))[0]

    values, at = jax.vmap(of_share, out_axes=1)(shares, offsets)
    at = at + (jnp.arange(devices) * tiles * tile)[:, None]
    values, chosen = lax.top_k(values.reshape(len(queries), -1), k)
    return values, jnp.take_along_axis(at.reshape(len(queries), -1), chosen, 1)
