"""Writes report.html, which shows what was measured in one file that opens anywhere.

Style, charts and thumbnails are inside the file, there is no script, and a content security policy keeps the page from
loading anything. The input is plain data: numpy arrays, paths and dicts, from any evaluation.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np
from markupsafe import Markup

from sscd_jax.data.names import printable_lines
from sscd_jax.datasets.annotations import Edited
from sscd_jax.evaluation.by_edit import by_edit
from sscd_jax.evaluation.metrics import Curve, Predictions, precision_recall
from sscd_jax.evaluation.report.charts import Line, data_uri, histogram, line_chart
from sscd_jax.evaluation.report.evaluation_charts import best_incorrect, edits_chart
from sscd_jax.evaluation.report.gallery import (
    Load,
    Ranking,
    answer_threshold,
    counts,
    examples,
    galleries,
    outcomes,
    ranking,
)
from sscd_jax.evaluation.results import Evaluation, label
from sscd_jax.evaluation.thresholds import per_threshold
from sscd_jax.files import write_text

PRECISION = 0.9

_MEANINGS = {
    "uAP": "uAP: the area under the precision-recall curve of all predictions of all queries, as one ranking.",
    "uAP, score normalization": "Score normalization subtracts from each score how similar the query is to images that "
    "it cannot be a copy of.",
    "accuracy@1": "accuracy@1: the share of the copies whose original comes first.",
    "recall@p90": "recall@p90: the share of the copies found before more than one prediction in ten is incorrect.",
    "strong mAP": "strong mAP: the mean over the copies with strong edits of how high their original ranks.",
    "overall uAP": "overall uAP: the area under the precision-recall curve of all blocks of Copydays as one ranking.",
}

# Title of the chart -> name in the history -> label of the line.
_HISTORY = {
    "Loss": {"loss": "loss"},
    "InfoNCE": {"InfoNCE": "InfoNCE"},
    "Entropy term": {"entropy": "entropy term"},
    "Similarities": {
        "positive_sim": "positives",
        "nearest_negative_sim": "nearest negative",
        "negative_sim": "negatives",
        "center_l2_norm": "norm of the mean descriptor",
    },
}


@dataclass(frozen=True)
class Result:
    """One descriptor's answers to a set of queries.

    Attributes:
        name: its name on the page.
        metrics: its row in the table, label -> value in [0, 1]; the same labels for every result.
        query_ids, reference_ids, scores: the predictions, [K] each, in any order.
        copy_similarities: float [P], the similarity of each pair of the ground truth, in its order.
        other_similarities: float [Q], the similarity of each query to the nearest reference that it does not copy.
        score_name: the name of the scores; histograms of scores of one name have the same range.
        intervals: label -> the 95 % confidence interval of the metric, for those that have one.
    """

    name: str
    metrics: Mapping[str, float]
    query_ids: np.ndarray
    reference_ids: np.ndarray
    scores: np.ndarray
    copy_similarities: np.ndarray
    other_similarities: np.ndarray
    score_name: str = "similarity"
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)


class Chart(NamedTuple):
    """A chart, as the data URI of an SVG, and its title."""

    title: str
    image: str


def results_of(evaluation: Evaluation, *, prefix: str = "") -> list[Result]:
    """Returns a result for each row of an evaluation.

    Scores that are minus squared distances of unit vectors are turned into similarities.

    Args:
        evaluation: the evaluation.
        prefix: text before the name of each row.
    """
    labels = {
        "uAP": "uAP",
        "accuracy_at_1": "accuracy@1",
        "recall_at_p90": "recall@p90",
        "strong_mAP": "strong mAP",
        "overall_uAP": "overall uAP",
    }
    results = []
    query_ids, reference_ids = (np.asarray(ids) for ids in (evaluation.query_ids, evaluation.reference_ids))
    for row, found in zip(evaluation.rows, evaluation.found, strict=True):
        predictions, copies = found.predictions, found.pair_scores
        name = "normalized score" if row.get("score_norm") else "minus squared distance"
        if row["unit"]:
            predictions = replace(predictions, score=1 + predictions.score / 2)
            name, copies = "similarity", 1 + copies / 2
        intervals = row.get("intervals", {})
        results.append(
            Result(
                name=prefix + label(row),
                metrics={text: row[metric] for metric, text in labels.items() if metric in row},
                intervals={labels[metric]: one for metric, one in intervals.items()},
                query_ids=query_ids[predictions.query],
                reference_ids=reference_ids[predictions.reference],
                scores=predictions.score,
                copy_similarities=copies,
                other_similarities=best_incorrect(predictions),
                score_name=name,
            )
        )
    return results


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    results: Sequence[Result],
    ground_truth: Sequence[tuple[str, str]],
    query_images: Mapping[str, Load],
    reference_images: Mapping[str, Load],
    query_ids: Sequence[str],
    shown: int = -1,
    history: Mapping[str, Sequence[float]] | None = None,
    edits: Mapping[str, Edited] | None = None,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Writes the page.

    Args:
        path: the HTML file.
        title: its title.
        summary: some sentences that say what was done.
        results: one for each descriptor, codec or normalization.
        ground_truth: pairs (query id, reference id); a query in none of them copies nothing.
        query_images, reference_images: by id, the function that reads the encoded image; the page shows the id if an
            image is missing or unreadable.
        query_ids: the ids of all queries, including those without a prediction.
        shown: index of the result whose answers are shown in images.
        history: training metrics by step: "step", "loss" and the metrics of `sscd_jax.losses.sscd_loss`.
        edits: how each query was edited.
        facts: name -> value, at the foot of the page.

    Raises:
        ValueError: there is no result, one has no predictions, or results have different metrics.
    """
    if not results or any(list(r.metrics) != list(results[0].metrics) for r in results):
        raise ValueError("a report needs at least one result, and the same metrics from each")
    if any(not len(r.scores) for r in results):
        raise ValueError("a report needs predictions from each result")
    chosen = results[shown]
    predictions = [_predictions(result, query_ids, ground_truth) for result in results]
    curves = [precision_recall(one) for _, one in predictions]
    rankings = [ranking(r.query_ids, r.reference_ids, r.scores) for r in results]
    threshold = answer_threshold(rankings[shown], ground_truth, PRECISION)
    outcome = outcomes(rankings[shown], query_ids, ground_truth, threshold)
    environment = jinja2.Environment(
        autoescape=True, finalize=_printable, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("sscd_jax.evaluation.report").joinpath("page.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        title=title,
        summary=summary,
        results=results,
        shown=chosen,
        best={name: max(r.metrics[name] for r in results) for name in chosen.metrics},
        meanings=[text for name, text in _MEANINGS.items() if name in chosen.metrics],
        training=_training_charts(history or {}),
        precision_recall=_precision_recall_chart(results, curves),
        histograms=_histograms(results),
        thresholds=per_threshold(predictions[shown][1], steps=12),
        by_edit=_by_edit(rankings, ground_truth, edits or {}),
        edits_chart=_edits_chart(chosen.name, *predictions[shown], edits) if edits else None,
        threshold=threshold,
        precision=PRECISION,
        outcomes=counts(outcome),
        examples=examples(rankings[shown], ground_truth, outcome, query_images, reference_images, edits or {}),
        galleries=galleries(
            rankings[shown],
            ground_truth,
            chosen.copy_similarities,
            outcome,
            query_images,
            reference_images,
            edits or {},
        ),
        facts=facts or {},
    )
    write_text(path, page)


def _printable(value: object) -> object:
    """Makes names harmless that have control characters, or marks of the direction of text."""
    if not isinstance(value, str) or isinstance(value, Markup):  # pieces of the page itself are `Markup`
        return value
    return printable_lines(value)


def _predictions(
    result: Result, query_ids: Sequence[str], ground_truth: Sequence[tuple[str, str]]
) -> tuple[Sequence[str], Predictions]:
    """Returns the ids of the queries, and the predictions by the rows of these ids."""
    truth = set(ground_truth)
    queries = result.query_ids.tolist()
    row = {one: i for i, one in enumerate(query_ids)}
    query, reference = np.array([row[one] for one in queries]), np.unique(result.reference_ids, return_inverse=True)[1]
    is_match = np.array([pair in truth for pair in zip(queries, result.reference_ids.tolist(), strict=True)])
    positives = np.bincount([row[one] for one, _ in truth], minlength=len(row))
    return query_ids, Predictions(query, reference, result.scores, is_match, positives)


def _edits_chart(name: str, query_ids: Sequence[str], predictions: Predictions, edits: Mapping[str, Edited]) -> Chart:
    return Chart(f"{name}: %", data_uri(edits_chart(by_edit(predictions, query_ids, edits, bootstrap=0))))


def _training_charts(history: Mapping[str, Sequence[float]]) -> list[Chart]:
    charts = []
    for title, labels in _HISTORY.items():
        lines = [
            Line(label, np.asarray(history["step"]), np.asarray(history[name]))
            for name, label in labels.items()
            if name in history
        ]
        if lines:
            charts.append(Chart(title, data_uri(line_chart(lines, x_label="step"))))
    return charts


def _precision_recall_chart(results: Sequence[Result], curves: Sequence[Curve]) -> Chart:
    lines = [Line(result.name, curve.recall, curve.precision) for result, curve in zip(results, curves, strict=True)]
    figure = line_chart(lines, x_label="recall", y_label="precision", unit_square=True, rule=PRECISION)
    return Chart("Precision and recall", data_uri(figure))


def _histograms(results: Sequence[Result]) -> list[Chart]:
    """Draws a histogram for each result; those of one kind of score have the same range."""
    labels = ("copies and their originals", "queries and their best incorrect match")
    charts = []
    for result in results:
        alike = [
            one for other in results if other.score_name == result.score_name for one in _scores(other) if len(one)
        ]
        value_range = (min([0.0, *map(np.min, alike)]), max([1e-3, *map(np.max, alike)]))
        groups = dict(zip(labels, _scores(result), strict=True))
        charts.append(
            Chart(result.name, data_uri(histogram(groups, x_label=result.score_name, value_range=value_range)))
        )
    return charts


def _scores(result: Result) -> list[np.ndarray]:
    """Returns the scores of the copies, and those of the best incorrect matches of the queries that have one."""
    return [result.copy_similarities, result.other_similarities[np.isfinite(result.other_similarities)]]


def _by_edit(
    rankings: Sequence[Ranking],
    ground_truth: Sequence[tuple[str, str]],
    edits: Mapping[str, Edited],
) -> list[tuple[str, int, list[float]]]:
    """Returns for each edit its name, the number of copies that have it, and the share that each result ranks first."""
    truth = set(ground_truth)
    copies_by_edit: dict[str, list[str]] = {}
    for query in sorted({query for query, _ in ground_truth}):
        for name in set(edits[query].kinds if query in edits else ()):
            copies_by_edit.setdefault(name, []).append(query)
    rows = []
    for name, copies in sorted(copies_by_edit.items()):
        shares = [
            sum(query in ranked and (query, ranked[query][0][0]) in truth for query in copies) / len(copies)
            for ranked in rankings
        ]
        rows.append((name, len(copies), shares))
    return sorted(rows, key=lambda row: -row[2][-1])
