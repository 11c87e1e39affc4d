"""Writes the pairs, the groups and the matches of collections as tables that other programs read."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.duplicates.image_files import Seen
from sscd_jax.duplicates.matching import Matches
from sscd_jax.duplicates.options import KINDS
from sscd_jax.files import atomic_file

PAIRS = ("id_a", "id_b", "similarity", "score", "kind")
MATCHES = ("query", "rank", "match", "similarity", "score", "copy")
GROUPS = ("group", "id", "keep", "similarity_to_kept", "lowest_similarity_in_group", "width", "height", "bytes", "path")
_ROWS = 1 << 16  # rows that are written at once
_FLUSHED = 1 << 20  # characters that wait in memory


def write_pairs(
    folder: Path, found: Iterable[tuple[np.ndarray, ...]], ids: Sequence[str], others: Sequence[str] | None = None
) -> dict[str, int]:
    """Writes pairs.csv, and pairs.parquet if the extra parquet is installed. The memory does not grow with the pairs.

    Args:
        folder: where the files go.
        found: pairs in several parts, as `find.pairs` yields them.
        ids: the ids of the images.
        others: the ids of the second image of each pair, if those are of another set. Otherwise id_a is the one that
            sorts first.

    Returns:
        The number of pairs of each kind.
    """
    counts: dict[str, int] = dict.fromkeys(KINDS[1:], 0)
    with _csv(folder / "pairs.csv", PAIRS) as write, _parquet(folder / "pairs.parquet", PAIRS) as write_parquet:
        for one, other, similarity, score, kind in found:
            a = [ids[index] for index in one.tolist()]
            b = [(ids if others is None else others)[index] for index in other.tolist()]
            if others is None:
                a, b = ([f(pair) for pair in zip(a, b, strict=True)] for f in (min, max))
            kinds = [KINDS[index] for index in kind.tolist()]
            for name in kinds:
                counts[name] += 1
            numbers = [[number(value) for value in part.tolist()] for part in (similarity, score)]
            write(zip(a, b, *numbers, kinds, strict=True))
            write_parquet(_unicode(a), _unicode(b), similarity, score, kinds)
    return counts


def write_matches(folder: Path, matches: Matches) -> None:
    """Writes matches.csv, matches.jsonl, and matches.parquet if the extra parquet is installed."""
    columns = matches.query, matches.rank, matches.reference, matches.similarity, matches.score, matches.is_copy
    with (
        _csv(folder / "matches.csv", MATCHES) as write,
        atomic_file(folder / "matches.jsonl") as temporary,
        temporary.open("w", encoding="utf-8") as lines,
        _parquet(folder / "matches.parquet", MATCHES) as write_parquet,
    ):
        for start in range(0, len(matches), _ROWS):
            query, rank, match, similarity, score, copy = (part[start : start + _ROWS].tolist() for part in columns)
            numbers = [[number(value) for value in part] for part in (similarity, score)]
            write(zip(query, rank, match, *numbers, [str(one).lower() for one in copy], strict=True))
            for row in zip(query, rank, match, similarity, score, copy, strict=True):
                lines.write(json.dumps(dict(zip(MATCHES, row, strict=True))) + "\n")
            write_parquet(_unicode(query), rank, _unicode(match), similarity, score, copy)


def group_row(group: int, one: str, similarity: float, lowest: float, seen: Seen | None, *, keep: bool) -> list[Any]:
    """Returns the values of `GROUPS` for an image.

    Args:
        group: the number of its group.
        one: its id.
        similarity: its similarity to the kept image.
        lowest: the lowest similarity of two images of the group.
        seen: what is known of its file.
        keep: whether it is the one that is kept.
    """
    facts = (seen.width, seen.height, seen.bytes) if seen else (None, None, None)
    path = seen.path if seen and seen.file and not seen.link else ""
    return [group, one, str(keep).lower(), number(similarity), number(lowest), *facts, path]


def write_groups(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Writes groups.csv.

    Args:
        path: the file.
        rows: the values of `GROUPS` for each image of each group.
    """
    with _csv(path, GROUPS) as write:
        write(rows)


def write_list(path: Path, names: Iterable[str]) -> None:
    """Writes keep.txt or remove.txt, a name on each line."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        for name in names:
            file.write(name.encode("utf-8", "surrogateescape") + b"\n")


def listed_name(one: str, seen: Seen | None) -> str:
    """Returns the name of an image in keep.txt and remove.txt: the path of its file, or its id if it has none."""
    return seen.path if seen and seen.file and "\n" not in seen.path else one


def number(value: float) -> str:
    """Returns a similarity or a score as the tables have it; "" if there is none."""
    return "" if np.isnan(value) else f"{value:.6f}"


@contextmanager
def _csv(path: Path, header: Sequence[str]) -> Iterator[Any]:
    """Yields a function that appends rows to a CSV file, which is written whole or not at all."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:

        def write(rows: Iterable[Sequence[Any]]) -> None:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            quoting = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)  # the other one leaves "\r" as it is
            for row in rows:
                has_return = any("\r" in value for value in row if isinstance(value, str))
                (quoting if has_return else writer).writerow(row)
                if text.tell() > _FLUSHED:
                    file.write(text.getvalue().encode("utf-8", "surrogateescape"))
                    text.seek(0)
                    text.truncate()
            file.write(text.getvalue().encode("utf-8", "surrogateescape"))

        write([header])
        yield write


@contextmanager
def _parquet(path: Path, names: Sequence[str]) -> Iterator[Any]:
    """Yields a function that appends columns to a Parquet file, or does nothing if pyarrow is not installed."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        yield lambda *columns: None
        return
    types = {"similarity": pa.float64(), "score": pa.float64(), "kind": pa.dictionary(pa.int8(), pa.string())}
    types |= {"rank": pa.int64(), "copy": pa.bool_()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
    with atomic_file(path) as temporary, pq.ParquetWriter(temporary, schema) as writer:

        def write(*columns: Any) -> None:
            arrays = [pa.array(column, from_pandas=True) for column in columns]  # NaN becomes null
            coded = [pa.types.is_dictionary(field.type) for field in schema]
            arrays = [one.dictionary_encode() if is_coded else one for one, is_coded in zip(arrays, coded, strict=True)]
            arrays = [one.cast(field.type) for one, field in zip(arrays, schema, strict=True)]
            if len(arrays[0]):
                writer.write_table(pa.Table.from_arrays(arrays, schema=schema))

        yield write


def _unicode(ids: Iterable[str]) -> list[str]:
    return [one.encode("utf-8", "backslashreplace").decode() for one in ids]
