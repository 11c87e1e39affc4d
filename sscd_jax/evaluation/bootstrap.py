"""How sure a metric is: the same metric over queries drawn again with replacement (Efron's bootstrap)."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from tqdm import tqdm

from sscd_jax.evaluation.metrics import Predictions, is_answered

METRICS = ("uAP", "accuracy_at_1", "recall_at_p90")
QUANTILES = (0.025, 0.975)


@dataclass(frozen=True)
class Sample:
    """A set of queries drawn with replacement, and the ranking of its predictions, of equal scores wrong ones first.

    Attributes:
        times: int64 [Q], how often each query is drawn.
        copies: int64 [N], how often each right prediction is there, best score first; the next two are of the same.
        before: int64 [N], predictions ahead of the first of its copies.
        found: int64 [N], right predictions up to the last of its copies.
        query: int64 [N], whose it is.
    """

    times: np.ndarray
    copies: np.ndarray
    before: np.ndarray
    found: np.ndarray
    query: np.ndarray

    def shares(self, answered: np.ndarray) -> dict[str, np.ndarray]:
        """What each query has of METRICS, float64 [Q]: their sum over that of its drawn pairs is the metric.

        Of uAP, the precisions in the ranking at its right predictions; of accuracy_at_1, whether it is answered (bool
        [Q]); of recall_at_p90, its right predictions above the threshold.
        """
        count = len(self.times)
        reached = self.reached(0.9)
        above = self.copies * (np.arange(len(self.copies)) <= (reached if reached is not None else -1))
        return {
            "uAP": np.bincount(self.query, self.copies - self.wrong_inverse_ranks(), count),
            "accuracy_at_1": self.times * answered,
            "recall_at_p90": np.bincount(self.query, above, count),
        }

    def reached(self, precision: float) -> int | None:
        """The last right prediction down to which the precision is at least that; None if there is none."""
        precisions = self.found / np.maximum(self.before + self.copies, 1)
        there = np.flatnonzero((self.copies > 0) & (precisions >= precision))
        return int(there[-1]) if len(there) else None

    def wrong_inverse_ranks(self, shift: int = 0) -> np.ndarray:
        """Wrong predictions ahead / (rank - shift), summed over the copies of each right prediction: float64 [N].

        Copies of one prediction lie side by side, ranks before + 1 to before + copies.
        """
        wrong = self.before - (self.found - self.copies)
        first = np.maximum(self.before - shift, 0)  # 0 where nothing is ahead, and wrong is 0
        harmonic = _harmonic(int((first + self.copies).max(initial=1)).bit_length())
        return wrong * (harmonic[first + self.copies] - harmonic[first])


@lru_cache(maxsize=2)
def _harmonic(bits: int) -> np.ndarray:
    """1 + 1/2 + ... + 1/n for every n below 2^bits."""
    return np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 2**bits))])


def samples_of(predictions: Predictions, count: int, seed: int = 0) -> Iterator[Sample]:
    """Sets of as many queries as there are. The same seed draws the same queries by their rows.

    Exact: a query that is drawn twice is there twice, with all its predictions and its pairs of the ground truth.
    """
    order = np.lexsort((predictions.is_match, -predictions.score))
    query, right = predictions.query[order], np.flatnonzero(predictions.is_match[order])
    for times in _draws(len(predictions.positives), count, seed):
        yield _sample(query, right, times)


def sample_of(predictions: Predictions, times: np.ndarray) -> Sample:
    """The set in which each query is as often as `times` say, int64 [Q]."""
    order = np.lexsort((predictions.is_match, -predictions.score))
    return _sample(predictions.query[order], np.flatnonzero(predictions.is_match[order]), times)


def _sample(query: np.ndarray, right: np.ndarray, times: np.ndarray) -> Sample:
    """Of the queries of all predictions, best first, and where right ones are."""
    seen = np.cumsum(times[query])  # predictions down to each, with repetitions
    copies = times[query[right]]
    return Sample(times, copies, seen[right] - copies, np.cumsum(copies), query[right])


def resampled(
    predictions: Predictions, *, samples: int = 1000, seed: int = 0, precisions: Sequence[float] = ()
) -> dict[str, np.ndarray]:
    """Metrics of sets of as many queries, drawn from the queries with replacement: float64 [samples] each.

    Two runs over the same queries are drawn alike by the same seed, so that their differences are paired.

    Args:
        predictions: of all queries, also of those that copy nothing.
        samples: how many sets.
        seed: of the draws.
        precisions: for which the threshold and the recall are wanted as well.

    Returns:
        Values by the names of METRICS, and of "threshold@P" and "recall@P" for each precision; NaN for a set in which
        no query copies anything, and for a threshold where no prediction reaches the precision.
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
    """Between which values the middle 95 % of them lie, less those that are NaN; (NaN, NaN) if all are.

    Args:
        values: of samples.
        of: how many trials the values are shares of, 0 if they are none. A share of all or of none, which is the same
            however often it is drawn, gets the interval of its posterior (Jeffreys' prior): none of a few is not none.
    """
    if np.isnan(values).all():
        return np.nan, np.nan
    low, high = np.nanquantile(values, QUANTILES)
    if of and low == high and low in (0.0, 1.0):
        beyond = float(np.quantile(np.random.default_rng(0).beta(0.5, of + 0.5, 100_000), 0.95))
        return (0.0, beyond) if low == 0 else (1 - beyond, 1.0)
    return float(low), float(high)


def by_id(predictions: Predictions, ids: Sequence[str]) -> Predictions:
    """With queries in the order of their ids, so that two evaluations draw the same ones."""
    order = np.argsort(np.asarray(ids))
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    return replace(predictions, query=row[predictions.query], positives=predictions.positives[order])


def as_row(
    values: dict[str, np.ndarray], ids: Sequence[str], truth: Sequence[tuple[str, str]], *, of: int
) -> dict[str, Any]:
    """What a row of results keeps of a bootstrap: the intervals, and the values, with what they are of.

    `of`: how many queries the values are shares of.
    """
    samples = len(next(iter(values.values())))
    text = json.dumps([sorted(ids), sorted(set(map(tuple, truth))), samples])
    fingerprint = {"of": hashlib.sha256(text.encode()).hexdigest()}
    return {
        "intervals": {name: interval(one, of=of) for name, one in values.items()},
        "bootstrap": fingerprint | {name: _for_json(one) for name, one in values.items()},
    }


def _for_json(values: np.ndarray) -> list[float | None]:
    """JSON knows no NaN."""
    return [None if np.isnan(value) else float(value) for value in values.round(6)]


def _draws(queries: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each query is drawn, int64 [queries], for each set."""
    rng = np.random.default_rng(seed)
    for _ in tqdm(range(samples), desc="bootstrap", unit="sample", dynamic_ncols=True, leave=False):
        yield np.bincount(rng.integers(0, queries, queries), minlength=queries)
