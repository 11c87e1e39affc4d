"""The gradient of a loss over the complete batch, computed in pieces (GradCache, arXiv 2101.06983)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from sscd_jax.losses import joined, part_of

Embed = Callable[[optax.Params, Array], tuple[Array, Any]]
Loss = Callable[[Array], tuple[Array, Any]]


def gradients_in_pieces(
    embed: Embed, loss: Loss, params: optax.Params, views: Array, *, pieces: int, devices: int = 1
) -> tuple[Array, Any, Any, optax.Params]:
    """Computes a loss of all views and its gradient, with the activations of one piece at a time in memory.

    First all pieces are embedded, then the gradient of the loss with respect to the embeddings is computed, and finally
    each piece is embedded again and its part of the gradient is propagated back to the parameters.

    The result is the gradient of the complete batch if `embed` treats each view on its own, as with frozen batch
    normalization. In training, batch normalization uses the statistics of each piece.

    Args:
        embed: (params, views [m, ...]) -> (embeddings [m, D], auxiliary output, such as new statistics).
        loss: embeddings [M, D] of all views, in their order -> (value, metrics).
        params: the parameters to differentiate with respect to.
        views: [M, ...], sharded over the devices in their order.
        pieces: the number of pieces; each has an equal part of the views of every device.
        devices: the number of devices that the views are sharded over.

    Returns:
        The value of the loss, its metrics, the mean over the pieces of the auxiliary output, and the gradient.
    """
    numbers = jnp.arange(pieces)
    embeddings = joined(lax.map(lambda i: embed(params, part_of(views, i, pieces, devices))[0], numbers), devices)
    (value, metrics), slopes = jax.value_and_grad(loss, has_aux=True)(embeddings)

    def add_piece(total: Any, i: Array) -> tuple[Any, None]:
        piece, slope = (part_of(one, i, pieces, devices) for one in (views, slopes))
        _, back, more = jax.vjp(lambda params: embed(params, piece), params, has_aux=True)
        return jax.tree.map(jnp.add, total, (back(slope)[0], more)), None

    shapes = jax.eval_shape(lambda params: embed(params, part_of(views, 0, pieces, devices))[1], params)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (params, shapes))
    (gradient, total), _ = lax.scan(add_piece, zeros, numbers)
    return value, metrics, jax.tree.map(lambda x: x / pieces, total), gradient
