"""The metrics of queries drawn again are those of a set in which they are written out again."""

import numpy as np
import pytest
from helpers.predicted import predictions, triples, truths
from hypothesis import given
from hypothesis import strategies as st

from sscd_jax.evaluation.bootstrap import METRICS, draws, interval, resampled
from sscd_jax.evaluation.metrics import (
    Predictions,
    accuracy_at_1,
    average_precision,
    precision_recall,
    recall_at_precision,
)


def written_out(found: Predictions, times: np.ndarray) -> Predictions:
    """Every query as often as it was drawn, under a number of its own."""
    parts, positives = [], []
    for query, count in enumerate(times):
        mine = found.query == query
        for _ in range(count):
            parts.append(
                (np.full(mine.sum(), len(positives)), found.reference[mine], found.score[mine], found.is_match[mine])
            )
            positives.append(found.positives[query])
    return Predictions(*(np.concatenate(part) for part in zip(*parts, strict=True)), np.array(positives))


@given(triples, truths, st.integers(0, 99))
def test_each_sample_is_exact(found, truth, seed):
    original = predictions(found, truth)
    values = resampled(original, samples=4, seed=seed)
    for row, times in enumerate(draws(8, 4, seed)):
        sample = written_out(original, times)
        if not sample.positives.sum():
            assert all(np.isnan(values[name][row]) for name in METRICS)
            continue
        curve = precision_recall(sample)
        expected = average_precision(curve), accuracy_at_1(sample), recall_at_precision(curve)[0]
        assert [values[name][row] for name in METRICS] == pytest.approx(expected)


def test_the_interval_of_a_share_is_that_of_a_binomial():
    """Accuracy over queries that each have one pair is a share of independent trials."""
    rng = np.random.default_rng(0)
    right = rng.random(400) < 0.7
    found = Predictions(np.arange(400), np.zeros(400, int), rng.random(400), right, np.ones(400, int))
    low, high = interval(resampled(found, samples=2000)["accuracy_at_1"])
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / 400)
    assert (low, high) == pytest.approx((right.mean() - half, right.mean() + half), abs=0.006)
