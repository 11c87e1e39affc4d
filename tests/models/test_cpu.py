"""What is written differently for XLA:CPU equals XLA's own operations, and so do its gradients."""

import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.arrays import assert_same_with_gradients, normal
from jax import lax

from sscd_jax.models import cpu
from sscd_jax.models.cpu import channel_means, compute_once, conv2d, max_pool_3x3_stride_2, runtime_one, stem_conv2d

REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"


def test_it_was_measured_on_the_jaxlib_that_is_pinned():
    """Fails when the pin is raised, so that nothing stays that XLA:CPU no longer needs."""
    pinned = re.search(r"^jaxlib==(\S+)", REQUIREMENTS.read_text(), re.MULTILINE)[1]
    assert pinned == cpu.MEASURED_ON, (
        f"sscd_jax/models/cpu.py was last measured on jaxlib {cpu.MEASURED_ON}, and jaxlib {pinned} is pinned now: run "
        "`python scripts/benchmarks/layers.py` on it, remove from cpu.py what is no longer faster than XLA's own (a "
        "ratio of about 1), and set MEASURED_ON"
    )


# Maps of 1 and 2 pixels, and strides, take a path of their own on CPUs.
@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 2), (1, 2), (1, 7), (9, 8)])
@pytest.mark.parametrize(("k", "stride", "groups"), [(1, 1, 1), (1, 2, 1), (3, 1, 1), (3, 2, 1), (7, 2, 1), (3, 2, 4)])
def test_convolution(shape, k, stride, groups):
    x, kernel = normal(3, *shape, 8), normal(k, k, 8 // groups, 12, seed=1)

    def xla(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            [(k // 2, k // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision=lax.Precision.HIGHEST,
        )

    assert_same_with_gradients(lambda x, kernel: conv2d(x, kernel, stride, groups), xla, x, kernel)


# In a loop XLA:CPU reorders no convolution, and runs one that is not in this order a hundred times slower.
@pytest.mark.parametrize(("k", "stride"), [(3, 1), (3, 2), (7, 2)])
def test_gradients_of_a_convolution_in_a_loop_have_the_fast_order_of_axes(k, stride):
    kernel = normal(k, k, 8, 12)

    def gradients(x):
        return jax.grad(lambda x, kernel: jnp.square(conv2d(x, kernel, stride)).sum(), (0, 1))(x, kernel)

    program = jax.jit(lambda xs: lax.map(gradients, xs)).lower(normal(2, 3, 9, 8, 8)).compile().as_text()
    assert set(re.findall(r"dim_labels=(\S+?),", program)) == {"b01f_01io->b01f"}


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (2, 5), (9, 8), (15, 32), (20, 3)])
def test_stem_convolution(shape):
    x, kernel = normal(2, *shape, 3), normal(7, 7, 3, 12, seed=1)
    np.testing.assert_allclose(jax.jit(stem_conv2d)(x, kernel), conv2d(x, kernel, 2), rtol=0, atol=1e-4)


@pytest.mark.parametrize("shape", [(1, 5), (2, 2), (9, 8)])
def test_max_pool(shape):
    def windows(x):
        return nn.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))

    assert_same_with_gradients(max_pool_3x3_stride_2, windows, normal(2, *shape, 3), tolerance=1e-6)


def test_means_of_products():
    x, y = normal(3, 6, 5, 4), normal(3, 6, 5, 4, seed=1)
    for factors in ((x,), (x, y)):
        expected = np.prod([factor.astype(np.float64) for factor in factors], 0).mean((0, 1, 2))
        np.testing.assert_allclose(jax.jit(channel_means)(*factors), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_compute_once_changes_neither_values_nor_gradients(dtype):
    x = jnp.asarray(normal(4, 5), dtype)

    @jax.jit
    def run(x, seed):
        one = runtime_one(seed)
        return one, compute_once(x, one), jax.grad(lambda x: compute_once(x, one).sum())(x)

    for seed in (normal(3), np.zeros(2, np.float32), np.array([-np.inf], np.float32)):
        one, same, gradient = run(x, seed)
        assert one == 1
        assert same.dtype == gradient.dtype == dtype
        assert (same == x).all()
        assert (gradient == 1).all()
