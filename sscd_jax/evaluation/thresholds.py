"""Precision, recall and false alarms at each threshold of the score."""

from typing import Any

import numpy as np

from sscd_jax.evaluation.metrics import Predictions


def per_threshold(predictions: Predictions, *, steps: int = 100) -> list[dict[str, Any]]:
    """Returns rows of `at_thresholds`, for evenly spaced thresholds from the best score to the worst correct one."""
    correct = predictions.score[predictions.is_match]
    lowest = correct.min() if len(correct) else predictions.score.min()
    return at_thresholds(predictions, np.linspace(predictions.score.max(), lowest, steps))


def at_thresholds(predictions: Predictions, thresholds: np.ndarray) -> list[dict[str, Any]]:
    """Measures predictions at thresholds of the score.

    Args:
        predictions: the predictions of all queries.
        thresholds: float [T].

    Returns:
        T rows with threshold; answers, the number of predictions with at least that score; correct, the number of
        these in the ground truth; precision and recall; and false_alarms: of the queries that copy nothing,
        the share that has an answer, or None if all queries copy something.
    """
    correct = predictions.score[predictions.is_match]
    answers = _at_least(predictions.score, thresholds)
    found = _at_least(correct, thresholds)
    copies_nothing = predictions.positives == 0
    best = np.full(len(copies_nothing), -np.inf)
    np.maximum.at(best, predictions.query, predictions.score)
    alarms = _at_least(best[copies_nothing], thresholds)
    positives, others = predictions.positives.sum(), copies_nothing.sum()
    return [
        {
            "threshold": float(threshold),
            "answers": int(answers[i]),
            "correct": int(found[i]),
            "precision": float(found[i] / answers[i]) if answers[i] else 1.0,
            "recall": float(found[i] / positives),
            "false_alarms": float(alarms[i] / others) if others else None,
        }
        for i, threshold in enumerate(thresholds)
    ]


def _at_least(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Counts the scores that reach each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds)
