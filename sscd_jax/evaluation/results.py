"""Writes an evaluation to disk, and reads it: NAME.json has its rows, and the folder NAME beside it has the rest.

The folder holds thresholds.csv; by_edit.csv, if the edits of the queries are known; predictions.npz, from which charts
and reports are made; and the charts (see `report.evaluation_charts`).
"""

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.datasets.annotations import SEPARATOR, Edited
from sscd_jax.evaluation.metrics import Found, Predictions
from sscd_jax.evaluation.thresholds import per_threshold
from sscd_jax.files import NPZ_ERRORS, FolderKind, atomic_folder, check_file, write_text

PREDICTIONS = "predictions.npz"
MARK = "manifest.json"
FOLDER = FolderKind(
    "sscd_jax evaluation",
    1,
    rf"{re.escape(MARK)}|{re.escape(PREDICTIONS)}|(thresholds|by_edit)\.csv|(precision_recall|scores|by_edit)\.(svg|png)",
    (MARK,),
)
_COLUMNS = ("codec", "score_norm", "candidates", "k")  # of the tables in the folder
SETTINGS = (*_COLUMNS, "unit", "left_out")


@dataclass(frozen=True)
class Evaluation:
    """Rows of metrics and the searches that they measure.

    Attributes:
        rows: the rows of `disc.evaluate` or `copydays.evaluate`, with by_edit if the edits of the queries are known.
        found: the search of each row.
        query_ids, reference_ids: the ids of the queries and references, by the rows that predictions name.
        ground_truth: pairs (query id, reference id), in the order of `Found.pair_scores`.
        edits: how queries were edited, by query id, if it is known.
        facts: name -> text, for the foot of a report: how the evaluation was made.
        sources: pairs ("queries" or "references", where its images were, as `open_source` takes it).
    """

    rows: Sequence[Mapping[str, Any]]
    found: Sequence[Found]
    query_ids: Sequence[str]
    reference_ids: Sequence[str]
    ground_truth: Sequence[tuple[str, str]]
    edits: Mapping[str, Edited] = field(default_factory=dict)
    facts: Mapping[str, str] = field(default_factory=dict)
    sources: Sequence[tuple[str, str]] = ()


def label(row: Mapping[str, Any]) -> str:
    """Returns a short name of a row that no other row of its evaluation has."""
    parts = [row["codec"]]
    if row.get("score_norm"):
        parts.append(f"score norm {row['score_norm']}")
    if row.get("candidates") == "global":
        parts.append("best of all")
    return ", ".join(parts)


def check_free(out: Path) -> None:
    """Raises ValueError if NAME.json or its folder exists and is something else than an earlier evaluation."""
    check_file(out, read_rows)
    FOLDER.check(out.with_suffix(""))


def write(out: Path, evaluation: Evaluation, draw: Callable[[Path], None] | None = None) -> Path:
    """Writes an evaluation, replacing an earlier one: first the folder, then the rows.

    Args:
        out: the path of NAME.json.
        evaluation: the evaluation to write.
        draw: a function that writes charts to a given folder.

    Returns:
        The folder NAME.

    Raises:
        ValueError: the folder holds something else than an earlier evaluation.
    """
    check_free(out)
    settings = [{name: row[name] for name in _COLUMNS if name in row} for row in evaluation.rows]
    steps = [
        one | step
        for one, found in zip(settings, evaluation.found, strict=True)
        for step in per_threshold(found.predictions)
    ]
    groups = [
        one | _flat(group)
        for one, row in zip(settings, evaluation.rows, strict=True)
        for group in row.get("by_edit", ())
    ]
    with atomic_folder(out.with_suffix(""), FOLDER.check) as folder:
        (folder / MARK).write_text(json.dumps({"format": FOLDER.format, "version": FOLDER.version}))
        (folder / "thresholds.csv").write_bytes(_csv(steps))
        if groups:
            (folder / "by_edit.csv").write_bytes(_csv(groups))
        _write_predictions(folder / PREDICTIONS, evaluation)
        if draw:
            draw(folder)
    write_text(out, json.dumps(evaluation.rows, indent=2))
    return out.with_suffix("")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Reads the rows of an evaluation.

    Raises:
        ValueError: there is no such file, or it holds something else; the error names it.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and "codec" in r for r in rows):
            raise ValueError("it has no rows of an evaluation")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; give a JSON file that `sscd-jax evaluate` wrote") from error
    return rows


def read(path: Path) -> Evaluation:
    """Reads an evaluation that `write` wrote.

    Raises:
        ValueError: a file is missing or damaged; the error names it.
    """
    rows = read_rows(path)
    file = path.with_suffix("") / PREDICTIONS
    try:
        with np.load(file, allow_pickle=False) as data:
            arrays = {name: data[name] for name in data.files}
        query_ids, reference_ids = (arrays[name].tolist() for name in ("query_ids", "reference_ids"))
        truth = arrays["truth"].astype(np.int64)
        positives = np.bincount(truth[:, 0], minlength=len(query_ids))
        keys = truth @ [len(reference_ids), 1]
        found = []
        for number, row in enumerate(rows):
            query, reference = (arrays[f"{part}_{number}"].astype(np.int64) for part in ("query", "reference"))
            is_match = np.isin(query * len(reference_ids) + reference, keys)
            predictions = Predictions(query, reference, arrays[f"score_{number}"], is_match, positives)
            if len(row) < 4 or "unit" not in row:
                raise ValueError(f"row {number} of {path.name} is damaged")
            found.append(Found({name: row.get(name) for name in SETTINGS}, predictions, arrays[f"pair_score_{number}"]))
        edits = {
            name: Edited(tuple(kind for kind in kinds.split(SEPARATOR) if kind), strength)
            for name, kinds, strength in arrays["edits"].tolist()
        }
        pairs = [(query_ids[q], reference_ids[r]) for q, r in truth.tolist()]
        facts = dict(arrays["facts"].tolist())
        sources = [(part, source) for part, source in arrays["sources"].tolist()]
    except (*NPZ_ERRORS, IndexError) as error:
        raise ValueError(f"{file}: {error}; evaluate again, which writes it beside {path.name}") from error
    return Evaluation(rows, found, query_ids, reference_ids, pairs, edits, facts, sources)


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    """Stores only references that a prediction or a ground-truth pair uses."""
    row = {name: i for i, name in enumerate(evaluation.reference_ids)}
    query_row = {name: i for i, name in enumerate(evaluation.query_ids)}
    truth = np.array([(query_row[q], row[r]) for q, r in evaluation.ground_truth], np.int32).reshape(-1, 2)
    kept = np.unique(np.concatenate([truth[:, 1], *(found.predictions.reference for found in evaluation.found)]))
    truth[:, 1] = np.searchsorted(kept, truth[:, 1])
    edits = [(name, SEPARATOR.join(one.kinds), one.strength) for name, one in evaluation.edits.items()]
    arrays: dict[str, np.ndarray] = {
        "query_ids": np.array(evaluation.query_ids, str),
        "reference_ids": np.array([evaluation.reference_ids[i] for i in kept.tolist()], str),
        "truth": truth,
        "edits": np.array(edits, str).reshape(-1, 3),
        "facts": np.array(list(evaluation.facts.items()), str).reshape(-1, 2),
        "sources": np.array(evaluation.sources, str).reshape(-1, 2),
    }
    for number, found in enumerate(evaluation.found):
        predictions = found.predictions
        arrays |= {
            f"query_{number}": predictions.query.astype(np.int32),
            f"reference_{number}": np.searchsorted(kept, predictions.reference).astype(np.int32),
            f"score_{number}": predictions.score,
            f"pair_score_{number}": found.pair_scores,
        }
    np.savez(path, allow_pickle=False, **arrays)


def _flat(group: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row of by_edit with its intervals as columns, and with "any" in place of None."""
    row = {name: "any" if value is None else value for name, value in group.items() if name != "intervals"}
    for name, (low, high) in group.get("intervals", {}).items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row


def _csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    lines = [list(rows[0])] + [
        [f"{value:.6g}" if isinstance(value, float) else value for value in row.values()] for row in rows
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue().encode()
