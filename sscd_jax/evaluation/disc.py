"""Evaluates descriptors as on DISC2021, as the official disc_eval.py does."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.evaluation.bootstrap import METRICS, as_row, by_id, interval, resampled
from sscd_jax.evaluation.metrics import (
    Found,
    Predictions,
    accuracy_at_1,
    average_precision,
    precision_recall,
    recall_at_precision,
)
from sscd_jax.search.calibration import Calibration
from sscd_jax.search.faiss_backend import project
from sscd_jax.search.knn import SPARE, Metric, capped_search, is_unit, knn_of_others, similarities
from sscd_jax.search.same_images import SameImages
from sscd_jax.search.score_norm import ScoreNorm, normalize_scores

Candidates = Literal["per_query", "global"]


def default_codecs(training: Descriptors | None) -> list[str]:
    """Returns Flat, and whitening to the full dimension if there are enough training vectors (official get_codecs).

    There are enough if they vary along every dimension: where the variance is less than a millionth of the largest, it
    is rounding in float32, which whitening would amplify.
    """
    if training is None:
        return ["Flat"]
    dims = training.vectors.shape[1]
    sample = training.vectors[: 16 * dims]
    if np.linalg.matrix_rank(sample - sample.mean(0), rtol=1e-3) < dims:
        return ["Flat"]
    return ["Flat", f"PCAW{dims},L2norm,Flat"]


def evaluate(
    queries: Descriptors,
    references: Descriptors,
    training: Descriptors | None,
    ground_truth: Sequence[tuple[str, str]],
    *,
    codecs: Sequence[str] | None = None,
    score_norms: Sequence[str | None] = (None,),
    k: int = 10,
    candidates: Candidates = "per_query",
    bootstrap: int = 0,
) -> list[dict[str, Any]]:
    """Measures each score normalization and codec.

    Args:
        queries: descriptors of the queries, including those that copy nothing.
        references: descriptors of the images that are searched.
        training: descriptors on which codecs are fitted and by which scores are normalized; None if not needed.
        ground_truth: pairs (query id, reference id).
        codecs: faiss factory strings; by default `default_codecs`.
        score_norms: each such as "1.0[0,2]", or None for no normalization.
        k: the number of candidates per query.
        candidates: "per_query" for the k best of each query, "global" for the best k x Q pairs of all Q queries.
        bootstrap: the number of sets of queries drawn for the confidence intervals; 0 for none.

    Returns:
        A row for each score normalization and codec, with codec, score_norm, uAP, accuracy_at_1, recall_at_p90,
        candidates, k, unit and left_out (see `Found`); if `bootstrap` is not 0 also intervals (95 %, by metric) and
        bootstrap (the resampled values by metric and a hash of the queries, which `compare` needs).

    Raises:
        ValueError: descriptors differ in provenance, ids of the ground truth are not among them, or training
            descriptors are missing or too few.
    """
    if bootstrap < 0:
        raise ValueError(f"the bootstrap is of {bootstrap} samples; it must be 0 for none, or more")
    found = predict(
        queries,
        references,
        training,
        ground_truth,
        codecs=codecs or default_codecs(training),
        score_norms=score_norms,
        k=k,
        rules=[candidates],
    )
    return [measure(one, queries.ids, ground_truth, bootstrap=bootstrap) for one in found]


def measure(
    found: Found,
    query_ids: Sequence[str],
    ground_truth: Sequence[tuple[str, str]],
    *,
    bootstrap: int = 0,
    precisions: Sequence[float] = (),
) -> dict[str, Any]:
    """Returns a row of `evaluate` from a search by `predict`.

    Args:
        found: the search.
        query_ids: the ids of the rows of queries.
        ground_truth: pairs (query id, reference id).
        bootstrap: the number of sets of queries drawn for the confidence intervals; 0 for none.
        precisions: adds at_precision to the row: for each precision a dict with precision, threshold, recall and
            similarity, which is the threshold as an inner product if the vectors have norm 1, else the threshold.
    """
    curve = precision_recall(found.predictions)
    row: dict[str, Any] = {
        "codec": found.settings["codec"],
        "score_norm": found.settings["score_norm"],
        "uAP": average_precision(curve),
        "accuracy_at_1": accuracy_at_1(found.predictions),
        "recall_at_p90": recall_at_precision(curve)[0],
        "candidates": found.settings["candidates"],
        "k": found.settings["k"],
        "unit": found.settings["unit"],
        "left_out": found.settings["left_out"],
    }
    values: dict[str, np.ndarray] = {}
    if bootstrap:
        values = resampled(by_id(found.predictions, query_ids), samples=bootstrap, precisions=precisions)
        copies = int(np.count_nonzero(found.predictions.positives))
        row |= as_row({name: values[name] for name in METRICS}, query_ids, ground_truth, of=copies)
    if precisions:
        row["at_precision"] = []
        for precision in precisions:
            recall, threshold = recall_at_precision(curve, precision)
            at: dict[str, Any] = {"precision": precision, "threshold": threshold, "recall": recall}
            at["similarity"] = 1 + threshold / 2 if row["unit"] and threshold is not None else threshold
            if bootstrap:
                at["threshold_interval"] = None if threshold is None else interval(values[f"threshold@{precision:g}"])
                at["recall_interval"] = interval(values[f"recall@{precision:g}"], of=copies)
            row["at_precision"].append(at)
    return row


def predict(
    queries: Descriptors,
    references: Descriptors,
    training: Descriptors | None,
    ground_truth: Sequence[tuple[str, str]],
    *,
    codecs: Sequence[str],
    score_norms: Sequence[str | None] = (None,),
    k: int = 10,
    rules: Sequence[Candidates] = ("per_query",),
) -> list[Found]:
    """Searches by each rule, score normalization and codec, in this order; `measure` gives the metrics of a search.

    Each codec is fitted once, and each normalization is searched once. Scores are minus squared L2 distances without
    score normalization, and inner products with it, as in the official code. A pair of a query and a reference that are
    the same image (see `search.same_images`) is no candidate, unless the ground truth names it.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a query needs at least one candidate")
    norms = [None if text is None else ScoreNorm.parse(text) for text in score_norms]
    if training is None and any(norms):
        needing = next(text for text in score_norms if text)
        raise ValueError(f"score normalization {needing} needs training descriptors as its background")
    background = {} if training is None else {"training": training}
    check_same_provenance(queries=queries, references=references, **background)
    lengths = {one.vectors.shape[1] for one in (queries, references, *background.values())}
    if len(lengths) > 1:
        dims = " and ".join(map(str, sorted(lengths)))
        raise ValueError(f"descriptors are of {dims} dimensions: embed all of them by the same network")
    truth = _pairs(queries.ids, references.ids, ground_truth)
    same = SameImages.find(queries, references, truth)
    found = {}
    for codec in codecs:
        projected = project(codec, None if training is None else training.vectors, queries.vectors, references.vectors)
        for norm, text in zip(norms, score_norms, strict=True):
            asked, searched = projected[-2:]
            if norm:
                asked, searched = normalize_scores(asked, searched, projected[0], norm)
            metric: Metric = "inner_product" if norm else "l2"
            settings = {"codec": codec, "score_norm": text, "k": k}
            for one in _search(asked, searched, truth, same, metric, rules, settings):
                found[one.settings["candidates"], text, codec] = one
    return [found[rule, text, codec] for rule in rules for text in score_norms for codec in codecs]


def predict_calibrated(
    queries: Descriptors,
    references: Descriptors,
    ground_truth: Sequence[tuple[str, str]],
    calibration: Calibration,
    *,
    k: int = 10,
    rules: Sequence[Candidates] = ("per_query",),
) -> list[Found]:
    """Searches by a calibration's transform and normalization, as `predict`; the codec is then called calibrated."""
    truth = _pairs(queries.ids, references.ids, ground_truth)
    asked, searched = calibration.apply(queries, references)
    settings = {"codec": "calibrated", "score_norm": calibration.norm and str(calibration.norm), "k": k}
    same = SameImages.find(queries, references, truth)
    return _search(asked, searched, truth, same, "inner_product", rules, settings)


def _search(
    asked: np.ndarray,
    searched: np.ndarray,
    truth: np.ndarray,
    same: SameImages,
    metric: Metric,
    rules: Sequence[Candidates],
    settings: Mapping[str, Any],
) -> list[Found]:
    """Returns the candidates by each rule, from one search."""
    k = settings["k"]
    unit = metric == "l2" and is_unit(asked) and is_unit(searched)
    positives = np.bincount(truth // len(searched), minlength=len(asked))
    pair_scores = similarities(asked, searched, *np.divmod(truth, len(searched)), metric)
    known = knn_of_others(asked, searched, k * (SPARE if "global" in rules else 1), metric, same)
    found = []
    for rule in rules:
        if rule == "global":
            query, reference, score = capped_search(asked, searched, k * len(asked), metric, known=known, same=same)
        else:
            score, reference = (one[:, :k] for one in known)
            query, column = np.nonzero(reference >= 0)
            score, reference = score[query, column], reference[query, column]
        is_match = np.isin(query * len(searched) + reference, truth)
        predictions = Predictions(query, reference, score, is_match, positives)
        facts = {"candidates": rule, "unit": unit, "left_out": same.total}
        found.append(Found({**settings, **facts}, predictions, pair_scores))
    return found


def _pairs(query_ids: Sequence[str], reference_ids: Sequence[str], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Returns the ground truth as query row x number of references + reference row, int64 [P], each pair once."""
    query_row = {name: row for row, name in enumerate(query_ids)}
    reference_row = {name: row for row, name in enumerate(reference_ids)}
    absent = [q for q, _ in pairs if q not in query_row] + [r for _, r in pairs if r not in reference_row]
    if not pairs:
        raise ValueError("the ground truth has no pairs")
    if absent:
        raise ValueError(
            f"{len(absent)} ids of the ground truth have no descriptor, such as {', '.join(absent[:3])}: "
            f"ids of queries look like {query_ids[0]}, of references like {reference_ids[0]}"
        )
    return np.array([query_row[q] * len(reference_ids) + reference_row[r] for q, r in dict.fromkeys(pairs)], np.int64)
