"""Metrics by what was done to the queries: which edits does a descriptor not see through?"""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from sscd_jax.edits_common import Strength
from sscd_jax.evaluation.bootstrap import METRICS, interval
from sscd_jax.evaluation.metrics import Predictions, is_answered

SEPARATOR = " + "  # between edits in a CSV file
STRENGTHS = get_args(Strength)


@dataclass(frozen=True)
class Edited:
    """How a query was made: kinds of edits in the order applied, and their strength ("" if unknown)."""

    kinds: tuple[str, ...]
    strength: str = ""


def read_edits(path: Path) -> dict[str, Edited]:
    """Of each query, from a CSV file with query_id, edits ("crop + text") and maybe strength.

    Raises:
        ValueError: there is no such file, or it has no such columns; names it.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it should be a CSV file with the columns query_id and edits")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if absent := {"query_id", "edits"} - set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {', '.join(sorted(absent))}: its first line must name the columns")
        return {
            row["query_id"]: Edited(
                tuple(kind for kind in row["edits"].split(SEPARATOR) if kind), row.get("strength") or ""
            )
            for row in reader
        }


def shares(predictions: Predictions) -> dict[str, np.ndarray]:
    """What each query has of each metric, float64 [Q]: their sum over that of `positives` is the metric.

    Of uAP, the precisions in the whole ranking at its right predictions; of accuracy_at_1, whether it is answered; of
    recall_at_p90, its right predictions above the threshold.
    """
    order = np.lexsort((predictions.query, predictions.is_match, -predictions.score))
    right = np.flatnonzero(predictions.is_match[order])
    query, found = predictions.query[order][right], np.arange(1, len(right) + 1)
    precision = found / (right + 1)
    precise = np.flatnonzero(precision >= 0.9)
    above = np.arange(len(right)) <= (precise[-1] if len(precise) else -1)
    count = len(predictions.positives)
    return {
        "uAP": np.bincount(query, precision, count),
        "accuracy_at_1": is_answered(predictions).astype(float),
        "recall_at_p90": np.bincount(query[above], minlength=count).astype(float),
    }


def by_edit(
    predictions: Predictions, query_ids: Sequence[str], edits: Mapping[str, Edited], *, bootstrap: int = 1000
) -> list[dict[str, Any]]:
    """Each metric over the copies with a kind of edit, a number of edits, a strength, and a kind and one of these.

    Groups are measured in the ranking of all queries, at its precisions and its threshold: the metric of all is the
    mean over the groups of a division, weighted by their pairs, whatever their sizes.

    Args:
        predictions: of all queries.
        query_ids: of the rows.
        edits: of the queries; those that copy nothing are not looked at.
        bootstrap: sets of queries of a group to draw for the intervals; 0 for none.

    Returns:
        Rows with kind, number, strength (None for any), copies, the metrics, and intervals.

    Raises:
        ValueError: a query that copies something is not among `edits`.
    """
    copies = np.flatnonzero(predictions.positives)
    if absent := [query_ids[i] for i in copies.tolist() if query_ids[i] not in edits]:
        raise ValueError(f"{len(absent)} queries are not in the file of edits, as {absent[0]}")
    made = [edits[query_ids[i]] for i in copies.tolist()]
    by_query = shares(predictions)
    values = np.column_stack([predictions.positives, *(by_query[name] for name in METRICS)])
    kinds = sorted({kind for one in made for kind in one.kinds})
    numbers = sorted({len(one.kinds) for one in made})
    found = {one.strength for one in made} - {""}
    strengths = sorted(found, key=lambda one: (STRENGTHS.index(one) if one in STRENGTHS else len(STRENGTHS), one))
    each: list[tuple[int | None, str | None]] = [
        (None, None),
        *((n, None) for n in numbers),
        *((None, s) for s in strengths),
    ]
    rows = []
    for kind, (number, strength) in itertools.product([None, *kinds], each):
        inside = np.array(
            [
                kind in (None, *one.kinds) and number in (None, len(one.kinds)) and strength in (None, one.strength)
                for one in made
            ]
        )
        if inside.any():
            group = copies[inside]
            row = {"kind": kind, "number": number, "strength": strength, "copies": len(group)}
            rows.append(row | _measure(values[group], bootstrap))
    return rows


def _measure(values: np.ndarray, bootstrap: int) -> dict[str, Any]:
    """The metrics and their intervals: of float64 [N, 1 + metrics], pairs and shares of each query."""
    pairs, *sums = values.sum(0)
    row: dict[str, Any] = {name: float(one / pairs) for name, one in zip(METRICS, sums, strict=True)}
    if bootstrap:
        count = len(values)
        rng = np.random.default_rng(0)
        block = max(1, 4_000_000 // count)  # so that many draws fit into memory
        drawn = [
            rng.multinomial(count, np.full(count, 1 / count), size) @ values
            for start in range(0, bootstrap, block)
            if (size := min(block, bootstrap - start))
        ]
        pairs, *sums = np.concatenate(drawn).T
        row["intervals"] = {name: interval(one / pairs) for name, one in zip(METRICS, sums, strict=True)}
    return row
