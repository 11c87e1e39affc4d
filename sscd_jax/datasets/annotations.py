"""CSV files beside sets of images: ground truth, and how queries were made."""

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Strength = Literal["weak", "medium", "strong"]
SEPARATOR = " + "  # between edits in a CSV file
STRENGTHS = get_args(Strength)


def read_ground_truth(path: Path) -> list[tuple[str, str]]:
    """Pairs (query id, reference id) of a CSV file with the header query_id,reference_id.

    DISC2021's released files have no header: one is not missed where the first line begins with such an id, as Q00000.
    Rows without a reference, as in DISC2021's released files, are queries that copy nothing; they are left out.

    Raises:
        ValueError: there is no such file, or it is not of that form; names the line.
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
        raise ValueError(f"{path}: there is no pair in it: nothing copies anything")
    return pairs


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
    """A table as all image sets have them: UTF-8, commas, lines that end in a line feed."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


# Images of each: 157, in strong 229.
COPYDAYS_BLOCKS = (
    "original",
    "strong",
    *(f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)),
    *(f"crops/{percent}" for percent in (10, 15, 20, 30, 40, 50, 60, 70, 80)),
)


COPYDAYS_IMAGES = 157 * 19 + 229
