"""Metrics of copy detection over predictions (query, reference, score), as in the official isc/metrics.py."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Candidate pairs, and whether they are in the ground truth.

    Attributes:
        query: int64 [N], the row of the query.
        reference: int64 [N], the row of the reference.
        score: float [N], higher for more similar images.
        is_match: bool [N], whether the pair is in the ground truth.
        positives: int64 [Q], the number of ground-truth pairs of each query; 0 for a query that copies nothing.
    """

    query: np.ndarray
    reference: np.ndarray
    score: np.ndarray
    is_match: np.ndarray
    positives: np.ndarray


@dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
        settings: codec, k, and unit, which says whether scores are minus squared distances of vectors of norm 1, so
            that the similarity is 1 + score / 2; for DISC also score_norm, candidates, and left_out, the number of
            pairs that do not count because they are the same image (see `search.same_images`).
        predictions: the candidates.
        pair_scores: float32 [P], the score of each ground-truth pair, whether or not it is a candidate.
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
    """Ranks all predictions of all queries; among equal scores, incorrect ones come first.

    Raises:
        ValueError: a pair is predicted twice.
    """
    pairs = np.sort(predictions.query * (predictions.reference.max(initial=0) + 1) + predictions.reference)
    if (pairs[1:] == pairs[:-1]).any():
        raise ValueError("a pair of query and reference is predicted more than once")
    # Sorting scores is ten times as fast as sorting indexes by two keys.
    best_first = np.sort(-predictions.score)
    correct, incorrect = (np.sort(-predictions.score[one]) for one in (predictions.is_match, ~predictions.is_match))
    is_match = np.zeros(len(best_first), bool)
    is_match[np.searchsorted(incorrect, correct, side="right") + np.arange(len(correct))] = True
    found = np.cumsum(is_match)
    ranks = np.arange(1, len(found) + 1)
    return Curve(found / ranks, found / max(predictions.positives.sum(), 1), -best_first)


def average_precision(curve: Curve) -> float:
    """Returns the micro average precision (uAP), the area under the curve by steps of recall."""
    return float((np.diff(curve.recall, prepend=0.0) * curve.precision).sum())


def recall_at_precision(curve: Curve, precision: float = 0.9) -> tuple[float, float | None]:
    """Returns the highest recall with at least this precision, and the score there as a threshold.

    Returns:
        (recall, threshold), or (0, None) if no threshold has the precision.
    """
    reached = np.flatnonzero(curve.precision >= precision)
    if not len(reached):
        return 0.0, None
    # The first of equal recalls, as the official argmax takes it.
    best = reached[np.argmax(curve.recall[reached])]
    return float(curve.recall[best]), float(curve.score[best])


def accuracy_at_1(predictions: Predictions) -> float:
    """Returns the share of ground-truth pairs whose reference has the query's best score; a tie counts as a miss."""
    return float(is_answered(predictions).sum() / predictions.positives.sum())


def is_answered(predictions: Predictions) -> np.ndarray:
    """Returns whether the best prediction of each query is correct and tied with no other: bool [Q]."""
    best = np.full(len(predictions.positives), -np.inf, predictions.score.dtype)
    np.maximum.at(best, predictions.query, predictions.score)
    is_best = predictions.score == best[predictions.query]
    alone = np.bincount(predictions.query[is_best], minlength=len(best)) == 1
    answered = np.zeros(len(best), bool)
    answered[predictions.query[is_best & predictions.is_match]] = True
    return answered & alone
