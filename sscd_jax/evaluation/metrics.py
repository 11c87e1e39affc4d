"""Metrics of copy detection, over predictions (query, reference, score), as the official isc/metrics.py has them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Predictions:
    """Candidate pairs and the truth about them.

    Attributes:
        query: int64 [N], row of the query.
        reference: int64 [N], row of the reference.
        score: float [N], more is more alike.
        is_match: bool [N], whether the pair is in the ground truth.
        positives: number of pairs in the ground truth, found or not.
    """

    query: np.ndarray
    reference: np.ndarray
    score: np.ndarray
    is_match: np.ndarray
    positives: int


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
    pairs = predictions.query * (predictions.reference.max(initial=0) + 1) + predictions.reference
    if len(np.unique(pairs)) != len(pairs):
        raise ValueError("a pair of query and reference is predicted more than once")
    order = np.lexsort((predictions.is_match, -predictions.score))
    found = np.cumsum(predictions.is_match[order])
    ranks = np.arange(1, len(order) + 1)
    return Curve(found / ranks, found / predictions.positives, predictions.score[order])


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
    order = np.lexsort((-predictions.score, predictions.query))
    query, score = predictions.query[order], predictions.score[order]
    first = np.append(True, query[1:] != query[:-1])[: len(query)]
    tied = np.append((query[1:] == query[:-1]) & (score[1:] == score[:-1]), False)[: len(query)]
    return float((first & ~tied & predictions.is_match[order]).sum() / predictions.positives)
