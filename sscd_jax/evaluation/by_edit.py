"""Metrics by kind of edit, number of edits and strength: which edits make a descriptor miss copies?"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sscd_jax.datasets.annotations import STRENGTHS, Edited
from sscd_jax.evaluation.bootstrap import METRICS, interval, sample_of, samples_of
from sscd_jax.evaluation.metrics import Predictions, is_answered


def by_edit(
    predictions: Predictions, query_ids: Sequence[str], edits: Mapping[str, Edited], *, bootstrap: int = 1000
) -> list[dict[str, Any]]:
    """Measures groups of copies: by kind of edit, by number of edits, by strength, and by kind and one of the others.

    Each group is measured in the ranking of all queries, with the precisions and the threshold of that ranking. If
    groups partition the copies, the metric of all copies is therefore the mean of the metrics of the groups, weighted
    by their numbers of pairs.

    Args:
        predictions: the predictions of all queries.
        query_ids: the ids of the queries, by row.
        edits: how each query was edited; queries that copy nothing are ignored.
        bootstrap: the number of sets of queries drawn for the confidence intervals, each with its own ranking; 0 for
            none.

    Returns:
        Rows with kind, number and strength (None for any), copies (how many are in the group), the metrics, and their
        intervals.

    Raises:
        ValueError: `edits` lacks a query that copies something.
    """
    copies = np.flatnonzero(predictions.positives)
    if absent := [query_ids[i] for i in copies.tolist() if query_ids[i] not in edits]:
        raise ValueError(f"{len(absent)} queries are not in the file of edits, such as {absent[0]}")
    made = [edits[query_ids[i]] for i in copies.tolist()]
    kinds = sorted({kind for one in made for kind in one.kinds})
    numbers = sorted({len(one.kinds) for one in made})
    found = {one.strength for one in made} - {""}
    strengths = sorted(found, key=lambda one: (STRENGTHS.index(one) if one in STRENGTHS else len(STRENGTHS), one))
    each: list[tuple[int | None, str | None]] = [
        (None, None),
        *((n, None) for n in numbers),
        *((None, s) for s in strengths),
    ]
    rows: list[dict[str, Any]] = []
    groups = []
    for kind, (number, strength) in itertools.product([None, *kinds], each):
        inside = np.array(
            [
                kind in (None, *one.kinds) and number in (None, len(one.kinds)) and strength in (None, one.strength)
                for one in made
            ]
        )
        if inside.any():
            group = np.zeros(len(query_ids))
            group[copies[inside]] = 1
            groups.append(group)
            rows.append({"kind": kind, "number": number, "strength": strength, "copies": int(inside.sum())})
    member = np.array(groups)
    answered = is_answered(predictions)
    once = sample_of(predictions, np.ones(len(query_ids), np.int64))
    shares = once.shares(answered)
    for name in METRICS:
        for row, value in zip(rows, member @ shares[name] / (member @ predictions.positives), strict=True):
            row[name] = float(value)
    if bootstrap:
        drawn = np.full((bootstrap, len(METRICS), len(rows)), np.nan)
        for number_of, sample in enumerate(samples_of(predictions, bootstrap)):
            pairs = member @ (sample.times * predictions.positives)
            there = pairs > 0
            shares = sample.shares(answered)
            for at, name in enumerate(METRICS):
                drawn[number_of, at, there] = (member @ shares[name])[there] / pairs[there]
        for column, row in enumerate(rows):
            row["intervals"] = {
                name: interval(drawn[:, at, column], of=row["copies"]) for at, name in enumerate(METRICS)
            }
    return rows
