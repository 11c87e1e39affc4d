"""What an evaluation leaves on disk: NAME.json, its rows, and beside it the folder NAME.

The folder holds thresholds.csv, where queries were edited by_edit.csv, and predictions.npz, from which charts and
reports are made; charts lie there as well (`evaluation_charts`).
"""

import csv
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.datasets.annotations import SEPARATOR, Edited
from sscd_jax.evaluation.metrics import Found, Predictions
from sscd_jax.evaluation.thresholds import per_threshold

PREDICTIONS = "predictions.npz"
SETTINGS = ("codec", "score_norm", "candidates", "k", "unit")


@dataclass(frozen=True)
class Evaluation:
    """Rows of metrics and the searches that they measure.

    Attributes:
        rows: of `disc.evaluate` or `copydays.evaluate`, maybe with by_edit.
        found: for each row.
        query_ids: in the order of the rows of predictions; `reference_ids` likewise.
        ground_truth: pairs (query id, reference id), in the order of `Found.pair_scores`.
        edits: of the queries, where known.
        facts: name -> text, what a reader should know of how it was made.
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
    """What tells a row from the others of its evaluation, in words."""
    parts = [row["codec"]]
    if row.get("score_norm"):
        parts.append(f"score norm {row['score_norm']}")
    if row.get("candidates") == "global":
        parts.append("best of all")
    return ", ".join(parts)


def check_free(out: Path) -> None:
    """Raises ValueError where the folder of NAME.json holds something else than an earlier evaluation."""
    folder = out.with_suffix("")
    if folder.exists() and not (folder / PREDICTIONS).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{out}: its charts would go to {folder}, which holds something else: take another name")


def write(out: Path, evaluation: Evaluation, draw: Callable[[Path], None] | None = None) -> Path:
    """Writes all under temporary names, in the place of an earlier evaluation, the rows last; returns the folder.

    Args:
        out: NAME.json.
        evaluation: what to write.
        draw: puts charts into the folder that it is given.

    Raises:
        ValueError: see `check_free`.
    """
    check_free(out)
    whole = out.with_suffix("")
    folder = whole.with_name(f"{whole.name}.unfinished")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    settings = [{name: row[name] for name in SETTINGS if name in row and name != "unit"} for row in evaluation.rows]
    steps = [
        one | step
        for one, found in zip(settings, evaluation.found, strict=True)
        for step in per_threshold(found.predictions)
    ]
    _write_csv(folder / "thresholds.csv", steps)
    groups = [
        one | _flat(group)
        for one, row in zip(settings, evaluation.rows, strict=True)
        for group in row.get("by_edit", ())
    ]
    if groups:
        _write_csv(folder / "by_edit.csv", groups)
    _write_predictions(folder / PREDICTIONS, evaluation)
    if draw:
        draw(folder)
    shutil.rmtree(whole, ignore_errors=True)
    folder.rename(whole)
    _renamed(out, json.dumps(evaluation.rows, indent=2).encode())
    return whole


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of an evaluation.

    Raises:
        ValueError: there is no such file, or it is another; names it.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(rows, list) or not rows or not all(isinstance(r, dict) and "codec" in r for r in rows):
            raise ValueError("it has no rows of an evaluation")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; give a JSON file that `sscd-jax evaluate` wrote") from error
    return rows


def read(path: Path) -> Evaluation:
    """What `write` wrote.

    Raises:
        ValueError: a file is missing or damaged; names it.
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
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{file}: {error}; evaluate again, which writes it beside {path.name}") from error
    return Evaluation(rows, found, query_ids, reference_ids, pairs, edits, facts, sources)


def _write_predictions(path: Path, evaluation: Evaluation) -> None:
    """References that no prediction names and nothing copies are left out."""
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
    unfinished = path.with_name(f"{path.name}.unfinished")
    with unfinished.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    os.replace(unfinished, path)


def _flat(group: Mapping[str, Any]) -> dict[str, Any]:
    """A row of by_edit with its intervals as columns; "any" where it is of any kind, number or strength."""
    row = {name: "any" if value is None else value for name, value in group.items() if name != "intervals"}
    for name, (low, high) in group.get("intervals", {}).items():
        row |= {f"{name}_low": low, f"{name}_high": high}
    return row


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [list(rows[0])] + [
        [f"{value:.6g}" if isinstance(value, float) else value for value in row.values()] for row in rows
    ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    _renamed(path, text.getvalue().encode())


def _renamed(path: Path, data: bytes) -> None:
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_bytes(data)
    unfinished.replace(path)
