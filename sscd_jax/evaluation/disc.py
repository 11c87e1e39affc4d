"""Evaluation as on DISC2021 (official disc_eval.py): descriptors and ground truth in, numbers out."""

import csv
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.evaluation.bootstrap import interval, resampled
from sscd_jax.evaluation.metrics import (
    Predictions,
    accuracy_at_1,
    average_precision,
    precision_recall,
    recall_at_precision,
)
from sscd_jax.postprocess import ScoreNorm, normalize_scores
from sscd_jax.search import Metric, capped_search, knn, project

Candidates = Literal["per_query", "global"]


def read_ground_truth(path: Path) -> list[tuple[str, str]]:
    """Pairs (query id, reference id) of a CSV file with the header query_id,reference_id.

    DISC2021's released files have no header: one is not missed where the first line begins with such an id, as Q00000.
    Rows without a reference, as in DISC2021's released files, are queries that copy nothing; they are left out.

    Raises:
        ValueError: there is no such file, or it is not of that form; names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the ground truth is a CSV file with the header query_id,reference_id")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from error
    header = 1 if rows and rows[0][:2] == ["query_id", "reference_id"] else 0
    if not header and not (rows and rows[0] and re.fullmatch(r"Q\d{5}", rows[0][0])):
        raise ValueError(f"{path}: the first line must be query_id,reference_id")
    for number, row in enumerate(rows[header:], header + 1):
        if len(row) < 2 and row:
            raise ValueError(f"{path}, line {number}: it must be query_id,reference_id, not {','.join(row)}")
    pairs = [(row[0], row[1]) for row in rows[header:] if row and row[1]]
    if not pairs:
        raise ValueError(f"{path}: there is no pair in it: nothing copies anything")
    return pairs


def default_codecs(training: Descriptors | None) -> list[str]:
    """Plain search, and whitening to the full length where there is enough to fit it on (official get_codecs).

    Enough is as many vectors as dimensions, which vary along every dimension: a direction of less than a millionth of
    the largest variance is rounding in float32, and whitening would blow it up.
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
    """A row of metrics for each score normalisation and each codec.

    Args:
        queries: may include pictures that copy nothing.
        references: what is searched.
        training: what codecs are fitted on and scores normalised by; None where neither is asked for.
        ground_truth: pairs (query id, reference id).
        codecs: faiss factory strings; by default `default_codecs`.
        score_norms: as "1.0[0,2]", or None for none.
        k: candidates a query.
        candidates: the k best of each query, or the k x queries best of all.
        bootstrap: how many sets of queries to draw, to say how sure the metrics are.

    Returns:
        Rows with codec, score_norm, uAP, accuracy_at_1, recall_at_p90, candidates, k; and where `bootstrap` is not 0,
        intervals (95 %, by metric) and bootstrap (the values by metric, and what they are of: `compare` needs them).

    Raises:
        ValueError: descriptors differ in provenance, ids of the ground truth are not among them, or training
            descriptors are missing or too few.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a query needs at least one candidate")
    if bootstrap < 0:
        raise ValueError(f"the bootstrap is of {bootstrap} samples; it must be 0 for none, or more")
    for text in filter(None, score_norms):
        ScoreNorm.parse(text)
    rows = []
    for score_norm in score_norms:
        for codec in codecs or default_codecs(training):
            found = predict(
                queries,
                references,
                training,
                ground_truth,
                codec=codec,
                score_norm=score_norm,
                k=k,
                candidates=candidates,
            )
            curve = precision_recall(found)
            row: dict[str, Any] = {
                "codec": codec,
                "score_norm": score_norm,
                "uAP": average_precision(curve),
                "accuracy_at_1": accuracy_at_1(found),
                "recall_at_p90": recall_at_precision(curve)[0],
                "candidates": candidates,
                "k": k,
            }
            if bootstrap:
                values = resampled(_by_id(found, queries.ids), samples=bootstrap)
                row["intervals"] = {name: interval(one) for name, one in values.items()}
                row["bootstrap"] = {"of": _fingerprint(queries.ids, ground_truth, bootstrap)}
                row["bootstrap"] |= {name: one.round(6).tolist() for name, one in values.items()}
            rows.append(row)
    return rows


def _by_id(predictions: Predictions, ids: Sequence[str]) -> Predictions:
    """With queries in the order of their ids, so that two evaluations draw the same ones."""
    order = np.argsort(np.asarray(ids))
    row = np.empty_like(order)
    row[order] = np.arange(len(order))
    return replace(predictions, query=row[predictions.query], positives=predictions.positives[order])


def _fingerprint(query_ids: Sequence[str], ground_truth: Sequence[tuple[str, str]], samples: int) -> str:
    text = json.dumps([sorted(query_ids), sorted(set(map(tuple, ground_truth))), samples])
    return hashlib.sha256(text.encode()).hexdigest()


def predict(
    queries: Descriptors,
    references: Descriptors,
    training: Descriptors | None,
    ground_truth: Sequence[tuple[str, str]],
    *,
    codec: str = "Flat",
    score_norm: str | None = None,
    k: int = 10,
    candidates: Candidates = "per_query",
) -> Predictions:
    """The candidates that `evaluate` measures.

    Without score normalisation scores are minus squared L2 distances, with it inner products, as officially.
    """
    background = {} if training is None else {"training": training}
    check_same_provenance(queries=queries, references=references, **background)
    truth = _pairs(queries.ids, references.ids, ground_truth)
    vectors = project(codec, None if training is None else training.vectors, queries.vectors, references.vectors)
    query_vectors, reference_vectors = vectors[-2:]
    if score_norm is not None:
        if training is None:
            raise ValueError(f"score normalisation {score_norm} needs training descriptors as its background")
        query_vectors, reference_vectors = normalize_scores(
            query_vectors, reference_vectors, vectors[0], ScoreNorm.parse(score_norm)
        )
    metric: Metric = "l2" if score_norm is None else "inner_product"
    if candidates == "global":
        query, reference, score = capped_search(query_vectors, reference_vectors, k * len(query_vectors), metric)
    else:
        scores, indexes = knn(query_vectors, reference_vectors, k, metric)
        query = np.repeat(np.arange(len(indexes)), indexes.shape[1])
        reference, score = indexes.ravel(), scores.ravel()
    is_match = np.isin(query * len(references.ids) + reference, truth)
    positives = np.bincount(truth // len(references.ids), minlength=len(queries.ids))
    return Predictions(query, reference, score, is_match, positives)


def _pairs(query_ids: Sequence[str], reference_ids: Sequence[str], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """The ground truth as query row x references + reference row, int64 [P]."""
    query_row = {name: row for row, name in enumerate(query_ids)}
    reference_row = {name: row for row, name in enumerate(reference_ids)}
    absent = [q for q, _ in pairs if q not in query_row] + [r for _, r in pairs if r not in reference_row]
    if not pairs:
        raise ValueError("the ground truth has no pairs")
    if absent:
        raise ValueError(
            f"{len(absent)} ids of the ground truth have no descriptor, as {', '.join(absent[:3])}: "
            f"ids of queries look like {query_ids[0]}, of references like {reference_ids[0]}"
        )
    return np.array([query_row[q] * len(reference_ids) + reference_row[r] for q, r in dict.fromkeys(pairs)], np.int64)
