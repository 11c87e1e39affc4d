"""The optimizer and the learning-rate schedule of SSCD: LARS and LinearWarmupCosineAnnealingLR of pl_bolts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.tree_util import Partial


def lars(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 1e-6,
    momentum: float = 0.9,
    trust_coefficient: float = 1e-3,
    eps: float = 1e-8,
    exclude_bias_and_norm: bool = False,
) -> optax.GradientTransformation:
    """Returns LARS (arXiv 1708.03888) as pl_bolts.optimizers.lars defines it, which differs from `optax.lars`.

    For each parameter p with gradient g:

        g' = (g + weight_decay p) * trust_coefficient * |p| / (|g| + weight_decay |p| + eps)
        v  = momentum * v + g'
        p  = p - learning_rate * v

    If |p| or |g| is 0, then g' = g, with neither decay nor scaling. The learning rate is applied after the momentum, so
    that a change of it takes effect at once.

    Args:
        learning_rate: a number, or a schedule step -> learning rate.
        weight_decay: coefficient of the L2 decay, which is scaled together with the gradient.
        momentum: decay of the momentum v.
        trust_coefficient: about the ratio of |g'| to |p|.
        eps: number added to the denominator.
        exclude_bias_and_norm: whether parameters with at most one axis (biases, batch normalization) are neither
            decayed nor scaled. The official code treats them like all others.

    Returns:
        An optax transformation, whose `update` needs the parameters.

    Examples:
        >>> optimizer = lars(warmup_cosine(4.8, warmup_steps=1250, total_steps=25_000))
        >>> state = optimizer.init(params)
        >>> updates, state = optimizer.update(gradients, state, params)
        >>> params = optax.apply_updates(params, updates)
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


def warmup_cosine(base_lr: float, *, warmup_steps: int, total_steps: int) -> Partial:
    """Returns a schedule: linear warm-up from 0, then a cosine to 0 (pl_bolts LinearWarmupCosineAnnealingLR).

    Args:
        base_lr: the learning rate after the warm-up, which step `warmup_steps - 1` reaches.
        warmup_steps: the number of steps of the warm-up; 0 for none.
        total_steps: the number of steps of the run, at which the cosine is 0.

    Returns:
        A function from a step, counted from 0, to its learning rate, a float32 scalar. It is a pytree of the three
        numbers, so that it can be an argument of a compiled function, which then serves all schedules.

    Raises:
        ValueError: the warm-up is negative or not shorter than the run.

    Examples:
        >>> rate = warmup_cosine(1.0, warmup_steps=5, total_steps=105)
        >>> [round(float(rate(step)), 2) for step in (0, 2, 4, 55, 105)]
        [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(f"a warm-up of {warmup_steps} steps does not fit into a run of {total_steps} steps")
    return Partial(_rate, *np.array([base_lr, warmup_steps, total_steps], np.float32))


def _rate(base_lr: Array, warmup_steps: Array, total_steps: Array, step: Array | int) -> Array:
    step = jnp.asarray(step, jnp.float32)
    warm = step / jnp.maximum(warmup_steps - 1, 1)
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    cosine = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(progress, 0, 1)))
    return base_lr * jnp.where(step < warmup_steps, warm, cosine)
