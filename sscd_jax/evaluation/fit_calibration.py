"""Fits a calibration, and estimates its error rates on images that it was not fitted on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import beta

from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.evaluation import disc
from sscd_jax.evaluation.bootstrap import QUANTILES, interval, samples_of
from sscd_jax.evaluation.metrics import Predictions, precision_recall, recall_at_precision
from sscd_jax.mapped_vectors import Vectors
from sscd_jax.search.calibration import Calibration, Method, Transform, fit_transform
from sscd_jax.search.knn import knn_of_others
from sscd_jax.search.same_images import SameImages, distinct, some_of
from sscd_jax.search.score_norm import ScoreNorm

HELD_BACK = 20_000  # the largest number of training images that are held back to count false matches


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
    """Fits a calibration for a false-positive rate: of the queries that copy nothing, the share that has a match.

    A third of the training images, which should not copy one another, is held back and searched for: in the references
    or, without references, in the second third. The transform and the background come from the rest. The threshold is
    just above the k-th best of the n scores, so that the rate on images like these is distributed as
    Beta(k, n + 1 - k), whatever the distribution of the scores.

    The references may be the training images themselves, as for a user who has one collection: no image is a match of
    itself, or of another one with the same pixels (see `search.same_images`). Of training images that are the same,
    one counts. The fact left_out says how many training images, and how many pairs of a held-back image and a
    reference, do not count.

    Args:
        training: descriptors of images like the queries and the references.
        references: descriptors of the images that will be searched; a larger set gives more false matches.
        rate: the false-positive rate, between 0 and 1.
        method: whiten, center, or none.
        score_norm: the score normalization, such as "1.0[0,2]", or None.
        background: the number of training descriptors that are kept for the normalization.
        seed: random seed of the division of the training images, and of the choice of the background.

    Raises:
        ValueError: there are too few training descriptors for the rate or the transform, they are all the same, or no
            reference is another image.
    """
    if not 0 < rate < 1:
        raise ValueError(f"a false-positive rate of {rate}: it must be between 0 and 1")
    given, training = len(training.ids), distinct(training)
    order = np.random.default_rng(seed).permutation(len(training.ids))
    held_back, rest = np.split(order, [min(len(order) // 3, HELD_BACK)])
    searched_rows, fitted_rows = np.split(rest, [0 if references else len(rest) // 2])
    count = len(held_back)
    k = int(rate * (count + 1))
    if not k:
        needed = int(np.ceil(1 / rate)) - 1
        if needed > HELD_BACK:
            raise ValueError(f"a false-positive rate of {rate:g}: the smallest that is counted is {1 / HELD_BACK:g}")
        least = f", or a rate of at least {np.ceil(1000 / (count + 1)) / 1000:g}" if count else ""
        raise ValueError(
            f"{len(order)} training descriptors are too few for a false-positive rate of {rate:g}: a third is held "
            f"back to count it, which must be {needed}; give {3 * needed}{least}"
        )
    others = references or some_of(training, searched_rows)
    fitted = _fit(some_of(training, fitted_rows), method, score_norm, background, seed)
    asked, searched = fitted.apply(some_of(training, held_back), others)
    same = SameImages.find(some_of(training, held_back), others)
    scores, indexes = knn_of_others(asked, searched, 1, "inner_product", same)
    if not np.isfinite(scores).any(1).all():
        raise ValueError("every reference is the same image as a training image: give more references")
    best = np.sort(scores[:, 0])[::-1]
    threshold = float(np.nextafter(best[k - 1], np.float32(np.inf), dtype=np.float32))
    near = np.argsort(-scores[:, 0])[:k]
    low, high = beta.ppf(QUANTILES, k, count + 1 - k).tolist()
    expected = {"false_positive_rate": k / (count + 1), "false_positive_rate_interval": (low, high)}
    facts = {
        "expected": expected,
        "measured_on": f"{count} held-back training images, searched for in {len(others.ids)} others",
        "left_out": {"training_images": given - len(training.ids), "pairs": same.total},
        # For the user to check: training images that copy one another make the threshold too high.
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
    """Fits a calibration whose threshold gives a given precision on queries whose originals are known.

    The expected precision and recall are measured out of sample: many sets of queries are drawn with replacement, and
    the threshold that each set gives is applied to the queries that are not in it.

    Args:
        training, method, score_norm, background, seed: as for `calibrate_by_rate`.
        queries: descriptors of the queries, including those that copy nothing.
        references: descriptors of the images that are searched.
        ground_truth: pairs (query id, reference id).
        precision: the share of the answers that should be correct.
        k: the number of candidates per query.
        samples: the number of sets.

    Raises:
        ValueError: no threshold has the precision, the descriptors differ in provenance, or there are too few.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"a precision of {precision}: it must be over 0, and 1 at most")
    check_same_provenance(training=training, queries=queries, references=references)
    fitted = _fit(training, method, score_norm, background, seed)
    (found,) = disc.predict_calibrated(queries, references, ground_truth, fitted, k=k)
    recall, threshold = recall_at_precision(precision_recall(found.predictions), precision)
    if threshold is None:
        raise ValueError(f"no threshold has a precision of {precision:g} on these queries: give a lower --precision")
    expected = _out_of_sample(found.predictions, precision, samples, seed)
    facts = {
        "expected": expected,
        "recall_on_these": recall,
        "measured_on": f"{len(queries.ids)} queries, searched for in {len(references.ids)} references; each threshold "
        "at queries that it was not chosen on",
        "left_out": {"pairs": found.settings["left_out"]},
    }
    return _with(fitted, threshold, facts)


def _out_of_sample(predictions: Predictions, precision: float, samples: int, seed: int) -> dict[str, Any]:
    """Measures precision, recall and false-positive rate at queries that the threshold was not chosen on.

    The intervals are those of a mixture over the sets of queries: one draw for each set from the posterior of its share
    (a Beta distribution, by Jeffreys' prior), because a share of 0 in a few queries does not show that it is 0.
    """
    scores = -np.sort(-predictions.score[predictions.is_match])
    copies_nothing = predictions.positives == 0
    best = np.full(len(copies_nothing), -np.inf)
    np.maximum.at(best, predictions.query, predictions.score)
    counts: dict[str, list[tuple[int, int]]] = {"precision": [], "recall": [], "false_positive_rate": []}
    for sample in samples_of(predictions, samples, seed):
        reached = np.flatnonzero(
            (sample.copies > 0) & (sample.found / np.maximum(sample.before + sample.copies, 1) >= precision)
        )
        if not len(reached):
            continue
        threshold = scores[reached[-1]]
        left_out = sample.times == 0
        answers = left_out[predictions.query] & (predictions.score >= threshold)
        correct = int(np.count_nonzero(predictions.is_match & answers))
        alarms = int(np.count_nonzero(best[left_out & copies_nothing] >= threshold))
        counts["precision"].append((correct, int(np.count_nonzero(answers))))
        counts["recall"].append((correct, int(predictions.positives[left_out].sum())))
        counts["false_positive_rate"].append((alarms, int(np.count_nonzero(left_out & copies_nothing))))
    expected: dict[str, Any] = {}
    rng = np.random.default_rng(seed)
    for name, pairs in counts.items():
        hits, all_of = np.array(pairs, np.int64).reshape(-1, 2).T
        if not all_of.sum():
            expected |= {name: None, f"{name}_interval": None}
            continue
        share = float(hits.sum() / all_of.sum())
        low, high = interval(rng.beta(hits + 0.5, all_of - hits + 0.5))
        expected |= {name: share, f"{name}_interval": (min(low, share), max(high, share))}  # contains 0 and 1 too
    return expected


def _fit(training: Descriptors, method: Method, score_norm: str | None, background: int, seed: int) -> Calibration:
    """Fits the transform and the normalization, without a threshold."""
    transform, fallback = fit_transform(training.vectors, method)
    norm = None if score_norm is None else ScoreNorm.parse(score_norm)
    kept = _background(training.vectors, transform, norm, background, seed)
    facts = {
        "method": "center" if fallback else method,
        "fallback": fallback,
        "training": len(training.ids),
        "seed": seed,
    }
    return Calibration(transform, norm, kept, np.inf, training.provenance, facts)


def _background(vectors: Vectors, transform: Transform, norm: ScoreNorm | None, count: int, seed: int) -> np.ndarray:
    if norm is None:
        return np.empty((0, 0), np.float32)
    if min(count, len(vectors)) <= norm.last:
        raise ValueError(
            f"score normalization needs {norm.last + 1} training descriptors as its background, there are "
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
