"""The table of thresholds against counting."""

import numpy as np
import pytest
from helpers.predicted import predictions, triples, truths
from hypothesis import given

from sscd_jax.evaluation.thresholds import per_threshold


@given(triples, truths)
def test_counts(found, truth):
    original = predictions(found, truth)
    rows = per_threshold(original, steps=7)
    others = np.flatnonzero(original.positives == 0)
    assert len(rows) == 7
    assert rows[0]["threshold"] == original.score.max()
    right = original.score[original.is_match]
    assert rows[-1]["threshold"] == (right if len(right) else original.score).min()
    for row in rows:
        answers = original.score >= row["threshold"]
        assert row["answers"] == answers.sum()
        assert row["correct"] == (answers & original.is_match).sum()
        assert row["precision"] == pytest.approx((answers & original.is_match).sum() / answers.sum())
        assert row["recall"] == pytest.approx((answers & original.is_match).sum() / len(truth))
        alarmed = np.isin(others, original.query[answers])
        assert row["false_alarms"] == (pytest.approx(alarmed.mean()) if len(others) else None)
