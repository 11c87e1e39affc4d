"""The loss of SSCD: InfoNCE plus a differential-entropy (KoLeo) regularizer, as pure functions of the global batch.

Under jit the rows of the embeddings may be sharded over devices: each device then holds its rows of the similarity
matrix, never the whole of it.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

# Any value below every similarity over temperature; finite, so that gradients of masked entries are 0 and not NaN.
MASKED = -1e9


def match_matrix(instance_ids: Array, others: Array | None = None) -> Array:
    """Which views share source content: int [M] or [M, 2], others [N] or [N, 2] (by default the same) -> bool [M, N].

    An unmixed view has one id (or the same one twice), a mixed one has the ids of both sources; two views match when
    they share an id. A view matches itself.
    """
    ids = instance_ids.reshape(len(instance_ids), -1)
    others = ids if others is None else others.reshape(len(others), -1)
    equal = ids[:, None, :, None] == others[None, :, None, :]
    return equal.any((2, 3))


def info_nce(similarity: Array, positives: Array, negatives: Array, temperature: float) -> Array:
    """Mean over rows of the mean over their positives of -log(e^p / (e^p + sum over negatives of e^n)).

    The paper's InfoNCE (official train.py `loss`), with the sum by log-sum-exp and without the official 1e-6 in it.

    Args:
        similarity: float32 [R, M] inner products of some rows with all.
        positives: bool [R, M]; a row without any counts as 0.
        negatives: bool [R, M].
        temperature: what similarities are divided by.
    """
    logits = similarity / temperature
    negative_sum = jax.nn.logsumexp(jnp.where(negatives, logits, MASKED), axis=1, keepdims=True)
    losses = jax.nn.softplus(negative_sum - logits)
    count = jnp.maximum(positives.sum(1), 1)
    return (jnp.where(positives, losses, 0.0).sum(1) / count).mean()


def koleo(rows: Array, embeddings: Array, similarity: Array, negatives: Array) -> Array:
    """Kozachenko-Leonenko estimate of minus the entropy: the mean of -log of the distance to the nearest negative.

    The paper's differential-entropy regularizer; the squared distance is held above 1e-6 as in the official train.py.

    Args:
        rows: float32 [R, D], those over which the mean is.
        embeddings: float32 [M, D] of norm 1, all.
        similarity: float32 [R, M], inner products of the two.
        negatives: bool [R, M]; a row without any counts as one at the distance 2.
    """
    masked = jnp.where(negatives, similarity, -1.0)
    squared_distance = _squared_distance(rows, embeddings[masked.argmax(1)])
    squared_distance = jnp.where(negatives.any(1), squared_distance, 4.0)
    return -0.5 * jnp.log(jnp.maximum(squared_distance, 1e-6)).mean()


def _squared_distance(x: Array, y: Array) -> Array:
    """2 - 2 <x, y> for unit vectors, float32 [M, D] -> [M], exact where float32's own inner product is not.

    Near s = 1, rounding s to 24 bits leaves few digits of 2 - 2s, and with them few of the gradient. Rounded to
    multiples of 2^-11 the vectors' products and their sums are integers below 2^24 over 2^22: exact in float32.
    """
    x_coarse, y_coarse = jnp.round(x * 2048) / 2048, jnp.round(y * 2048) / 2048
    coarse = 1 - (x_coarse * y_coarse).sum(1)
    fine = (x_coarse * (y - y_coarse) + (x - x_coarse) * y).sum(1)
    return 2 * (coarse - fine)


def sscd_loss(
    embeddings: Array,
    instance_ids: Array,
    *,
    temperature: float = 0.05,
    entropy_weight: float | Array = 30.0,
    blocks: int = 1,
    devices: int = 1,
) -> tuple[Array, dict[str, Array]]:
    """InfoNCE + entropy_weight * KoLeo over the M views of the global batch.

    Args:
        embeddings: descriptors of norm 1, [M, D]; taken to float32.
        instance_ids: int [M] or [M, 2], see `match_matrix`.
        temperature, entropy_weight: see `config.Loss`.
        blocks: how many blocks the rows of each device are computed in, one after the other and again for the gradient,
            so that M / devices / blocks rows of the similarity matrix are in a device's memory.
        devices: that the rows are sharded over, in their order; of meaning where there are several blocks.

    Returns:
        The loss and the step's metrics, float32 scalars by the official names: InfoNCE, entropy (weighted),
        positive_sim, negative_sim, nearest_negative_sim, center_l2_norm.
    """
    embeddings = embeddings.astype(jnp.float32)
    numbers = jnp.arange(len(embeddings))
    if blocks == 1:
        parts = _of_rows(embeddings, instance_ids, numbers, embeddings, instance_ids, temperature)
    else:

        def block(i: Array) -> dict[str, Array]:
            rows = (part_of(one, i, blocks, devices) for one in (embeddings, instance_ids, numbers))
            return jax.checkpoint(_of_rows)(*rows, embeddings, instance_ids, temperature)

        parts = lax.map(block, jnp.arange(blocks))
    mean = {name: parts[name].mean() for name in ("InfoNCE", "KoLeo", "nearest_negative_sim")}
    contrastive, entropy = mean["InfoNCE"], entropy_weight * mean["KoLeo"]
    metrics = {
        "InfoNCE": contrastive,
        "entropy": entropy,
        "positive_sim": parts["positives"].sum() / jnp.maximum(parts["positive_count"].sum(), 1),
        "negative_sim": parts["negatives"].sum() / jnp.maximum(parts["negative_count"].sum(), 1),
        "nearest_negative_sim": mean["nearest_negative_sim"],
        "center_l2_norm": jnp.linalg.norm(embeddings.mean(0)),
    }
    return contrastive + entropy, lax.stop_gradient(metrics)


def part_of(x: Array, i: Array | int, parts: int, devices: int = 1) -> Array:
    """The i-th of equal parts of each device's rows, [M, ...] -> [M / parts, ...]: nothing is sent between devices."""
    by_device = x.reshape(devices, parts, -1, *x.shape[1:])
    return lax.dynamic_index_in_dim(by_device, i, 1, keepdims=False).reshape(-1, *x.shape[1:])


def joined(parts: Array, devices: int = 1) -> Array:
    """The inverse of `part_of` for all parts: [parts, M / parts, ...] -> [M, ...]."""
    by_device = parts.reshape(len(parts), devices, -1, *parts.shape[2:]).swapaxes(0, 1)
    return by_device.reshape(-1, *parts.shape[2:])


def _of_rows(
    rows: Array, row_ids: Array, numbers: Array, embeddings: Array, instance_ids: Array, temperature: float
) -> dict[str, Array]:
    """Means over some rows, whose numbers among all are int [R], and sums of what is not a mean over rows."""
    # TPUs multiply matrices in bfloat16 by default, which near s = 1 quantizes 2 - 2s by about 0.008.
    similarity = jnp.matmul(rows, embeddings.T, precision=lax.Precision.HIGHEST)
    matches = match_matrix(row_ids, instance_ids)
    positives, negatives = matches & (numbers[:, None] != jnp.arange(len(embeddings))), ~matches
    return {
        "InfoNCE": info_nce(similarity, positives, negatives, temperature),
        "KoLeo": koleo(rows, embeddings, similarity, negatives),
        "positives": jnp.where(positives, similarity, 0.0).sum(),
        "positive_count": positives.sum(),
        "negatives": jnp.where(negatives, similarity, 0.0).sum(),
        "negative_count": negatives.sum(),
        "nearest_negative_sim": jnp.where(negatives, similarity, -1.0).max(1).mean(),
    }
