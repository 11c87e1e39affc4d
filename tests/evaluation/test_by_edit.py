"""Metrics by edit, against the metrics of all, and by hand."""

import numpy as np
import pytest
from helpers.predicted import predictions, triples, truths
from hypothesis import given
from scipy.stats import beta

from sscd_jax.datasets.annotations import Edited
from sscd_jax.evaluation.bootstrap import interval, resampled, sample_of
from sscd_jax.evaluation.by_edit import by_edit
from sscd_jax.evaluation.metrics import (
    Predictions,
    accuracy_at_1,
    average_precision,
    is_answered,
    precision_recall,
    recall_at_precision,
)


@given(triples, truths)
def test_shares_sum_to_the_metrics(found, truth):
    original = predictions(found, truth)
    curve = precision_recall(original)
    expected = {
        "uAP": average_precision(curve),
        "accuracy_at_1": accuracy_at_1(original),
        "recall_at_p90": recall_at_precision(curve)[0],
    }
    shares = sample_of(original, np.ones(8, int)).shares(is_answered(original))
    sums = {name: one.sum() / original.positives.sum() for name, one in shares.items()}
    assert sums == pytest.approx(expected)


# Four copies and one query that copies nothing, which has the second best score.
FOUND = Predictions(
    query=np.array([0, 4, 1, 2, 3]),
    reference=np.array([0, 3, 1, 2, 0]),
    score=np.array([0.9, 0.8, 0.7, 0.6, 0.5]),
    is_match=np.array([True, False, True, True, False]),
    positives=np.array([1, 1, 1, 1, 0]),
)
EDITS = {
    "a": Edited(("crop",), "weak"),
    "b": Edited(("crop", "text"), "strong"),
    "c": Edited(("text",), "weak"),
    "d": Edited(("blur", "crop"), "strong"),
}


def test_groups_by_hand():
    rows = {(r["kind"], r["number"], r["strength"]): r for r in by_edit(FOUND, [*"abcde"], EDITS, bootstrap=200)}
    assert rows[None, None, None]["uAP"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)
    assert rows["crop", None, None]["uAP"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert rows["crop", 1, None]["uAP"] == 1
    assert rows["crop", 2, None]["uAP"] == pytest.approx((2 / 3 + 0) / 2)
    assert rows["text", None, "weak"]["uAP"] == pytest.approx(3 / 4)
    assert rows["blur", None, None]["accuracy_at_1"] == 0
    assert rows[None, 2, None]["accuracy_at_1"] == rows[None, None, "strong"]["accuracy_at_1"] == 1 / 2
    assert rows["crop", None, None]["recall_at_p90"] == pytest.approx(1 / 3)  # only the first is above the threshold
    assert [rows[None, None, one]["copies"] for one in ("weak", "strong")] == [2, 2]
    assert ("blur", 1, None) not in rows
    for row in rows.values():
        for name, (low, high) in row["intervals"].items():
            assert low <= row[name] <= high


def test_the_interval_is_that_of_a_binomial():
    count = 400
    rng = np.random.default_rng(0)
    right = rng.random(count) < 0.7
    found = Predictions(np.arange(count), np.zeros(count, int), rng.random(count), right, np.ones(count, int))
    names = [str(i) for i in range(count)]
    row = by_edit(found, names, dict.fromkeys(names, Edited(("crop",))), bootstrap=2000)[0]
    half = 1.96 * np.sqrt(right.mean() * (1 - right.mean()) / count)
    assert row["intervals"]["accuracy_at_1"] == pytest.approx((right.mean() - half, right.mean() + half), abs=0.006)


def test_the_interval_of_all_copies_is_that_of_the_metric():
    """Each set has its own ranking, threshold and queries that copy nothing."""
    rng = np.random.default_rng(0)
    count, others = 120, 60
    query = np.arange(count + others)
    is_match = (rng.random(count + others) < 0.6) & (query < count)
    positives = (query < count).astype(int)
    found = Predictions(query, query, rng.random(count + others) + 0.3 * is_match, is_match, positives)
    names = [f"{i:03d}" for i in query]
    kinds = ("crop", "text")
    rows = by_edit(found, names, {name: Edited((kinds[i % 2],)) for i, name in enumerate(names)}, bootstrap=300)
    expected = {name: interval(one) for name, one in resampled(found, samples=300).items()}
    for name, one in rows[0]["intervals"].items():
        assert one == pytest.approx(expected[name])
    half = next(row for row in rows if row["kind"] == "crop")
    for name, (low, high) in half["intervals"].items():
        assert high - low > expected[name][1] - expected[name][0], "of half as many copies"


def test_all_of_a_few_are_not_all():
    found = Predictions(np.arange(3), np.arange(3), np.array([0.9, 0.8, 0.7]), np.ones(3, bool), np.ones(3, int))
    row = by_edit(found, [*"abc"], dict.fromkeys("abc", Edited(("crop",))), bootstrap=50)[0]
    for low, high in row["intervals"].values():
        assert (low, high) == (pytest.approx(beta.ppf(0.05, 3.5, 0.5), abs=0.01), 1.0), "Jeffreys' interval"


def test_queries_without_edits_are_named():
    with pytest.raises(ValueError, match="1 queries are not in the file of edits, such as d"):
        by_edit(FOUND, [*"abcde"], {name: edits for name, edits in EDITS.items() if name != "d"})
