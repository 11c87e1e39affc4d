"""CSV files of image sets: the ground truth, and how queries were edited."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from sscd_jax.files import atomic_file

Strength = Literal["weak", "medium", "strong"]
STRENGTHS = get_args(Strength)
SEPARATOR = " + "  # between the edits of a query in a CSV file


def read_ground_truth(path: Path) -> list[tuple[str, str]]:
    """Reads a CSV file with the header query_id,reference_id.

    The header may be omitted if the first line starts with a DISC id such as Q00000, as in the released files of
    DISC2021. Rows without a reference, which these files have for queries that copy nothing, are skipped.

    Returns:
        Pairs (query id, reference id).

    Raises:
        ValueError: the file does not exist, has another format, or has no pair; the error names the line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; the ground truth is a CSV file with the header query_id,reference_id")
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.reader(file))
    except csv.Error as error:
        raise ValueError(f"{path}: {error}; is a quotation mark missing?") from error
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
        raise ValueError(f"{path}: it has no pair of a query and a reference")
    return pairs


@dataclass(frozen=True)
class Edited:
    """How a query was edited.

    Attributes:
        kinds: the edits, in the order in which they were applied.
        strength: the strength of all of them, one of STRENGTHS, or "" if it is not known.
    """

    kinds: tuple[str, ...]
    strength: str = ""


def read_edits(path: Path) -> dict[str, Edited]:
    """Reads how queries were edited from a CSV file.

    Args:
        path: a file with the columns query_id, edits (such as "crop + text") and optionally strength.

    Returns:
        The edits of each query, by its id.

    Raises:
        ValueError: the file does not exist or lacks a column.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file; it should be a CSV file with the columns query_id and edits")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8: {error}") from error
    with io.StringIO(text, newline="") as file:
        reader = csv.DictReader(file)
        if absent := {"query_id", "edits"} - set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {', '.join(sorted(absent))}: its first line must name the columns")
        return {
            row["query_id"]: Edited(
                tuple(kind for kind in (row["edits"] or "").split(SEPARATOR) if kind), row.get("strength") or ""
            )
            for row in reader
        }


def write_csv(path: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    """Writes a CSV file in the format of all image sets: UTF-8, with commas and line feeds."""
    with atomic_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


# Each block of Copydays has 157 images, but strong has 229.
COPYDAYS_BLOCKS = (
    "original",
    "strong",
    *(f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)),
    *(f"crops/{percent}" for percent in (10, 15, 20, 30, 40, 50, 60, 70, 80)),
)
COPYDAYS_IMAGES = 157 * 19 + 229  # in all blocks
