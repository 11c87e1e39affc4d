"""Batch normalization and its gradients against Flax's own and torch's rules; GeM and L2 against numpy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.arrays import assert_same_with_gradients, normal

from sscd_jax.models.layers import BatchNorm, gem_pool, l2_normalize


@pytest.mark.parametrize("shape", [(4, 1, 1, 5), (3, 4, 6, 8), (2, 7, 7, 3)])
def test_batch_normalisation_in_training(shape):
    x, scale, bias = 3 + 2 * normal(*shape), normal(shape[-1], seed=1), normal(shape[-1], seed=2)
    stats = {"mean": np.zeros(shape[-1], np.float32), "var": np.ones(shape[-1], np.float32)}

    def apply(module, *arguments):
        def output(x, scale, bias):
            variables = {"params": {"scale": scale, "bias": bias}, "batch_stats": stats}
            return module.apply(variables, x, *arguments, mutable=["batch_stats"])[0]

        return output

    flax = nn.BatchNorm(use_running_average=False, epsilon=1e-5, use_fast_variance=False)
    assert_same_with_gradients(apply(BatchNorm(), True), apply(flax), x, scale, bias, tolerance=1e-4)


def test_running_statistics_are_torchs():
    x = 3 + 2 * normal(4, 5, 6, 2)
    variables = BatchNorm().init(jax.random.key(0), x, False)
    _, updates = BatchNorm().apply(variables, x, True, mutable=["batch_stats"])
    rows = x.reshape(-1, 2).astype(np.float64)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * rows.mean(0), rtol=1e-5)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * rows.var(0, ddof=1), rtol=1e-5)


def test_batch_normalisation_by_running_statistics():
    x = normal(2, 3, 3, 4)
    params = {"scale": normal(4, seed=1), "bias": normal(4, seed=2)}
    stats = {"mean": normal(4, seed=3), "var": np.abs(normal(4, seed=4)) + 0.1}
    out = BatchNorm().apply({"params": params, "batch_stats": stats}, x, False)
    expected = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5) * params["scale"] + params["bias"]
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-5)


def test_half_precision_keeps_float32_statistics():
    x = jnp.asarray(100 + normal(8, 4, 4, 2), jnp.bfloat16)
    module = BatchNorm(dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(0), x, False)
    out, updates = module.apply(variables, x, True, mutable=["batch_stats"])
    assert out.dtype == jnp.bfloat16
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((variables, updates)))
    mean = np.asarray(x, np.float64).mean((0, 1, 2))
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)


@pytest.mark.parametrize("p", [1.0, 3.0, 4.5])
def test_gem(p):
    x = normal(2, 5, 4, 3)
    expected = (np.maximum(x.astype(np.float64), 1e-6) ** p).mean((1, 2)) ** (1 / p)
    np.testing.assert_allclose(gem_pool(x, p), expected, rtol=1e-5)
    half = gem_pool(jnp.full((1, 2, 2, 1), 1e-6, jnp.bfloat16), 3.0)
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, 1e-6, rtol=1e-2)  # and not 0


def test_l2():
    x = normal(4, 6)
    np.testing.assert_allclose(l2_normalize(x), x / np.linalg.norm(x, axis=1, keepdims=True), rtol=1e-5)
    zero = jnp.zeros((1, 3))
    assert (l2_normalize(zero) == 0).all()
    assert jnp.isfinite(jax.grad(lambda x: l2_normalize(x).sum())(zero)).all()
