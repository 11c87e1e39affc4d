"""Draws the charts of an evaluation, as SVG and PNG files beside its other files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from sscd_jax.evaluation.bootstrap import METRICS
from sscd_jax.evaluation.metrics import Predictions, precision_recall
from sscd_jax.evaluation.report.charts import Line, heat_map, histograms, line_chart, save
from sscd_jax.evaluation.results import Evaluation, label


def write_charts(folder: Path, evaluation: Evaluation, *, precision: float = 0.9) -> None:
    """Writes charts to a folder: precision_recall, scores, and by_edit if the rows have it, .svg and .png each.

    Args:
        folder: the folder of the charts.
        evaluation: the evaluation to draw.
        precision: the height of the dotted line in precision_recall.
    """
    curves = [precision_recall(found.predictions) for found in evaluation.found]
    names = [label(row) for row in evaluation.rows]
    lines = [Line(name, curve.recall, curve.precision) for name, curve in zip(names, curves, strict=True)]
    figure = line_chart(lines, x_label="recall", y_label="precision", unit_square=True, rule=precision)
    save(figure, folder / "precision_recall")
    panels = {
        name: {
            "copies and their originals": found.pair_scores,
            "queries and their best incorrect match": best_incorrect(found.predictions),
        }
        for name, found in zip(names, evaluation.found, strict=True)
    }
    save(histograms(panels, x_label="score"), folder / "scores")
    if "by_edit" in evaluation.rows[0]:
        best = max(evaluation.rows, key=lambda row: row["uAP"])
        figure = edits_chart(best["by_edit"])
        figure.suptitle(f"{label(best)}: %", parse_math=False)
        save(figure, folder / "by_edit")


def best_incorrect(predictions: Predictions) -> np.ndarray:
    """Returns the score of the best incorrect candidate of each query that has one: float [n]."""
    best = np.full(len(predictions.positives), -np.inf)
    incorrect = ~predictions.is_match
    np.maximum.at(best, predictions.query[incorrect], predictions.score[incorrect])
    return best[np.isfinite(best)]


def edits_chart(groups: Sequence[Mapping[str, Any]]) -> Figure:
    """Draws each metric by kind of edit, worst first, and by number of edits and strength.

    Args:
        groups: the rows of `by_edit`.
    """
    kinds = [group for group in groups if group["kind"] and group["number"] is None and group["strength"] is None]
    rows = [None, *(group["kind"] for group in sorted(kinds, key=lambda group: group["uAP"]))]
    numbers = list(dict.fromkeys(group["number"] for group in groups if group["number"] is not None))
    strengths = list(dict.fromkeys(group["strength"] for group in groups if group["strength"] is not None))
    columns = [(None, None), *((number, None) for number in numbers), *((None, strength) for strength in strengths)]
    panels = {name: np.full((len(rows), len(columns)), np.nan) for name in METRICS}
    for group in groups:
        cell = rows.index(group["kind"]), columns.index((group["number"], group["strength"]))
        for name, values in panels.items():
            values[cell] = group[name]
    counts = {group["kind"]: group["copies"] for group in kinds}
    return heat_map(
        panels,
        ["all copies", *(f"{kind} ({counts[kind]})" for kind in rows[1:])],
        ["all", *(f"{number} edit{'s' if number != 1 else ''}" for number in numbers), *strengths],
        rules=[1, *([1 + len(numbers)] if strengths else [])],
    )
