"""The copies of queries in a collection, written to a folder.

search.json             what the folder is: format and version; the first file
collection/             the descriptors of the collection, unless they were made before; as `sscd-jax embed` writes them
queries/                those of the queries, likewise
matches.csv             all matches; matches.jsonl and matches.parquet, the same
errors.jsonl            images that could not be read, if there are any
matches.html            pages with each query beside its matches
summary.json            counts and settings; written last, so that without it the folder is not complete
"""

import json
import shutil
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.data.image_source import Source, location
from sscd_jax.descriptors import FOLDER as DESCRIPTORS
from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.duplicates import tables
from sscd_jax.duplicates.compare import SUMMARY, Embed
from sscd_jax.duplicates.matches_page import SHOWN, About, Match, Row, write_matches
from sscd_jax.duplicates.matching import BEST, Matches, match
from sscd_jax.duplicates.options import Options
from sscd_jax.duplicates.sides import Described, described
from sscd_jax.duplicates.unreadable import FILE, read_errors, write_errors
from sscd_jax.files import FolderKind, list_files, write_text

FORMAT, VERSION = "sscd_jax search", 1
MADE_BY = "plan/made_by.json"
FOLDER = FolderKind(
    FORMAT,
    VERSION,
    r"(search|summary)\.json|errors\.jsonl|matches\.(csv|jsonl|parquet)|matches(-\d+)?\.html"
    rf"|(collection|queries)(/plan)?|(collection|queries)/({DESCRIPTORS.pattern})",
    ("search.json",),
)


def search(
    queries: Source | Descriptors,
    collection: Source | Descriptors,
    out: Path,
    embed: Embed,
    options: Options,
    *,
    weights: str,
    k: int = BEST,
) -> tuple[Matches, dict[str, Any]]:
    """Finds the copies of queries in a collection, and writes them to a folder.

    A second call resumes: it embeds only images that are new or have changed. It may be given other queries.

    Args:
        queries, collection: the images, with unique ids, or their descriptors.
        out: the folder.
        embed: writes the descriptors of a source to a folder, as `write_descriptors` with a network and a preset does.
        options: what a score is; and the threshold, if there is one.
        weights: the name of the weights, for the page.
        k: the number of matches of each query where there is no threshold.

    Returns:
        What was found, and the summary that `summary.json` holds.

    Raises:
        ValueError: `out` holds something else or the descriptors of another collection, two images of a set have the
            same id, no query can be read, or the descriptors of both are of different weights or presets.
        OSError: a file cannot be written, or too many images cannot be read.
    """
    begun = time.monotonic()
    with FOLDER.locked(out):
        if isinstance(queries, Source):
            _remove_other(out / "queries", queries)
        mine = _described(queries, out / "queries", embed)
        if isinstance(collection, Descriptors):
            check_same_provenance(queries=mine.descriptors, collection=collection)
        found = match(mine, _described(collection, out / "collection", embed), options, k=k)
        errors = [
            {"set": name, **{key: error.get(key) for key in ("id", "path", "reason")}}
            for name, given in (("queries", queries), ("collection", collection))
            if isinstance(given, Source)
            for error in read_errors(out / name / FILE)
        ]
        (out / SUMMARY).unlink(missing_ok=True)  # what follows belongs together
        (out / "matches.parquet").unlink(missing_ok=True)
        write_errors(out, errors)
        tables.write_matches(out, found)
        _write_pages(found, out, weights, len(errors))
        made_by = mine.descriptors.provenance
        summary: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            **counts(found),
            "unreadable": len(errors),
            "k": k if options.threshold is None else None,
            "score": options.score,
            "threshold": options.least,
            "sources": {"queries": mine.source.name, "collection": found.references.source.name},
            "weights": weights,
            "weights_sha256": made_by.weights,
            "preset": made_by.preset,
            "computation": made_by.computation,
            "sscd_jax": version("sscd_jax"),
            "out": str(out),
            "seconds": round(time.monotonic() - begun, 3),
        }
        write_text(out / SUMMARY, json.dumps(summary, indent=2))
        return found, summary


def counts(found: Matches) -> dict[str, int]:
    """Returns the numbers of queries, images of the collection, matches, copies, and queries that have copies."""
    is_copy = found.is_copy
    return {
        "queries": len(found.queries.descriptors.ids),
        "collection": len(found.references.descriptors.ids),
        "matches": len(found),
        "copies": int(is_copy.sum()),
        "queries_with_copies": len(np.unique(found.query_row[is_copy])),
    }


def _described(given: Source | Descriptors, folder: Path, embed: Embed) -> Described:
    if isinstance(given, Descriptors):
        return described(given)
    embed(given, folder)
    return Described(Descriptors.read(folder), given)


def _remove_other(folder: Path, queries: Source) -> None:
    """Removes the descriptors of earlier queries, if those were another source. `FOLDER` has checked what is there.

    What says which source it was is removed last, so that a process that was killed meanwhile is no hindrance.
    """
    try:
        before = json.loads((folder / MADE_BY).read_text())["source"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if before == location(queries.name):
        return
    for name in list_files(folder):
        if name != MADE_BY and (folder / name).is_file():
            (folder / name).unlink()
    shutil.rmtree(folder)


def _write_pages(found: Matches, out: Path, weights: str, unreadable: int) -> None:
    number, made_by = counts(found), found.queries.descriptors.provenance
    best, what = found.score[found.rank == 1], "its best matches"
    if found.options.threshold is not None:
        what = f"all matches with a score of at least {found.options.threshold:.3f}"
    about = About(
        title="Images that are like the queries" if number["matches"] else "No matches",
        intro=f"Each query stands beside {what} in the collection, the best first.",
        totals=[
            (f"{number['queries']:,}", "queries"),
            (f"{number['collection']:,}", "images in the collection"),
            (f"{number['copies']:,}", "copies in the collection"),
            (f"{number['queries_with_copies']:,}", "queries have a copy there"),
        ],
        query="query",
        copy="copy",
        row="Query",
        rows="Queries",
        files="The files matches.csv and matches.jsonl beside this page have all matches.",
        threshold=found.options.least,
        background=found.options.score == "background",
        unreadable=unreadable,
        weights=weights,
        preset=made_by.preset,
        scores=(best, "the best matches of the queries"),
    )

    def load(key: str) -> bytes:
        side, _, one = key.partition(" ")
        return (found.references if side == "1" else found.queries).load(one)

    write_matches(out, "matches", _rows(found), number["queries"], about, load)


def _rows(found: Matches) -> Iterator[Row]:
    is_copy = found.is_copy
    for row, pairs in found.by_query():
        one, some = found.queries.descriptors.ids[row], range(pairs.start, pairs.stop)
        matches = [
            Match(
                found.reference[i],
                f"1 {found.reference[i]}",
                float(found.similarity[i]),
                float(found.score[i]),
                "",
                bool(is_copy[i]),
            )
            for i in some[:SHOWN]
        ]
        yield Row(row + 1, one, f"0 {one}", matches, len(some) - len(matches))
