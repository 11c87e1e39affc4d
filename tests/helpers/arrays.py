"""Random arrays, and functions compared with their gradients."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_same_with_gradients(
    ours: Callable[..., Any], theirs: Callable[..., Any], *arguments: Any, tolerance: float = 1e-5
) -> None:
    """Outputs, and gradients with respect to all arguments, within a share of the largest value."""
    ours_out, ours_vjp = jax.vjp(jax.jit(ours), *arguments)
    theirs_out, theirs_vjp = jax.vjp(jax.jit(theirs), *arguments)
    d_out = normal(*theirs_out.shape, seed=9)
    for one, other in zip(
        (ours_out, *ours_vjp(d_out.astype(ours_out.dtype))), (theirs_out, *theirs_vjp(d_out)), strict=True
    ):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * float(jnp.abs(other).max()))
