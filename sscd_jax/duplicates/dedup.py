"""The whole job: from images to the pairs, groups, lists and pages in one folder.

dedup.json          what the folder is: format and version; the first file
files.jsonl         what is known of each image file; other.jsonl for those of --against
descriptors/        a descriptor for each different content, by the SHA-256 of its bytes, so that files that are
                    moved, renamed, added or copied are not embedded again
background/         the descriptors of --background
pairs.csv           all pairs; pairs.parquet, the same
groups.csv          the groups, each with the image that is kept
keep.txt            what is kept, without what could not be read; remove.txt, what is not: paths, or ids of images
                    that are no files of their own
errors.jsonl        images that could not be read, if there are any
duplicates.html     pages with the groups, the most doubtful ones first; duplicates-2.html and so on
summary.json        counts and settings; written last, so that without it the folder is not complete
"""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.descriptors import FOLDER as DESCRIPTORS
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates import image_files, tables
from sscd_jax.duplicates.collect import contents_of, embedded
from sscd_jax.duplicates.find import pairs
from sscd_jax.duplicates.options import KINDS, Options
from sscd_jax.duplicates.preference import preferred
from sscd_jax.duplicates.result import find
from sscd_jax.duplicates.unreadable import unreadable, write_errors
from sscd_jax.files import FolderKind, write_text
from sscd_jax.search.calibration import Calibration

FORMAT, VERSION = "sscd_jax duplicates", 1
MARK, SUMMARY, OTHER = "dedup.json", "summary.json", "other.jsonl"
# A killed process may have left empty folders.
FOLDER = FolderKind(
    FORMAT,
    VERSION,
    r"(dedup|summary)\.json|(files|other|errors|moves)\.jsonl|pairs\.(csv|parquet)|groups\.csv"
    r"|(keep|remove)\.txt|duplicates(-\d+)?\.html"
    rf"|(descriptors|background)(/plan)?|(descriptors|background)/({DESCRIPTORS.pattern})",
    (MARK,),
)


def dedup(
    source: Source,
    out: Path,
    embed: Callable[[Source, Path], Mapping[str, Any]],
    options: Options,
    *,
    weights: str,
    roots: Sequence[str] = (),
    outside: Descriptors | None = None,
    calibration: Calibration | None = None,
    max_errors: int | None = None,
) -> dict[str, Any]:
    """Finds the duplicates of a source, and writes them to a folder.

    A second call resumes: it reads only files that are new or have changed, and embeds only bytes that it has not seen.

    Args:
        source: the images, with unique ids.
        out: the folder.
        embed: writes the descriptors of a source to a folder, as `write_descriptors` with a network and a preset does.
        options: how copies are found.
        weights: the name of the weights, for the page.
        roots: the folders in which the images were searched for, to which duplicates must not be moved.
        outside, calibration: as for `collect.collect`.
        max_errors: the number of images that a disk or a network may fail to deliver; see `write_descriptors`.

    Returns:
        The summary that `summary.json` holds.

    Raises:
        ValueError: `out` holds something else, two images have the same id, or no image begins with `options.keep`.
        OSError: a file cannot be written, or too many images cannot be read.
    """
    begun = time.monotonic()
    check_unique_ids(source)
    with FOLDER.locked(out):
        source = image_files.own_files(source, out)
        (out / SUMMARY).unlink(missing_ok=True)  # so that nobody applies groups of files as they were before
        seen, unread = image_files.look_at(source, out, max_errors=max_errors)
        order = preferred(options.keep, source.ids, seen)  # a wrong value is an error before anything is embedded
        descriptors = embedded(contents_of(source, seen), out / "descriptors", embed)
        found = find(source, seen, descriptors, options, order, outside=outside, calibration=calibration)
        errors = unreadable(source, seen, unread, out / "descriptors")
        write_errors(out, errors)
        for name in (OTHER, "pairs.parquet"):  # of an earlier run
            (out / name).unlink(missing_ok=True)
        kinds = tables.write_pairs(out, pairs(found.collection, found.least), source.ids)
        tables.write_groups(out / "groups.csv", found.rows())
        removed = np.flatnonzero(~found.copies.is_kept)
        for name, chosen in (("keep", np.flatnonzero(found.is_good)), ("remove", removed)):
            tables.write_list(
                out / f"{name}.txt", (tables.listed_name(source.ids[i], seen[i]) for i in chosen.tolist())
            )
        found.write_pages(out, weights, len(errors))
        summary: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "images": len(source),
            "unreadable": len(errors),
            "groups": len(found.sorted_groups),
            "duplicates": len(removed),
            "duplicates_by_kind": {
                name: int((found.copies.kind[removed] == KINDS.index(name)).sum())
                for name in ("bytes", "pixels", "near")
            },
            "duplicate_bytes": found.bytes_of(removed),
            "pairs": sum(kinds.values()),
            "pairs_by_kind": kinds,
            "score": options.score,
            "threshold": found.least,
            "calibrated": calibration is not None,
            "background_images": len(outside.ids) if outside else None,
            "grouping": options.grouping,
            "keep": options.keep,
            "source": source.name,
            "roots": [os.path.abspath(root) for root in roots],
            "weights": weights,
            "weights_sha256": descriptors.provenance.weights if descriptors else None,
            "preset": descriptors.provenance.preset if descriptors else None,
            "computation": descriptors.provenance.computation if descriptors else None,
            "sscd_jax": version("sscd_jax"),
            "out": str(out),
            "seconds": round(time.monotonic() - begun, 3),
        }
        write_text(out / SUMMARY, json.dumps(summary, indent=2))
        return summary


def read_summary(folder: Path) -> dict[str, Any]:
    """Reads summary.json.

    Raises:
        ValueError: the folder is not a complete one of `sscd-jax dedup`.
    """
    try:
        summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        if (summary["format"], summary["version"]) != (FORMAT, VERSION):
            raise ValueError(f"it has the format {summary['format']}, version {summary['version']}")
        summary["roots"] + []
    except FileNotFoundError as error:
        what = "has not finished there" if (folder / MARK).exists() else "has not written it"
        raise ValueError(f"{folder}: `sscd-jax dedup` {what}; run it first") from error
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{folder / SUMMARY} is damaged: {error}; run `sscd-jax dedup` again") from error
    return summary
