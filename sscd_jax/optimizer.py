"""LARS and the learning-rate schedule as SSCD uses them (pl_bolts LARS and LinearWarmupCosineAnnealingLR)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import Array


def lars(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    eps: float = 1e-8,
    exclude_bias_and_norm: bool = False,
) -> optax.GradientTransformation:
    """LARS (arXiv 1708.03888) as in pl_bolts.optimizers.lars, which is not that of `optax.lars`.

    g' = (g + weight_decay p) * trust_coefficient * |p| / (|g| + weight_decay |p| + eps), where |p| or |g| is 0 g' = g
    with neither decay nor scaling; then v = momentum v + g' and p = p - learning_rate v. The rate is outside the
    momentum, so that a change of it acts at once.

    Args:
        learning_rate: a number, or a schedule step -> rate.
        exclude_bias_and_norm: neither decay nor scale parameters of one axis (biases, batch normalization); the
            official code treats them as all others.
    """

    def adapted_gradients(gradients: optax.Updates, params: optax.Params | None) -> optax.Updates:
        def adapted(g: Array, p: Array) -> Array:
            if exclude_bias_and_norm and p.ndim <= 1:
                return g
            g_norm, p_norm = jnp.linalg.norm(g.ravel()), jnp.linalg.norm(p.ravel())
            ratio = trust_coefficient * p_norm / (g_norm + weight_decay * p_norm + eps)
            return jnp.where((g_norm > 0) & (p_norm > 0), (g + weight_decay * p) * ratio, g)

        return jax.tree.map(adapted, gradients, params)

    return optax.chain(
        optax.stateless(adapted_gradients),
        optax.trace(decay=momentum),
        optax.scale_by_learning_rate(learning_rate),
    )


def warmup_cosine(base_lr: float, *, warmup_steps: int, total_steps: int) -> Callable[[Array | int], Array]:
    """Linear warm-up from 0, then cosine to 0: step -> rate (pl_bolts LinearWarmupCosineAnnealingLR).

    The warm-up reaches base_lr at step warmup_steps - 1 and the cosine is 0 at step total_steps.

    Raises:
        ValueError: the warm-up is longer than the run.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit into a run of {total_steps} steps")

    def rate(step: Array | int) -> Array:
        step = jnp.asarray(step, jnp.float32)
        warm = step / max(warmup_steps - 1, 1)
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
        return base_lr * jnp.where(step < warmup_steps, warm, cosine)

    return rate
