"""The commands that measure: thin calls into the package."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro


def evaluate_disc(
    queries: Path,
    references: Path,
    ground_truth: Path,
    training: Path | None = None,
    codecs: tuple[str, ...] = (),
    score_norm: tuple[str, ...] = (),
    candidates: Literal["per_query", "global"] = "per_query",
    k: int = 10,
    bootstrap: int = 1000,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on DISC2021: a row for each codec, without and with score normalisation.

    Behind each metric is where it lies, at 95 %, were other such queries asked (by bootstrap over the queries).

    Args:
        queries: Descriptors of the queries, a folder that `sscd-jax embed` wrote.
        references: Descriptors of the pictures that are searched.
        ground_truth: CSV file with the header query_id,reference_id.
        training: Descriptors that codecs are fitted on and scores normalised by.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        score_norm: Score normalisations by the training descriptors, as weight[first,last]; by default 1.0[0,2] where
            --training is given.
        candidates: The best k of each query, or the best k x queries of all.
        k: Candidates a query.
        bootstrap: Sets of queries to draw for the intervals; 0 for none.
        out: JSON file for the rows; by default QUERIES.disc.json.
    """
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.evaluation import disc

    if score_norm and not training:
        raise ValueError(f"--score-norm {' '.join(score_norm)} needs --training, the descriptors to normalise by")
    out = _checked(out or queries.with_name(f"{queries.name}.disc.json"))
    rows = disc.evaluate(
        Descriptors.read(queries),
        Descriptors.read(references),
        Descriptors.read(training) if training else None,
        disc.read_ground_truth(ground_truth),
        codecs=codecs or None,
        score_norms=[None, *(score_norm or ["1.0[0,2]"])] if training else [None],
        k=k,
        candidates=candidates,
        bootstrap=bootstrap,
    )
    print(table([_with_intervals(row) for row in rows]))
    _write(out, rows)


def _with_intervals(row: dict[str, Any]) -> dict[str, Any]:
    """As a line of a table."""
    intervals = row.get("intervals", {})
    shown = {name: value for name, value in row.items() if name not in ("intervals", "bootstrap")}
    return shown | {name: f"{row[name]:.4f} ({low:.3f}-{high:.3f})" for name, (low, high) in intervals.items()}


def evaluate_compare(before: tyro.conf.Positional[Path], after: tyro.conf.Positional[Path]) -> None:
    """Compare two evaluations of the same queries, and say which differences are more than chance.

    Differences are paired: both are measured on the same draws of queries. Of 95 %: "within noise" where 0 is among
    what the difference may be.

    Args:
        before: JSON file that `sscd-jax evaluate disc` wrote.
        after: Another.
    """
    from sscd_jax.evaluation.compare import compare

    print(table(compare(_read(before), _read(after))))


def _read(path: Path) -> Any:
    try:
        rows = json.loads(path.read_text())
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "codec" in row for row in rows):
            raise ValueError("it has no rows of an evaluation")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; give a JSON file that `sscd-jax evaluate disc` wrote") from error
    return rows


def evaluate_copydays(
    copydays: Path,
    distractors: Path | None = None,
    training: Path | None = None,
    codecs: tuple[str, ...] = (),
    k: int = 100,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on Copydays with distractors: a row for each codec.

    Args:
        copydays: Descriptors of Copydays' folder, whose ids are as strong/200001.
        distractors: Descriptors of pictures that are searched besides the originals; the paper takes 10,000.
        training: Descriptors that codecs are fitted on.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        k: Neighbours of a query that count.
        out: JSON file for the rows, with the mAP of each block; by default COPYDAYS.copydays.json.
    """
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.evaluation import disc
    from sscd_jax.evaluation.copydays import PICTURES, evaluate

    out = _checked(out or copydays.with_name(f"{copydays.name}.copydays.json"))
    pictures = Descriptors.read(copydays)
    background = Descriptors.read(training) if training else None
    rows = evaluate(
        pictures,
        Descriptors.read(distractors) if distractors else None,
        background,
        codecs=codecs or disc.default_codecs(background),
        k=k,
    )
    if len(pictures.ids) != PICTURES:
        print(f"{copydays} has {len(pictures.ids)} pictures; Copydays has {PICTURES}", file=sys.stderr)
    print(table([{name: value for name, value in row.items() if name != "block_mAP"} for row in rows]))
    _write(out, rows)


def _checked(out: Path) -> Path:
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: it must be a file in a folder that exists")
    return out


def _write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    unfinished = out.with_name(f"{out.name}.unfinished")
    unfinished.write_text(json.dumps(rows, indent=2))
    unfinished.replace(out)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as text in columns."""
    cells = [list(rows[0])] + [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
