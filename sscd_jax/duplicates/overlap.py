"""The images that are in two sets, such as training and test images: from images to pairs, lists and pages.

overlap.json            what the folder is: format and version; the first file
train.jsonl, test.jsonl what is known of each image file of both sets
descriptors/            a descriptor for each different content of both, by the SHA-256 of its bytes
pairs.csv               all pairs; pairs.parquet, the same
test_in_train.txt       the images of TEST that have a copy in TRAIN: paths, or ids of images that are no files
train_in_test.txt       the images of TRAIN that have a copy in TEST
errors.jsonl            images that could not be read, if there are any
overlap.html            pages with the images of TEST beside their best copy, the most doubtful first
summary.json            counts and settings; written last, so that without it the folder is not complete
"""

import json
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from sscd_jax.data.image_source import Source
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates import tables
from sscd_jax.duplicates.compare import DESCRIPTORS_PATTERN, SUMMARY, Compared, Embed, compare, key
from sscd_jax.duplicates.crossing import NEAR
from sscd_jax.duplicates.matches_page import About, Match, Row, write_matches
from sscd_jax.duplicates.options import KINDS, Options
from sscd_jax.duplicates.sides import opened
from sscd_jax.files import FolderKind, write_text

FORMAT, VERSION = "sscd_jax overlap", 1
FOLDER = FolderKind(
    FORMAT,
    VERSION,
    r"(overlap|summary)\.json|(train|test|errors)\.jsonl|pairs\.(csv|parquet)|(test_in_train|train_in_test)\.txt"
    rf"|overlap(-\d+)?\.html|{DESCRIPTORS_PATTERN}",
    ("overlap.json",),
)
SETS = ("train", "test")


def overlap(
    train: Source | Descriptors,
    test: Source | Descriptors,
    out: Path,
    embed: Embed,
    options: Options,
    *,
    weights: str,
    max_errors: int | None = None,
) -> dict[str, Any]:
    """Finds the images that two sets have in common, and writes them to a folder.

    A second call resumes: it reads only files that are new or have changed, and embeds only bytes that it has not seen.

    Args:
        train, test: the images, with unique ids, or their descriptors.
        out: the folder.
        embed: writes the descriptors of a source to a folder, as `write_descriptors` with a network and a preset does.
        options: how copies are found.
        weights: the name of the weights, for the page.
        max_errors: the number of images that a disk or a network may fail to deliver; see `write_descriptors`.

    Returns:
        The summary that `summary.json` holds.

    Raises:
        ValueError: `out` holds something else, two images of a set have the same id, or the descriptors of both are of
            different weights or presets.
        OSError: a file cannot be written, or too many images cannot be read.
    """
    begun = time.monotonic()
    with FOLDER.locked(out):
        first, second = (
            opened(given, name, out, f"{name}.jsonl", max_errors=max_errors)
            for name, given in zip(SETS, (train, test), strict=True)
        )
        found = compare(SETS, (first, second), out, embed, options)
        for side, name in enumerate(("train_in_test", "test_in_train")):
            tables.write_list(out / f"{name}.txt", found.names(side, np.flatnonzero(found.best[side].has_copy)))
        counts = {name: _counts(found, side) for side, name in enumerate(SETS)}
        _write_pages(found, out, counts, weights)
        summary: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            **counts,
            **found.described(),
            "sources": dict(zip(SETS, (side.source.name for side in found.sides), strict=True)),
            "weights": weights,
            "sscd_jax": version("sscd_jax"),
            "out": str(out),
            "seconds": round(time.monotonic() - begun, 3),
        }
        write_text(out / SUMMARY, json.dumps(summary, indent=2))
        return summary


def _counts(found: Compared, side: int) -> dict[str, Any]:
    """Returns how many images of a set could be read, and how many and which share of them have a copy in the other."""
    is_read, best = found.has_descriptor[side], found.best[side]
    compared, copies = int(is_read.sum()), int((best.has_copy & is_read).sum())
    counts: dict[str, Any] = {"images": len(is_read), "unreadable": len(is_read) - compared, "have_copies": copies}
    kinds = best.kind[best.has_copy & is_read]
    counts["by_kind"] = {kind: int((kinds == KINDS.index(kind)).sum()) for kind in KINDS[1:]}
    counts["share"] = counts["share_interval"] = None
    if compared:
        interval = binomtest(copies, compared).proportion_ci(method="wilson")
        counts["share"] = copies / compared
        counts["share_interval"] = [float(interval.low), float(interval.high)]
    return counts


def _write_pages(found: Compared, out: Path, counts: dict[str, dict[str, Any]], weights: str) -> None:
    best = found.best[1]
    order = np.flatnonzero(best.has_copy)
    order = order[np.lexsort((order, best.score[order], best.kind[order] != NEAR))]  # the most doubtful first
    test, scores = counts["test"], best.score[order]
    share = "" if test["share"] is None else f"{100 * test['share']:.2f} %"
    about = About(
        title="Images of the test set that are in the training set" if len(order) else "No image is in both sets",
        intro="Each image of the test set that has a copy in the training set stands beside its best copy. Files with "
        "the same bytes or pixels are copies, whatever their score is. The pairs that are most likely to be wrong come "
        "first."
        if len(order)
        else "No image of the test set has a copy in the training set.",
        totals=[
            (f"{counts['train']['images']:,}", "training images"),
            (f"{test['images']:,}", "test images"),
            (f"{test['have_copies']:,}", "test images have a copy in the training set"),
            (share, "of the test images that could be read"),
        ],
        query="test",
        copy="training",
        row="Pair",
        rows="Pairs",
        files="The files beside this page have all results: pairs.csv has all pairs, test_in_train.txt lists what to "
        "drop from the test set, and train_in_test.txt what to drop from the training set instead.",
        threshold=found.options.least,
        background=found.options.score == "background",
        unreadable=len(found.errors),
        weights=weights,
        preset=found.provenance.preset if found.provenance else "",
        scores=(scores[np.isfinite(scores)], "the test images that have a copy"),
    )
    write_matches(out, "overlap", _rows(found, order), len(order), about, found.load)


def _rows(found: Compared, order: np.ndarray) -> Iterator[Row]:
    best = found.best[1]
    for number, index in enumerate(order.tolist(), 1):
        at, score = int(best.match[index]), float(best.score[index])
        match = Match(
            found.sides[0].source.ids[at],
            key(0, at),
            float(best.similarity[index]),
            None if np.isnan(score) else score,
            KINDS[best.kind[index]],
            is_copy=True,
        )
        yield Row(number, found.sides[1].source.ids[index], key(1, index), [match])
