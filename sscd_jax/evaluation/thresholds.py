"""What answers are worth at each threshold of the score."""

from typing import Any

import numpy as np

from sscd_jax.evaluation.metrics import Predictions


def per_threshold(predictions: Predictions, *, steps: int = 100) -> list[dict[str, Any]]:
    """A row of `at_thresholds` for each of `steps`, evenly from the best score down to the worst that is right."""
    right = predictions.score[predictions.is_match]
    lowest = right.min() if len(right) else predictions.score.min()
    return at_thresholds(predictions, np.linspace(predictions.score.max(), lowest, steps))


def at_thresholds(predictions: Predictions, thresholds: np.ndarray) -> list[dict[str, Any]]:
    """A row for each threshold.

    Returns:
        Rows with threshold; answers (predictions of that score or better), right (those in the ground truth),
        precision, recall; and false_alarms, the share of the queries that copy nothing and have an answer (None if
        all copy something).
    """
    right = predictions.score[predictions.is_match]
    answers = _at_least(predictions.score, thresholds)
    found = _at_least(right, thresholds)
    copies_nothing = predictions.positives == 0
    best = np.full(len(copies_nothing), -np.inf)
    np.maximum.at(best, predictions.query, predictions.score)
    alarms = _at_least(best[copies_nothing], thresholds)
    positives, others = predictions.positives.sum(), copies_nothing.sum()
    return [
        {
            "threshold": float(threshold),
            "answers": int(answers[i]),
            "right": int(found[i]),
            "precision": float(found[i] / answers[i]) if answers[i] else 1.0,
            "recall": float(found[i] / positives),
            "false_alarms": float(alarms[i] / others) if others else None,
        }
        for i, threshold in enumerate(thresholds)
    ]


def _at_least(scores: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many scores reach each threshold."""
    return len(scores) - np.searchsorted(np.sort(scores), thresholds)
