"""LARS and the schedule against values that the official code's pl_bolts computed."""

from pathlib import Path

import jax
import numpy as np
import optax
import pytest

from sscd_jax.optimizer import lars, warmup_cosine

GOLDEN = np.load(Path(__file__).parent / "golden" / "loss_and_optimizer.npz")


def parameters(step: int) -> list[np.ndarray]:
    return [GOLDEN[f"lars/param{i}/step{step}"] for i in range(3)]


def test_lars():
    rates = jax.numpy.array(GOLDEN["lars/lr"])
    options = ("weight_decay", "momentum", "trust_coefficient", "eps")
    optimizer = lars(lambda step: rates[step], **{o: float(GOLDEN[f"lars/{o}"]) for o in options})
    params = parameters(0)
    state = optimizer.init(params)
    for step in range(len(rates)):
        gradients = [GOLDEN[f"lars/param{i}/grad{step}"] for i in range(3)]
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        for ours, official in zip(params, parameters(step + 1), strict=True):
            np.testing.assert_allclose(ours, official, rtol=1e-6, atol=1e-6)


def test_lars_defaults_are_the_recipe():
    params, gradients = [np.array([3.0, 4.0])], [np.array([0.6, 0.8])]
    updates, _ = lars(2.0).update(gradients, lars(2.0).init(params), params)
    ratio = 1e-3 * 5 / (1 + 1e-6 * 5 + 1e-8)
    np.testing.assert_allclose(updates[0], -2 * ratio * (gradients[0] + 1e-6 * params[0]), rtol=1e-6)


def test_excluded_parameters_take_the_plain_gradient():
    params, gradients = [np.ones((2, 2)), np.ones(2)], [np.ones((2, 2)), np.ones(2)]
    optimizer = lars(1.0, exclude_bias_and_norm=True)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates[1], -gradients[1])
    np.testing.assert_allclose(updates[0], -1e-3 * np.ones((2, 2)), rtol=1e-5)


def test_schedule():
    base = float(GOLDEN["schedule/base_lr"])
    warmup, total = int(GOLDEN["schedule/warmup_steps"]), int(GOLDEN["schedule/total_steps"])
    rate = warmup_cosine(base, warmup_steps=warmup, total_steps=total)
    rates = jax.vmap(rate)(np.arange(total))
    np.testing.assert_allclose(rates, GOLDEN["schedule/lr"], rtol=1e-6, atol=1e-6)
    assert float(rate(total)) == 0.0


@pytest.mark.parametrize(("warmup", "total"), [(10, 10), (11, 10), (-1, 10)])
def test_schedule_refuses_a_warmup_that_does_not_fit(warmup, total):
    with pytest.raises(ValueError, match="does not fit"):
        warmup_cosine(1.0, warmup_steps=warmup, total_steps=total)


def test_schedules_share_a_compiled_function():
    traced = []

    @jax.jit
    def rate(schedule, step):
        traced.append(step)
        return schedule(step)

    for schedule in (
        warmup_cosine(0.5, warmup_steps=2, total_steps=9),
        warmup_cosine(3.0, warmup_steps=0, total_steps=70),
    ):
        for step in range(9):
            assert rate(schedule, step) == pytest.approx(float(schedule(step)), rel=1e-6)
    assert len(traced) == 1
