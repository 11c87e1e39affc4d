"""Folding changes no descriptor; what undoes it gives back a network that can be trained."""

import jax
import numpy as np
import pytest
from helpers.networks import NARROW, assert_same, seeded
from PIL import Image

from sscd_jax.models import normalize
from sscd_jax.models.folding import fold, lacks_statistics, restore_statistics, unfold


@pytest.fixture(scope="module")
def normalized(images) -> jax.Array:
    return normalize(np.stack([np.asarray(Image.open(path)) for path in sorted(images.iterdir())[:8]]))


@pytest.mark.slow
@pytest.mark.parametrize("backbone", NARROW)
def test_folded_and_unfolded_again_are_equal_at_inference(backbone, normalized):
    model, variables = seeded(backbone)
    expected = jax.jit(model.apply)(variables, normalized)
    folded_model, folded_variables = fold(model, variables)
    assert set(folded_variables) == {"params"}
    np.testing.assert_allclose(jax.jit(folded_model.apply)(folded_variables, normalized), expected, atol=1e-5)
    again, unfolded = unfold(folded_model, folded_variables)
    assert again == model
    np.testing.assert_allclose(jax.jit(model.apply)(unfolded, normalized), expected, atol=1e-5)
    assert_same(fold(model, unfolded)[1], folded_variables)
    assert lacks_statistics(unfolded)
    assert not lacks_statistics(variables)


@pytest.mark.slow
def test_half_precision_is_folded_too(normalized):
    model, variables = seeded("resnet18", dtype=jax.numpy.bfloat16)
    folded_model, folded_variables = fold(model, variables)
    one, other = jax.jit(model.apply)(variables, normalized), jax.jit(folded_model.apply)(folded_variables, normalized)
    assert one.dtype == other.dtype == jax.numpy.float32
    assert float((one * other).sum(1).min()) > 0.999


@pytest.mark.slow
@pytest.mark.parametrize("backbone", NARROW)
def test_restored_statistics_change_nothing_at_inference_and_make_training_agree_with_it(backbone, normalized):
    model, variables = unfold(*fold(*seeded(backbone)))
    expected = jax.jit(model.apply)(variables, normalized)
    restored = restore_statistics(model, variables, normalized)
    assert not lacks_statistics(restored)
    np.testing.assert_allclose(jax.jit(model.apply)(restored, normalized), expected, atol=1e-5)

    @jax.jit
    def training(variables):
        return model.apply(variables, normalized, train=True, mutable=["batch_stats"])[0]

    assert float((training(restored) * expected).sum(1).min()) > 0.999
    assert float((training(variables) * expected).sum(1).min()) < 0.9, "as it was, training saw another network"
