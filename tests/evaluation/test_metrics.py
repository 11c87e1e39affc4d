"""The metrics against their definitions, written out without numpy's help."""

import pytest
from helpers.predicted import predictions, triples, truths
from hypothesis import given

from sscd_jax.evaluation.metrics import (
    accuracy_at_1,
    average_precision,
    precision_recall,
    recall_at_precision,
)


@given(triples, truths)
def test_curve(found, truth):
    ranking = sorted(found, key=lambda t: (-t[2], t[:2] in truth))
    right, area, best = 0, 0.0, 0.0
    for rank, (query, reference, _) in enumerate(ranking, 1):
        if (query, reference) in truth:
            right += 1
            area += right / rank / len(truth)
        if right / rank >= 0.9:
            best = max(best, right / len(truth))
    curve = precision_recall(predictions(found, truth))
    assert average_precision(curve) == pytest.approx(area)
    recall, threshold = recall_at_precision(curve)
    assert recall == pytest.approx(best)
    if threshold is None:
        assert best == 0
    else:
        at_least = [t for t in ranking if t[2] > threshold]
        assert sum(t[:2] in truth for t in at_least) / len(truth) <= recall


@given(triples, truths)
def test_accuracy_at_1(found, truth):
    right = 0
    for query, reference in truth:
        mine = [score for q, r, score in found if (q, r) == (query, reference)]
        if mine:
            right += sum(score >= mine[0] for q, _, score in found if q == query) == 1
    assert accuracy_at_1(predictions(found, truth)) == pytest.approx(right / len(truth))


def test_a_pair_twice_is_refused():
    with pytest.raises(ValueError, match="more than once"):
        precision_recall(predictions([(0, 1, 0.5), (0, 1, 0.4)], {(0, 1)}))
