"""Fits a calibration, and says what to expect of it on pictures that it was not fitted on."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sscd_jax.calibration import Calibration, Method, Transform, fit_transform
from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.evaluation import disc
from sscd_jax.evaluation.bootstrap import interval, samples_of
from sscd_jax.evaluation.metrics import Predictions, precision_recall, recall_at_precision
from sscd_jax.postprocess import ScoreNorm
from sscd_jax.search import knn

DRAWS = 100_000  # of a Beta distribution, for its quantiles


def calibrate_by_rate(
    training: Descriptors,
    references: Descriptors | None = None,
    *,
    rate: float,
    method: Method = "whiten",
    score_norm: str | None = "1.0[0,2]",
    background: int = 50_000,
    seed: int = 0,
) -> Calibration:
    """A calibration whose threshold a query that copies nothing passes at a wanted rate.

    Of the training pictures, which should not copy one another, a third is held back and searched for, in the
    references or, where there are none, in the second third, with a transform and a background fitted on the others.
    The threshold lies just above the k-th of their best scores, so that the rate, over pictures like these, has the
    distribution Beta(k, n + 1 - k). What is written is then fitted on all.

    Args:
        training: pictures like the queries and the references.
        references: what will be searched; the more, the more chances for a false match.
        rate: share of queries that may have a false match.
        method: whiten, centre, or none.
        score_norm: as "1.0[0,2]", or None.
        background: training descriptors kept for the normalisation, drawn by seed.
        seed: of the division, and of what is kept.

    Raises:
        ValueError: there are too few training descriptors for the rate or the transform, or they are all the same.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a false-positive rate of {rate}: it must be between 0 and 1")
    order = np.random.default_rng(seed).permutation(len(training.ids))
    held_back, rest = np.split(order, [len(order) // 3])
    searched_rows, fitted_rows = np.split(rest, [0 if references else len(rest) // 2])
    count = len(held_back)
    k = int(rate * (count + 1))
    if not k:
        needed = int(np.ceil(1 / rate)) - 1
        raise ValueError(
            f"{len(order)} training descriptors are too few for a false-positive rate of {rate:g}: a third is held "
            f"back to count it, which must be {needed}; give {3 * needed}, or a rate of at least {1 / (count + 1):.2g}"
        )
    others = references or _some(training, searched_rows)
    trial = _fit(training.vectors[fitted_rows], training, method, score_norm, background, seed)
    asked, searched = trial.apply(_some(training, held_back), others)
    scores, indexes = knn(asked, searched, 1, "inner_product")
    best = np.sort(scores[:, 0])[::-1]
    threshold = float(np.nextafter(best[k - 1], np.float32(np.inf), dtype=np.float32))
    drawn = np.random.default_rng(seed).beta(k, count + 1 - k, DRAWS)
    near = np.argsort(-scores[:, 0])[:k]
    fitted = _fit(training.vectors, training, method, score_norm, background, seed)
    expected = {"false_positive_rate": k / (count + 1), "false_positive_rate_interval": interval(drawn)}
    facts = {
        "expected": expected,
        "measured_on": f"{count} held-back training pictures, searched for in {len(others.ids)} others",
        # Worth a look: pictures that do copy one another make the threshold too high.
        "highest": [
            [training.ids[held_back[i]], others.ids[indexes[i, 0]], float(scores[i, 0])] for i in near[:20].tolist()
        ],
    }
    return _with(fitted, threshold, facts)


def calibrate_by_precision(
    training: Descriptors,
    queries: Descriptors,
    references: Descriptors,
    ground_truth: Sequence[tuple[str, str]],
    *,
    precision: float,
    method: Method = "whiten",
    score_norm: str | None = "1.0[0,2]",
    background: int = 50_000,
    seed: int = 0,
    k: int = 10,
    samples: int = 1000,
) -> Calibration:
    """A calibration whose threshold gives a wanted precision on queries whose originals are known.

    What to expect is measured on queries that the threshold was not chosen on: for each of many sets of queries drawn
    with replacement, the threshold of the set at the queries that are not in it.

    Args:
        training, method, score_norm, background, seed: as for `calibrate_by_rate`.
        queries: those that copy nothing count too.
        references: what is searched.
        ground_truth: pairs (query id, reference id).
        precision: share of the answers that should be right.
        k: candidates a query.
        samples: how many sets.

    Raises:
        ValueError: no threshold has the precision; or what is the matter with the descriptors.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"a precision of {precision}: it must be over 0, and 1 at most")
    check_same_provenance(training=training, queries=queries, references=references)
    fitted = _fit(training.vectors, training, method, score_norm, background, seed)
    (found,) = disc.predict_calibrated(queries, references, ground_truth, fitted, k=k)
    recall, threshold = recall_at_precision(precision_recall(found.predictions), precision)
    if threshold is None:
        raise ValueError(f"no threshold has a precision of {precision:g} on these queries: ask for less")
    values = _out_of_sample(found.predictions, precision, samples, seed)
    expected: dict[str, Any] = {}
    for name, some in values.items():
        known = some[np.isfinite(some)]
        expected |= {name: float(known.mean()) if len(known) else None}
        expected |= {f"{name}_interval": interval(known) if len(known) else None}
    facts = {
        "expected": expected,
        "recall_on_these": recall,
        "measured_on": f"{len(queries.ids)} queries, searched for in {len(references.ids)} references; each threshold "
        "at queries that it was not chosen on",
    }
    return _with(fitted, threshold, facts)


def _out_of_sample(predictions: Predictions, precision: float, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Precision, recall and false-positive rate of thresholds at queries they were not chosen on, float64 [samples]."""
    scores = -np.sort(-predictions.score[predictions.is_match])
    copies_nothing = predictions.positives == 0
    best = np.full(len(copies_nothing), -np.inf)
    np.maximum.at(best, predictions.query, predictions.score)
    values = {name: np.full(samples, np.nan) for name in ("precision", "recall", "false_positive_rate")}
    for row, sample in enumerate(samples_of(predictions, samples, seed)):
        reached = np.flatnonzero(
            (sample.copies > 0) & (sample.found / np.maximum(sample.before + sample.copies, 1) >= precision)
        )
        left_out = sample.times == 0
        positives = predictions.positives[left_out].sum()
        if not len(reached) or not positives:
            continue
        threshold = scores[reached[-1]]
        answers = left_out[predictions.query] & (predictions.score >= threshold)
        right = np.count_nonzero(predictions.is_match & answers)
        values["recall"][row] = right / positives
        if answers.any():
            values["precision"][row] = right / np.count_nonzero(answers)
        others = left_out & copies_nothing
        if others.any():
            values["false_positive_rate"][row] = np.mean(best[others] >= threshold)
    return values


def _fit(
    vectors: np.ndarray, training: Descriptors, method: Method, score_norm: str | None, background: int, seed: int
) -> Calibration:
    """Without a threshold yet."""
    transform, fallback = fit_transform(vectors, method)
    norm = None if score_norm is None else ScoreNorm.parse(score_norm)
    kept = _background(vectors, transform, norm, background, seed)
    facts = {"method": method, "fallback": fallback, "training": len(training.ids), "seed": seed}
    return Calibration(transform, norm, kept, np.inf, training.provenance, facts)


def _background(vectors: np.ndarray, transform: Transform, norm: ScoreNorm | None, count: int, seed: int) -> np.ndarray:
    if norm is None:
        return np.empty((0, 0), np.float32)
    if min(count, len(vectors)) <= norm.last:
        raise ValueError(
            f"score normalisation needs {norm.last + 1} training descriptors as its background, there are "
            f"{min(count, len(vectors))}"
        )
    if len(vectors) <= count:
        return transform(vectors)
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), count, replace=False))
    return transform(vectors[rows])


def _with(fitted: Calibration, threshold: float, facts: dict[str, Any]) -> Calibration:
    return Calibration(
        fitted.transform, fitted.norm, fitted.background, threshold, fitted.provenance, {**fitted.facts, **facts}
    )


def _some(descriptors: Descriptors, rows: np.ndarray) -> Descriptors:
    return Descriptors([descriptors.ids[i] for i in rows.tolist()], descriptors.vectors[rows], descriptors.provenance)
