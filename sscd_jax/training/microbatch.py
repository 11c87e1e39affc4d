"""The gradient of a loss over the whole batch, computed in pieces (GradCache, arXiv 2101.06983)."""

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
    """Embeds all pieces, takes the loss's gradient with respect to the embeddings, and goes back piece by piece.

    Every piece is embedded twice, and the activations of one piece at a time are in memory. The gradient is that of the
    whole batch where `embed` treats each view alone, as with frozen batch normalization; in training, statistics are
    those of a piece.

    Args:
        embed: (params, some views) -> (embeddings [m, D], what else it gives, as new statistics).
        loss: embeddings [M, D] of all views, in their order -> (value, metrics).
        params: with respect to which the gradient is.
        views: [M, ...], sharded over the devices in their order.
        pieces: how many; each has an equal part of every device's views.
        devices: that the views are sharded over.

    Returns:
        The loss's value and metrics, the mean over the pieces of what else `embed` gives, and the gradient.
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
