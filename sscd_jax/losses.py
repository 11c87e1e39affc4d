"""The loss of SSCD: InfoNCE plus a differential-entropy (KoLeo) regularizer, as pure functions of the global batch.

Under jit the rows of the embeddings may be sharded over devices. Each device then holds only its own rows of the
similarity matrix.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

# A value below every similarity / temperature; finite, so that the gradients of masked entries are 0 and not NaN.
MASKED = -1e9


def match_matrix(instance_ids: Array, others: Array | None = None) -> Array:
    """Returns which views share source content.

    A view has the id of its source image, once or twice, or the ids of both if it is mixed from two. Two views match if
    they share an id, so that every view matches itself.

    Args:
        instance_ids: int [M] or [M, 2].
        others: int [N] or [N, 2]; by default `instance_ids`.

    Returns:
        bool [M, N].

    Examples:
        >>> match_matrix(jnp.array([[0, 0], [1, 1], [0, 1]]))
        Array([[ True, False,  True],
               [False,  True,  True],
               [ True,  True,  True]], dtype=bool)
    """
    ids = instance_ids.reshape(len(instance_ids), -1)
    others = ids if others is None else others.reshape(len(others), -1)
    equal = ids[:, None, :, None] == others[None, :, None, :]
    return equal.any((2, 3))


def info_nce(similarity: Array, positives: Array, negatives: Array, temperature: float) -> Array:
    """Computes InfoNCE: for each row the mean over its positives of -log(e^p / (e^p + sum over negatives of e^n)).

    p and n are similarities over temperature. This is the paper's InfoNCE (official train.py `loss`), but computed with
    log-sum-exp and without the 1e-6 that the official code adds to the sum.

    Args:
        similarity: float32 [R, M], the inner products of R of the embeddings with all M.
        positives: bool [R, M], which pairs are positives; the loss of a row without positives is 0.
        negatives: bool [R, M], which pairs are negatives.
        temperature: the number that similarities are divided by.

    Returns:
        float32 scalar, the mean over the rows.
    """
    logits = similarity / temperature
    negative_sum = jax.nn.logsumexp(jnp.where(negatives, logits, MASKED), axis=1, keepdims=True)
    losses = jax.nn.softplus(negative_sum - logits)
    count = jnp.maximum(positives.sum(1), 1)
    return (jnp.where(positives, losses, 0.0).sum(1) / count).mean()


def koleo(rows: Array, embeddings: Array, similarity: Array, negatives: Array) -> Array:
    """Computes the Kozachenko-Leonenko estimate of the negative entropy: the mean of -log(distance to the nearest).

    It is the paper's differential-entropy regularizer. The nearest embedding is searched among the negatives, and the
    squared distance is clipped to at least 1e-6, as in the official train.py.

    Args:
        rows: float32 [R, D] of norm 1, the embeddings over which the mean is taken.
        embeddings: float32 [M, D] of norm 1, all embeddings.
        similarity: float32 [R, M], the inner products of the two.
        negatives: bool [R, M], which pairs are negatives; a row without negatives has the distance 2.

    Returns:
        float32 scalar.
    """
    masked = jnp.where(negatives, similarity, -1.0)
    squared_distance = _squared_distance(rows, embeddings[masked.argmax(1)])
    squared_distance = jnp.where(negatives.any(1), squared_distance, 4.0)
    return -0.5 * jnp.log(jnp.maximum(squared_distance, 1e-6)).mean()


def _squared_distance(x: Array, y: Array) -> Array:
    """Computes 2 - 2 <x, y> of unit vectors accurately, float32 [M, D] -> [M].

    Near <x, y> = 1, an inner product rounded to the 24 bits of float32 leaves few correct digits in the difference and
    in its gradient. Each vector is therefore split in two: a part rounded to multiples of 2^-11, and the small rest.
    Products of the rounded parts and their sums are integers below 2^24 divided by 2^22, hence exact in float32.
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
    """Computes InfoNCE + entropy_weight * KoLeo over the M views of the global batch.

    Args:
        embeddings: float [M, D], descriptors of norm 1; converted to float32.
        instance_ids: int [M] or [M, 2], see `match_matrix`.
        temperature: temperature of InfoNCE.
        entropy_weight: weight of the KoLeo term.
        blocks: number of blocks that the rows of each device are computed in, one after the other, and again for the
            gradient. A device then holds M / devices / blocks rows of the similarity matrix at a time.
        devices: number of devices that the rows are sharded over, in their order. Used only if blocks > 1.

    Returns:
        The loss, and the metrics by their official names, all float32 scalars: InfoNCE, entropy (weighted),
        positive_sim and negative_sim (means over the pairs), nearest_negative_sim (mean over the views) and
        center_l2_norm (norm of the mean descriptor).

    Examples:
        >>> embeddings = jnp.eye(4)[jnp.array([0, 1, 0, 1])]  # two images, two equal views of each
        >>> loss, metrics = sscd_loss(embeddings, jnp.array([0, 1, 0, 1]))
        >>> float(metrics["positive_sim"]), float(metrics["negative_sim"])
        (1.0, 0.0)
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
    """Returns the i-th of equal parts of the rows of every device, without communication between devices.

    Args:
        x: [M, ...], sharded by rows over the devices in their order.
        i: the index of the part.
        parts: the number of parts.
        devices: the number of devices.

    Returns:
        [M / parts, ...].
    """
    by_device = x.reshape(devices, parts, -1, *x.shape[1:])
    return lax.dynamic_index_in_dim(by_device, i, 1, keepdims=False).reshape(-1, *x.shape[1:])


def joined(parts: Array, devices: int = 1) -> Array:
    """Joins all parts that `part_of` returns, in their order: [parts, M / parts, ...] -> [M, ...]."""
    by_device = parts.reshape(len(parts), devices, -1, *parts.shape[2:]).swapaxes(0, 1)
    return by_device.reshape(-1, *parts.shape[2:])


def _of_rows(
    rows: Array, row_ids: Array, numbers: Array, embeddings: Array, instance_ids: Array, temperature: float
) -> dict[str, Array]:
    """Computes the terms of the loss and the metrics for R rows: means over rows, sums and counts over pairs.

    `numbers` is int [R], the positions of the rows among all M.
    """
    # By default TPUs multiply matrices in bfloat16, which near similarity 1 quantizes 2 - 2s to steps of about 0.008.
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
