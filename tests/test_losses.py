"""The loss against values that the official code computed, and against its definition written out."""

from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.losses import match_matrix, sscd_loss

GOLDEN = np.load(Path(__file__).parent / "golden" / "loss_and_optimizer.npz")
CASES = ["plain", "hard", "lam10_t01", "duplicate", "mixup"]
METRICS = [
    "InfoNCE",
    "entropy",
    "positive_sim",
    "negative_sim",
    "nearest_negative_sim",
    "center_l2_norm",
]


def golden_ids(case: str) -> np.ndarray:
    """Labels as ids; the official mixup labels are distributions over the sources of the batch."""
    labels = GOLDEN[f"{case}/labels"]
    if labels.ndim == 1:
        return labels.astype(np.int32)
    sources = [np.flatnonzero(row) for row in labels]
    assert all(1 <= len(row) <= 2 for row in sources)
    return np.array([[row[0], row[-1]] for row in sources], np.int32)


def golden_loss(case: str, embeddings: np.ndarray, **blocks: int):
    return sscd_loss(
        embeddings,
        golden_ids(case),
        temperature=float(GOLDEN[f"{case}/temperature"]),
        entropy_weight=float(GOLDEN[f"{case}/entropy_weight"]),
        **blocks,
    )


@pytest.mark.parametrize("case", CASES)
def test_loss_and_metrics(case):
    loss, metrics = jax.jit(lambda z: golden_loss(case, z))(GOLDEN[f"{case}/embeddings"])
    np.testing.assert_allclose(loss, GOLDEN[f"{case}/loss"], rtol=1e-5)
    assert set(metrics) == set(METRICS)
    for name in METRICS:
        np.testing.assert_allclose(metrics[name], GOLDEN[f"{case}/{name}"], rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("blocks", "devices"), [(2, 1), (2, 2), (4, 2)])
def test_by_blocks_of_rows_it_is_the_same(case, blocks, devices):
    embeddings = GOLDEN[f"{case}/embeddings"]
    whole, parts = (
        jax.jit(jax.value_and_grad(lambda z, given=given: golden_loss(case, z, **given), has_aux=True))(embeddings)
        for given in ({}, {"blocks": blocks, "devices": devices})
    )
    for (loss, metrics), gradient in (whole, parts):
        np.testing.assert_allclose(loss, GOLDEN[f"{case}/loss"], rtol=1e-5)
        for name in METRICS:
            np.testing.assert_allclose(metrics[name], GOLDEN[f"{case}/{name}"], rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(gradient, whole[1], atol=1e-5 * np.abs(whole[1]).max())


# In `duplicate` two nearest negatives tie: any subgradient is right.
@pytest.mark.parametrize("case", [case for case in CASES if case != "duplicate"])
def test_gradient(case):
    gradient = jax.grad(lambda z: golden_loss(case, z)[0])(GOLDEN[f"{case}/embeddings"])
    expected = GOLDEN[f"{case}/grad"]
    assert np.linalg.norm(gradient - expected) <= 1e-5 * np.linalg.norm(expected)
    np.testing.assert_allclose(gradient, expected, atol=1e-5 * np.abs(expected).max())


def loss_by_definition(z, ids, temperature, weight):
    """DESIGN section 4, row by row in float64."""
    z, sources = z.astype(np.float64), [set(row) for row in ids]
    similarity = z @ z.T
    contrastive, nearest = [], []
    for i, mine in enumerate(sources):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if mine & sources[j]]
        negatives = [j for j in others if not mine & sources[j]]
        rest = np.exp(similarity[i, negatives] / temperature).sum()
        e = np.exp(similarity[i, positives] / temperature)
        contrastive.append(np.mean(-np.log(e / (e + rest))) if positives else 0)
        nearest.append(max(similarity[i, negatives], default=-1))
    koleo = -np.mean(np.log(np.sqrt(np.maximum(2 - 2 * np.array(nearest), 1e-6))))
    return np.mean(contrastive) + weight * koleo


any_loss = jax.jit(jax.value_and_grad(lambda z, ids, t, w: sscd_loss(z, ids, temperature=t, entropy_weight=w)[0]))


@settings(max_examples=50)
@given(
    st.sampled_from([2, 5, 12]),
    st.integers(1, 6),
    st.floats(0.04, 1),
    st.floats(0, 50),
    st.integers(0, 2**31),
)
def test_any_batch_equals_the_definition(views, sources, temperature, weight, seed):
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, sources, (views, 2)).astype(np.int32)
    z = rng.normal(size=(views, 5))
    z = (z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float32)
    loss, gradient = any_loss(z, ids, temperature, weight)
    expected = loss_by_definition(z, ids, temperature, weight)
    np.testing.assert_allclose(loss, expected, rtol=1e-4, atol=1e-4)
    assert np.isfinite(gradient).all()


def test_one_id_and_the_same_id_twice_are_the_same():
    ids = np.array([3, 1, 3, 2], np.int32)
    np.testing.assert_array_equal(match_matrix(ids), match_matrix(np.stack([ids, ids], 1)))
    np.testing.assert_array_equal(match_matrix(ids), ids[:, None] == ids)


@pytest.mark.parametrize(("batch", "nearest"), [(256, 1.32), (16384, 1.28)])
def test_nearest_distance_at_random(batch, nearest):
    """Of 512 points on the sphere to all views of a batch, as docs/training.md has it."""
    points = np.random.default_rng(0).normal(size=(2 * batch, 512)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    similarity = points[:512] @ points.T
    np.fill_diagonal(similarity, -1)
    assert np.sqrt(2 - 2 * similarity.max(1)).mean() == pytest.approx(nearest, abs=0.005)


def test_low_temperature_does_not_overflow():
    z = np.eye(4, dtype=np.float32)
    loss, _ = sscd_loss(z, np.array([0, 0, 1, 1]), temperature=0.001, entropy_weight=0.0)
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-5)
