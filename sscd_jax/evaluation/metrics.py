"""Metrics of copy detection, over predictions (query, reference, score), as the official isc/metrics.py has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Candidate pairs and the truth about them.

    Attributes:
        query: int64 [N], row of the query.
        reference: int64 [N], row of the reference.
        score: float [N], more is more alike.
        is_match: bool [N], whether the pair is in the ground truth.
        positives: int64 [Q], pairs of each query in the ground truth, found or not; 0 for one that copies nothing.
    """

    query: np.ndarray
    reference: np.ndarray
    score: np.ndarray
    is_match: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class Found:
    """What a search gave.

    Attributes:
        settings: codec, k, unit (whether scores are minus squared distances of vectors of norm 1, so that 1 + score / 2
            is the similarity), and of DISC score_norm and candidates.
        predictions: the candidates.
        pair_scores: float32 [P], the score of each pair of the ground truth, a candidate or not; each pair once.
    """

    settings: Mapping[str, Any]
    predictions: Predictions
    pair_scores: np.ndarray


@dataclass(frozen=True)
class Curve:
    """Precision, recall and score, float [N] each, after each prediction, best score first."""

    precision: np.ndarray
    recall: np.ndarray
    score: np.ndarray


def precision_recall(predictions: Predictions) -> Curve:
    """All predictions of all queries as one ranking; of equal scores, wrong ones come first.

    Raises:
        ValueError: a pair is predicted twice.
    """
    pairs = np.sort(predictions.query * (predictions.reference.max(initial=0) + 1) + predictions.reference)
    if (pairs[1:] == pairs[:-1]).any():
        raise ValueError("a pair of query and reference is predicted more than once")
    # Sorting numbers is ten times as fast as sorting indexes by two keys.
    best_first = np.sort(-predictions.score)
    right, wrong = (np.sort(-predictions.score[one]) for one in (predictions.is_match, ~predictions.is_match))
    is_match = np.zeros(len(best_first), bool)
    is_match[np.searchsorted(wrong, right, side="right") + np.arange(len(right))] = True
    found = np.cumsum(is_match)
    ranks = np.arange(1, len(found) + 1)
    return Curve(found / ranks, found / max(predictions.positives.sum(), 1), -best_first)


def average_precision(curve: Curve) -> float:
    """Micro average precision, uAP: the area under the curve by steps of recall."""
    return float((np.diff(curve.recall, prepend=0.0) * curve.precision).sum())


def recall_at_precision(curve: Curve, precision: float = 0.9) -> tuple[float, float | None]:
    """The highest recall at such a precision or better, and its score as a threshold; (0, None) if there is none."""
    reached = np.flatnonzero(curve.precision >= precision)
    if not len(reached):
        return 0.0, None
    # The first of equals, as the official argmax.
    best = reached[np.argmax(curve.recall[reached])]
    return float(curve.recall[best]), float(curve.score[best])


def accuracy_at_1(predictions: Predictions) -> float:
    """The share of ground-truth pairs whose reference alone has the query's best score; a tie counts as a miss."""
    return float(is_answered(predictions).sum() / predictions.positives.sum())


def is_answered(predictions: Predictions) -> np.ndarray:
    """Whether a query's best prediction is right, and alone with its score: bool [Q]."""
    best = np.full(len(predictions.positives), -np.inf, predictions.score.dtype)
    np.maximum.at(best, predictions.query, predictions.score)
    is_best = predictions.score == best[predictions.query]
    alone = np.bincount(predictions.query[is_best], minlength=len(best)) == 1
    answered = np.zeros(len(best), bool)
    answered[predictions.query[is_best & predictions.is_match]] = True
    return answered & alone
