"""report.html: what was measured, in one file that opens anywhere.

Style, charts and thumbnails are inside the file, there is no script, and the page forbids itself to
load anything. The input is plain data: numpy arrays, paths and dicts, from any evaluation.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import jinja2
import numpy as np

from sscd_jax.charts import Line, data_uri, histogram, line_chart
from sscd_jax.evaluation.metrics import Curve, Predictions, precision_recall, recall_at_precision
from sscd_jax.report_gallery import Ranking, counts, galleries, outcomes, ranking
from sscd_jax.search import knn

PRECISION = 0.9

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
      name: how the page calls it.
      metrics: its row in the table, label -> value in [0, 1]; the same labels for every result.
      query_ids, reference_ids, scores: the predictions, [K] each, in any order.
      copy_similarities: float [P], of each pair of the ground truth, in its order.
      other_similarities: float [Q], of each query and the nearest reference that it does not copy.
    """

    name: str
    metrics: Mapping[str, float]
    query_ids: np.ndarray
    reference_ids: np.ndarray
    scores: np.ndarray
    copy_similarities: np.ndarray
    other_similarities: np.ndarray


class Chart(NamedTuple):
    """A chart, as the data URI of an SVG, and its title."""

    title: str
    image: str


def result_from_vectors(
    name: str,
    metrics: Mapping[str, float],
    *,
    query_ids: Sequence[str],
    queries: np.ndarray,
    reference_ids: Sequence[str],
    references: np.ndarray,
    ground_truth: Sequence[tuple[str, str]],
    k: int = 10,
) -> Result:
    """The k most similar references of each query, by inner product, and the similarities of copies.

    Args:
      queries: float32 [Q, D].
      references: float32 [R, D].
      ground_truth: pairs (query id, reference id).

    Raises:
      ValueError: the ground truth names an id that has no vector.
    """
    row = {query: i for i, query in enumerate(query_ids)}
    column = {reference: j for j, reference in enumerate(reference_ids)}
    for query, reference in ground_truth:
        if query not in row or reference not in column:
            raise ValueError(
                f"the ground truth pairs {query} with {reference}, and one of them has no descriptor: "
                "embed the pictures of all pairs"
            )
    pairs = np.array([(row[q], column[r]) for q, r in ground_truth], np.int64).reshape(-1, 2)
    copies = (queries[pairs[:, 0]] * references[pairs[:, 1]]).sum(1)
    # A query's nearest wrong match is among as many nearest as it has right ones, and one more.
    depth = 1 + int(np.bincount(pairs[:, 0]).max(initial=0))
    scores, nearest = knn(queries, references, max(k, depth), "inner_product")
    right = np.isin(np.arange(len(queries))[:, None] * len(references) + nearest, pairs @ [len(references), 1])
    return Result(
        name=name,
        metrics=metrics,
        query_ids=np.repeat(np.asarray(query_ids), scores[:, :k].shape[1]),
        reference_ids=np.asarray(reference_ids)[nearest[:, :k].ravel()],
        scores=scores[:, :k].ravel(),
        copy_similarities=copies,
        other_similarities=np.where(right, -np.inf, scores).max(1),
    )


def write_report(
    path: Path,
    *,
    title: str,
    summary: str,
    results: Sequence[Result],
    ground_truth: Sequence[tuple[str, str]],
    pictures: Mapping[str, Path],
    history: Mapping[str, Sequence[float]] | None = None,
    edits: Mapping[str, Sequence[str]] | None = None,
    facts: Mapping[str, str] | None = None,
) -> None:
    """Writes the page under a temporary name, then renames it to `path`.

    Args:
      summary: some sentences: what was done.
      results: one for each descriptor; the last is the one whose answers are shown in pictures.
      ground_truth: pairs (query id, reference id); a query in none of them copies nothing.
      pictures: the files of the ids; where one is absent or unreadable, the page shows the id.
      history: training metrics by step: "step", "loss" and what `sscd_jax.losses.sscd_loss` names.
      edits: for each query, the names of the edits that made it.
      facts: name -> value, at the foot of the page.

    Raises:
      ValueError: no result, one without predictions, or results with different metrics.
    """
    if not results or any(list(r.metrics) != list(results[0].metrics) for r in results):
        raise ValueError("a report needs at least one result, and the same metrics from each")
    if any(not len(r.scores) for r in results):
        raise ValueError("a report needs predictions from each result")
    shown = results[-1]
    curves = [_curve(result, ground_truth) for result in results]
    rankings = [ranking(r.query_ids, r.reference_ids, r.scores) for r in results]
    _, threshold = recall_at_precision(curves[-1], PRECISION)
    outcome = outcomes(rankings[-1], ground_truth, threshold)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = files("sscd_jax").joinpath("report.html.jinja").read_text(encoding="utf-8")
    page = environment.from_string(template).render(
        title=title,
        summary=summary,
        results=results,
        shown=shown,
        best={label: max(r.metrics[label] for r in results) for label in shown.metrics},
        training=_training_charts(history or {}),
        precision_recall=_precision_recall_chart(results, curves),
        histograms=_histograms(results),
        by_edit=_by_edit(rankings, ground_truth, edits or {}),
        threshold=threshold,
        precision=PRECISION,
        outcomes=counts(outcome),
        galleries=galleries(rankings[-1], ground_truth, shown.copy_similarities, outcome, pictures, edits or {}),
        facts=facts or {},
    )
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(page, encoding="utf-8")
    os.replace(unfinished, path)


def _curve(result: Result, ground_truth: Sequence[tuple[str, str]]) -> Curve:
    truth = set(ground_truth)
    queries = result.query_ids.tolist()
    row = {one: i for i, one in enumerate(dict.fromkeys([*queries, *(query for query, _ in truth)]))}
    query, reference = np.array([row[one] for one in queries]), np.unique(result.reference_ids, return_inverse=True)[1]
    is_match = np.array([pair in truth for pair in zip(queries, result.reference_ids.tolist(), strict=True)])
    positives = np.bincount([row[one] for one, _ in truth], minlength=len(row))
    return precision_recall(Predictions(query, reference, result.scores, is_match, positives))


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
    """One for each result, the one that is shown first, all over the same similarities."""
    groups = [(r.copy_similarities, r.other_similarities[np.isfinite(r.other_similarities)]) for r in results]
    low = min([0.0, *(float(v.min()) for group in groups for v in group if len(v))])
    labels = ("copies and their originals", "queries and their nearest wrong match")
    return [
        Chart(
            result.name,
            data_uri(histogram(dict(zip(labels, group, strict=True)), x_label="similarity", value_range=(low, 1.0))),
        )
        for result, group in zip(results[::-1], groups[::-1], strict=True)
    ]


def _by_edit(
    rankings: Sequence[Ranking],
    ground_truth: Sequence[tuple[str, str]],
    edits: Mapping[str, Sequence[str]],
) -> list[tuple[str, int, list[float]]]:
    """For each edit: its name, how many copies had it, and the share of them that each result puts first."""
    truth = set(ground_truth)
    copies_by_edit: dict[str, list[str]] = {}
    for query in sorted({query for query, _ in ground_truth}):
        for name in set(edits.get(query, ())):
            copies_by_edit.setdefault(name, []).append(query)
    rows = []
    for name, copies in sorted(copies_by_edit.items()):
        shares = [
            sum(query in ranked and (query, ranked[query][0][0]) in truth for query in copies) / len(copies)
            for ranked in rankings
        ]
        rows.append((name, len(copies), shares))
    return sorted(rows, key=lambda row: -row[2][-1])
