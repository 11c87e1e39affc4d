"""How sure a metric is: the same metric over queries drawn again with replacement (Efron's bootstrap)."""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from sscd_jax.evaluation.metrics import Predictions, is_answered

METRICS = ("uAP", "accuracy_at_1", "recall_at_p90")


def resampled(predictions: Predictions, *, samples: int = 1000, seed: int = 0) -> dict[str, np.ndarray]:
    """Metrics of sets of as many queries, drawn from the queries with replacement: float64 [samples] each.

    Exact: a query that is drawn twice is there twice, with all its predictions and its pairs of the ground truth. Two
    runs over the same queries are drawn alike by the same seed, so that their differences are paired.

    Args:
        predictions: of all queries, also of those that copy nothing.
        samples: how many sets.
        seed: of the draws.

    Returns:
        Values by the names of METRICS; NaN for a set in which no query copies anything.
    """
    order = np.lexsort((predictions.is_match, -predictions.score))
    query, is_match = predictions.query[order], predictions.is_match[order]
    right = np.flatnonzero(is_match)
    of_right = query[right]
    answered = is_answered(predictions)
    values = {name: np.full(samples, np.nan) for name in METRICS}
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 4 * len(query) + 1))])
    for row, times in enumerate(_draws(len(predictions.positives), samples, seed)):
        positives = times @ predictions.positives
        if not positives:
            continue
        seen = np.cumsum(times[query])  # predictions down to each, and right ones among them, with repetitions
        copies = times[of_right]
        before, found = seen[right] - copies, np.cumsum(copies)
        if seen[-1] >= len(harmonic):
            harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 2 * seen[-1] + 1))])
        # Precision after each of the copies of a right prediction, (found + j) / (before + j), summed over j.
        wrong = before - (found - copies)
        area = copies - wrong * (harmonic[before + copies] - harmonic[before])
        values["uAP"][row] = area.sum() / positives
        values["accuracy_at_1"][row] = times @ answered / positives
        precise = found[found >= 0.9 * (before + copies)]
        values["recall_at_p90"][row] = precise.max(initial=0) / positives
    return values


def interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float]:
    """Between which values the middle share of them lies, less those that are NaN."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def _draws(queries: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each query is drawn, int64 [queries], for each set."""
    rng = np.random.default_rng(seed)
    for _ in tqdm(range(samples), desc="bootstrap", unit="sample", dynamic_ncols=True, leave=False):
        yield np.bincount(rng.integers(0, queries, queries), minlength=queries)
