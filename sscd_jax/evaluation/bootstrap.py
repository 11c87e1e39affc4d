"""Confidence intervals of metrics, by Efron's bootstrap: the metric over queries that are drawn with replacement."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import digamma
from scipy.stats import beta
from tqdm import tqdm

from sscd_jax.evaluation.metrics import Predictions, is_answered

METRICS = ("uAP", "accuracy_at_1", "recall_at_p90")
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Sample:
    """A set of queries drawn with replacement, and the ranking of its predictions.

    Among equal scores, incorrect predictions rank first. The arrays of length N describe the correct predictions, best
    score first; a prediction is in the ranking as often as its query was drawn.

    Attributes:
        times: int64 [Q], how often each query was drawn.
        copies: int64 [N], how often each correct prediction is in the ranking.
        before: int64 [N], the number of predictions ahead of the first of these.
        found: int64 [N], the number of correct predictions up to the last of these.
        query: int64 [N], the row of its query.
    """

    times: np.ndarray
    copies: np.ndarray
    before: np.ndarray
    found: np.ndarray
    query: np.ndarray

    def shares(self, answered: np.ndarray) -> dict[str, np.ndarray]:
        """Splits METRICS into the contributions of the queries.

        A query contributes to uAP the precisions at its correct predictions, to accuracy_at_1 whether it is answered,
        and to recall_at_p90 the number of its correct predictions above the threshold.

        Args:
            answered: bool [Q], whether the best prediction of the query is correct.

        Returns:
            float64 [Q] for each metric. Their sum over the number of ground-truth pairs drawn is the metric.
        """
        count = len(self.times)
        reached = self.reached(0.9)
        above = self.copies * (np.arange(len(self.copies)) <= (reached if reached is not None else -1))
        return {
            "uAP": np.bincount(self.query, self.copies - self.incorrect_inverse_ranks(), count),
            "accuracy_at_1": self.times * answered,
            "recall_at_p90": np.bincount(self.query, above, count),
        }

    def reached(self, precision: float) -> int | None:
        """Returns the index of the last correct prediction with at least this precision, or None if there is none."""
        precisions = self.found / np.maximum(self.before + self.copies, 1)
        there = np.flatnonzero((self.copies > 0) & (precisions >= precision))
        return int(there[-1]) if len(there) else None

    def incorrect_inverse_ranks(self, shift: int = 0) -> np.ndarray:
        """Returns, for each correct prediction, (incorrect predictions ahead) / (rank - shift): float64 [N].

        Summed over its copies, which have the ranks before + 1 to before + copies.
        """
        incorrect = self.before - (self.found - self.copies)
        first = np.maximum(self.before - shift, 0)  # 0 where nothing is ahead, and incorrect is 0
        # The sum of 1/n for n from first + 1 to first + copies is a difference of harmonic numbers.
        return incorrect * (digamma(first + self.copies + 1) - digamma(first + 1))


def samples_of(predictions: Predictions, count: int, seed: int = 0) -> Iterator[Sample]:
    """Draws sets of queries with replacement, each with as many queries as there are.

    A query that is drawn twice is in the set twice, with all its predictions and its pairs of the ground truth. The
    same seed draws the same rows of queries.

    Args:
        predictions: the predictions of all queries, including those that copy nothing.
        count: the number of sets.
        seed: random seed of the draws.
    """
    order = np.lexsort((predictions.is_match, -predictions.score))
    query, correct = predictions.query[order], np.flatnonzero(predictions.is_match[order])
    for times in draws(len(predictions.positives), count, seed):
        yield _sample(query, correct, times)


def sample_of(predictions: Predictions, times: np.ndarray) -> Sample:
    """Returns the set that contains each query as often as `times` says, int64 [Q]."""
    order = np.lexsort((predictions.is_match, -predictions.score))
    return _sample(predictions.query[order], np.flatnonzero(predictions.is_match[order]), times)


def _sample(query: np.ndarray, correct: np.ndarray, times: np.ndarray) -> Sample:
    """Resamples one ranking, given each prediction's query and the ranks of the correct ones."""
    seen = np.cumsum(times[query])  # the number of predictions down to each one, with repetitions
    copies = times[query[correct]]
    return Sample(times, copies, seen[correct] - copies, np.cumsum(copies), query[correct])


def resampled(
    predictions: Predictions, *, samples: int = 1000, seed: int = 0, precisions: Sequence[float] = ()
) -> dict[str, np.ndarray]:
    """Measures sets of queries that are drawn with replacement, each with as many queries as there are.

    The same seed draws the same queries for two evaluations of them, so that their differences are paired.

    Args:
        predictions: the predictions of all queries, including those that copy nothing.
        samples: the number of sets.
        seed: random seed of the draws.
        precisions: the precisions for which the threshold and the recall are measured as well.

    Returns:
        float64 [samples] for each of METRICS, and for "threshold@P" and "recall@P" of each precision P. A value is NaN
        for a set in which no query copies anything, and a threshold also where no prediction reaches the precision.
    """
    answered = is_answered(predictions)
    scores = -np.sort(-predictions.score[predictions.is_match])
    more = [f"{name}@{precision:g}" for precision in precisions for name in ("threshold", "recall")]
    values = {name: np.full(samples, np.nan) for name in (*METRICS, *more)}
    for row, sample in enumerate(samples_of(predictions, samples, seed)):
        positives = sample.times @ predictions.positives
        if not positives:
            continue
        for name, share in sample.shares(answered).items():
            values[name][row] = share.sum() / positives
        for wanted in precisions:
            reached = sample.reached(wanted)
            values[f"recall@{wanted:g}"][row] = 0.0 if reached is None else sample.found[reached] / positives
            values[f"threshold@{wanted:g}"][row] = np.nan if reached is None else scores[reached]
    return values


def interval(values: np.ndarray, *, of: int = 0) -> tuple[float, float]:
    """Returns the quantiles 0.025 and 0.975 of resampled values, which is their 95 % confidence interval.

    Args:
        values: float [samples]; those that are NaN are left out.
        of: the number of trials if the values are shares, else 0. A share of 0 or 1 does not vary when it is
            resampled, although it is not certain; its interval is that of the posterior under Jeffreys' prior.

    Returns:
        (low, high), or (NaN, NaN) if all values are NaN.
    """
    if np.isnan(values).all():
        return np.nan, np.nan
    low, high = np.nanquantile(values, QUANTILES)
    if of and low == high and low in (0.0, 1.0):
        beyond = float(beta.ppf(0.95, 0.5, of + 0.5))
        return (0.0, beyond) if low == 0 else (1 - beyond, 1.0)
    return float(low), float(high)


def by_id(predictions: Predictions, ids: Sequence[str]) -> Predictions:
    """Reorders the queries by their ids, so that two evaluations draw the same ones."""
    order = np.argsort(np.asarray(ids))
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    return replace(predictions, query=row[predictions.query], positives=predictions.positives[order])


def as_row(
    values: dict[str, np.ndarray], ids: Sequence[str], truth: Sequence[tuple[str, str]], *, of: int
) -> dict[str, Any]:
    """Returns the part of a row of results that a bootstrap gives: intervals, and values with a hash of the queries.

    Args:
        values: the resampled values of each metric, float64 [samples].
        ids: the ids of the queries.
        truth: pairs (query id, reference id).
        of: the number of queries of which the values are shares.
    """
    samples = len(next(iter(values.values())))
    text = json.dumps([sorted(ids), sorted(set(map(tuple, truth))), samples])
    fingerprint = {"of": hashlib.sha256(text.encode()).hexdigest()}
    return {
        "intervals": {name: interval(one, of=of) for name, one in values.items()},
        "bootstrap": fingerprint | {name: _for_json(one) for name, one in values.items()},
    }


def _for_json(values: np.ndarray) -> list[float | None]:
    """Replaces NaN by None, as JSON has no NaN."""
    return [None if np.isnan(value) else float(value) for value in values.round(6)]


def draws(queries: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """Yields for each set how often each query is drawn, int64 [queries]."""
    rng = np.random.default_rng(seed)
    for _ in tqdm(range(samples), desc="bootstrap", unit="sample", dynamic_ncols=True, leave=False):
        yield np.bincount(rng.integers(0, queries, queries), minlength=queries)
