"""Prints tables, and writes the files of evaluations, for the commands that measure."""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sscd_jax.evaluation.results import Evaluation, check_free, label, write
from sscd_jax.files import check_file

GENERATOR = '<meta name="generator" content="sscd_jax">'  # in page.html.jinja
AT = ("precision", "threshold", "similarity", "recall")


def checked(
    out: Path,
    *,
    may_make: Path | None = None,
    extension: str = ".json",
    check: Callable[[Path], None] = check_free,
) -> Path:
    """Returns the path of an output file after checking it.

    Args:
        out: the path.
        may_make: a folder that will be made before the file is written.
        extension: the extension that the file must have.
        check: raises ValueError if a JSON file, or what is written with it, is something else than this kind of output.

    Raises:
        ValueError: the file cannot be written there, has another extension, or is something else than this kind of
            output.
    """
    if out.is_dir() or not (out.parent.is_dir() or out.parent == may_make):
        raise ValueError(f"--out {out}: it must be a file in a folder that exists")
    if out.suffix != extension:
        raise ValueError(f"--out {out}: its name must end in {extension}")
    if extension == ".json":
        check(out)
    else:
        check_file(out, _calibration if extension == ".npz" else _report)
    return out


def _calibration(path: Path) -> None:
    from sscd_jax.search.calibration import Calibration

    Calibration.read(path)


def _report(path: Path) -> None:
    with path.open("rb") as file:
        if GENERATOR.encode() not in file.read(4096):
            raise ValueError("it is not a report")


def beside(folder: str | Path, extension: str) -> Path:
    """Returns the path of an output file beside a folder of descriptors, such as queries.disc.json.

    Raises:
        ValueError: the folder is in a store.
    """
    if "://" in str(folder):
        raise ValueError(f"--out is needed: nothing is written beside {folder}")
    return Path(folder).with_name(f"{Path(folder).name}.{extension}")


def leave(out: Path, evaluation: Evaluation, *, precision: float = 0.9) -> None:
    """Prints the tables of an evaluation, and writes its rows, predictions and charts.

    Args:
        out: the JSON file for the rows.
        evaluation: the evaluation to print and write.
        precision: the height of the dotted line in the chart of precision and recall.
    """
    rows = evaluation.rows
    hidden = (
        "intervals",
        "bootstrap",
        "block_mAP",
        "block_intervals",
        "at_precision",
        "at_calibration",
        "by_edit",
        "unit",
        "left_out",
    )
    print(table([{n: with_interval(row, n) for n in row if n not in hidden} for row in rows]))
    at = [
        {"": label(row)} | {name: _number(at[name], at.get(f"{name}_interval")) for name in AT}
        for row in rows
        for at in row.get("at_precision", ())
    ]
    if at:
        print(f"\nThe threshold of the score for a precision\n{table(at)}")
    if calibrated := [{"": label(row)} | row["at_calibration"] for row in rows if "at_calibration" in row]:
        print(f"\nAt the threshold of the calibration\n{table(calibrated)}")
    if "block_mAP" in rows[0]:
        blocks = [
            {"mAP": name}
            | {label(row): _number(row["block_mAP"][name], row.get("block_intervals", {}).get(name)) for row in rows}
            for name in rows[0]["block_mAP"]
        ]
        print(f"\n{table(blocks)}")
    if "by_edit" in rows[0]:
        best = max(rows, key=lambda row: row["uAP"])
        print(f"\nBy edit: {label(best)}\n{table(_groups(best))}")
    if left_out := rows[0].get("left_out"):
        distractors = f"{left_out} distractors are left out: each is the same image as one of Copydays"
        print(f"\n{distractors if 'block_mAP' in rows[0] else same_images(left_out)}")
    draw = None
    try:
        from sscd_jax.evaluation.report.evaluation_charts import write_charts
    except ImportError as error:
        print(f"no charts: {error}", file=sys.stderr)
    else:
        draw = partial(write_charts, evaluation=evaluation, precision=precision)
    folder = write(out, evaluation, draw)
    print(f"\nLook at {folder}; or make a page of it: sscd-jax report {out}")


def same_images(pairs: int) -> str:
    """Returns a sentence about the pairs that were left out, or "" if there are none."""
    if not pairs:
        return ""
    return (
        f"{pairs} pairs of an image and a reference are left out: they are the same image, by the same descriptor or "
        "the same id, and no ground truth names them as copies"
    )


def _groups(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """Returns lines for all copies, for each number of edits, each strength, and each kind of edit, worst first."""
    names = {name: None for name in ("kind", "number", "strength")}
    single = [g for g in row["by_edit"] if sum(g[name] is not None for name in names) < 2]
    single.sort(key=lambda group: (group["kind"] is not None, group["kind"] is not None and group["uAP"]))
    lines = []
    for group in single:
        number = group["number"] and f"{group['number']} edit{'s' if group['number'] > 1 else ''}"
        name = group["kind"] or group["strength"] or number or "all"
        values = {n: with_interval(group, n) for n in group if n not in (*names, "intervals")}
        lines.append({"": name} | values)
    return lines


def with_interval(row: Mapping[str, Any], name: str) -> str:
    """Returns a metric of a row as text, followed by its confidence interval if the row has one."""
    return _number(row[name], row.get("intervals", {}).get(name))


def _number(value: Any, interval: Sequence[float] | None) -> str:
    text = f"{value:.4f}" if isinstance(value, float) else "none" if value is None else str(value)
    return f"{text} ({interval[0]:.3f} to {interval[1]:.3f})" if interval else text


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Formats rows, which all have the same keys, as text in aligned columns."""
    cells = [list(rows[0])] + [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
