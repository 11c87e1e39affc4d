"""The loss of SSCD: InfoNCE plus a differential-entropy (KoLeo) regulariser, as pure functions of the global batch.

Under jit the rows of the embeddings may be sharded over devices: each device then holds its rows of the similarity
matrix, never the whole of it.
"""

import jax
import jax.numpy as jnp
from jax import Array, lax

# Any value below every similarity over temperature; finite, so that gradients of masked entries are 0 and not NaN.
MASKED = -1e9


def match_matrix(instance_ids: Array) -> Array:
    """Which views share source content, themselves included: int [M] or [M, 2] -> bool [M, M].

    An unmixed view has one id (or the same one twice), a mixed one has the ids of both sources; two views match when
    they share an id.
    """
    ids = instance_ids.reshape(len(instance_ids), -1)
    equal = ids[:, None, :, None] == ids[None, :, None, :]
    return equal.any((2, 3))


def info_nce(similarity: Array, positives: Array, negatives: Array, temperature: float) -> Array:
    """Mean over rows of the mean over their positives of -log(e^p / (e^p + sum over negatives of e^n)).

    The paper's InfoNCE (official train.py `loss`), with the sum by log-sum-exp and without the official 1e-6 in it.

    Args:
        similarity: float32 [M, M] inner products.
        positives: bool [M, M]; a row without any counts as 0.
        negatives: bool [M, M].
        temperature: what similarities are divided by.
    """
    logits = similarity / temperature
    negative_sum = jax.nn.logsumexp(jnp.where(negatives, logits, MASKED), axis=1, keepdims=True)
    losses = jax.nn.softplus(negative_sum - logits)
    count = jnp.maximum(positives.sum(1), 1)
    return (jnp.where(positives, losses, 0.0).sum(1) / count).mean()


def koleo(embeddings: Array, similarity: Array, negatives: Array) -> Array:
    """Kozachenko-Leonenko estimate of minus the entropy: the mean of -log of the distance to the nearest negative.

    The paper's differential-entropy regulariser; the squared distance is held above 1e-6 as in the official train.py.

    Args:
        embeddings: float32 [M, D] of norm 1.
        similarity: float32 [M, M], their inner products.
        negatives: bool [M, M]; a row without any counts as one at the distance 2.
    """
    masked = jnp.where(negatives, similarity, -1.0)
    squared_distance = _squared_distance(embeddings, embeddings[masked.argmax(1)])
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
    entropy_weight: float = 30.0,
) -> tuple[Array, dict[str, Array]]:
    """InfoNCE + entropy_weight * KoLeo over the M views of the global batch.

    Args:
        embeddings: descriptors of norm 1, [M, D]; taken to float32.
        instance_ids: int [M] or [M, 2], see `match_matrix`.

    Returns:
        The loss and the step's metrics, float32 scalars by the official names: InfoNCE, entropy (weighted),
        positive_sim, negative_sim, nearest_negative_sim, center_l2_norm.
    """
    embeddings = embeddings.astype(jnp.float32)
    # TPUs multiply matrices in bfloat16 by default, which near s = 1 quantises 2 - 2s by about 0.008.
    similarity = jnp.matmul(embeddings, embeddings.T, precision=lax.Precision.HIGHEST)
    matches = match_matrix(instance_ids)
    positives, negatives = matches & ~jnp.eye(len(matches), dtype=bool), ~matches

    contrastive = info_nce(similarity, positives, negatives, temperature)
    entropy = entropy_weight * koleo(embeddings, similarity, negatives)
    metrics = {
        "InfoNCE": contrastive,
        "entropy": entropy,
        "positive_sim": _masked_mean(similarity, positives),
        "negative_sim": _masked_mean(similarity, negatives),
        "nearest_negative_sim": jnp.where(negatives, similarity, -1.0).max(1).mean(),
        "center_l2_norm": jnp.linalg.norm(embeddings.mean(0)),
    }
    return contrastive + entropy, lax.stop_gradient(metrics)


def _masked_mean(values: Array, mask: Array) -> Array:
    return jnp.where(mask, values, 0.0).sum() / jnp.maximum(mask.sum(), 1)
