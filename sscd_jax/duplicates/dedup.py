"""The whole job: from images to the pairs, groups, lists and pages in one folder.

dedup.json          what the folder is: format and version; the first file
files.jsonl         what is known of each image file; other.jsonl for those of --against
descriptors/        a descriptor for each different content, by the SHA-256 of its bytes, so that files that are
                    moved, renamed, added or copied are not embedded again
pairs.csv           all pairs; pairs.parquet, the same
groups.csv          the groups, each with the image that is kept
keep.txt            what is kept, without what could not be read; remove.txt, what is not: paths, or ids of images
                    that are no files of their own
errors.jsonl        images that could not be read, if there are any
duplicates.html     pages with the groups, the most doubtful ones first; duplicates-2.html and so on
summary.json        counts and settings; written last, so that without it the folder is not complete
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.data.storage import DamagedError
from sscd_jax.descriptors import FOLDER as DESCRIPTORS
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates import background, image_files, tables
from sscd_jax.duplicates.find import KINDS, Collection, Copies, find_copies, lowest_similarity, pairs
from sscd_jax.duplicates.identical import numbered, same_pixels
from sscd_jax.duplicates.image_files import Seen
from sscd_jax.duplicates.options import Options
from sscd_jax.duplicates.page import Member, PageGroup, Summary, write_pages
from sscd_jax.duplicates.preference import preferred
from sscd_jax.duplicates.scores import Scores
from sscd_jax.files import FolderKind, write_text
from sscd_jax.string_list import Lookup, StringList

FORMAT, VERSION = "sscd_jax duplicates", 1
MARK, SUMMARY = "dedup.json", "summary.json"
FOLDER = FolderKind(
    FORMAT,
    VERSION,
    r"(dedup|summary)\.json|(files|other|errors|moves|decisions)\.jsonl|pairs\.(csv|parquet)|groups\.csv"
    r"|(keep|remove)\.txt|duplicates(-\d+)?\.html|\.moves\.lock"
    rf"|descriptors(/plan)?|descriptors/({DESCRIPTORS.pattern})",  # a killed process may have left empty folders
    (MARK,),
)
_KEPT = {
    "largest": "It has the most pixels, or else the most bytes.",
    "first": "It comes first in the source.",
    "oldest": "Its file was changed longest ago.",
}


def dedup(
    source: Source,
    out: Path,
    embed: Callable[[Source, Path], Mapping[str, Any]],
    options: Options,
    *,
    weights: str,
    roots: Sequence[str] = (),
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
        max_errors: the number of images that a disk or a network may fail to deliver; see `write_descriptors`.

    Returns:
        The summary that `summary.json` holds.

    Raises:
        ValueError: `out` holds something else, two images have the same id, or no image begins with `options.keep`.
        OSError: a file cannot be written, or too many images cannot be read.
    """
    begun = time.monotonic()
    check_unique_ids(source)
    begin(out)
    seen = image_files.look_at(source, out, max_errors=max_errors)
    order = preferred(options.keep, source.ids, seen)
    collection, descriptors = _collect(source, seen, order, out, embed, options)
    (out / SUMMARY).unlink(missing_ok=True)  # what follows belongs together
    copies = find_copies(collection, options.least, grouping=options.grouping, max_group=options.max_group)
    groups = _groups(collection, copies)
    errors = _errors(source, seen, out)
    if errors:
        write_text(out / "errors.jsonl", "".join(json.dumps(error) + "\n" for error in errors))
    else:
        (out / "errors.jsonl").unlink(missing_ok=True)
    (out / "pairs.parquet").unlink(missing_ok=True)
    kinds = tables.write_pairs(out, pairs(collection, options.least), source.ids)
    tables.write_groups(out / "groups.csv", _rows(groups, collection, copies, source, seen))
    named = [tables.listed_name(i, file) for i, file in zip(source.ids, seen, strict=True)]
    for name, chosen in (("keep", copies.is_kept & (collection.row >= 0)), ("remove", ~copies.is_kept)):
        tables.write_list(out / f"{name}.txt", (named[i] for i in np.flatnonzero(chosen).tolist()))
    removed = np.flatnonzero(~copies.is_kept)
    summary: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "images": len(source),
        "unreadable": len(errors),
        "groups": len(groups),
        "duplicates": len(removed),
        "duplicates_by_kind": {
            name: int((copies.kind[removed] == KINDS.index(name)).sum()) for name in ("bytes", "pixels", "near")
        },
        "duplicate_bytes": sum(found.bytes for i in removed.tolist() if (found := seen[i])),
        "pairs": sum(kinds.values()),
        "pairs_by_kind": kinds,
        "score": options.score,
        "threshold": options.least,
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
    }
    lookup = Lookup(source.ids)

    def load(one: str) -> bytes:
        return source.load(int(lookup.find([one])[0]))

    head = Summary(
        len(source), len(removed), summary["duplicate_bytes"], options.least, "", _KEPT.get(options.keep, ""),
        options.score == "background", len(errors), weights,
        descriptors.provenance.preset if descriptors else "",
        copies.score[removed][np.isfinite(copies.score[removed])],
    )  # fmt: skip
    write_pages(out, _shown(groups, collection, copies, source, seen), len(groups), head, load)
    summary["seconds"] = round(time.monotonic() - begun, 3)
    write_text(out / SUMMARY, json.dumps(summary, indent=2))
    return summary


def begin(out: Path) -> None:
    """Makes the folder, or checks that it is one of ours.

    Raises:
        ValueError: it holds something else; the error names it.
    """
    FOLDER.check(out)
    out.mkdir(parents=True, exist_ok=True)
    if not (out / MARK).exists():
        write_text(out / MARK, json.dumps({"format": FORMAT, "version": VERSION}))


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
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{folder} is not a complete folder of `sscd-jax dedup`: {error}; run that again") from error
    return summary


def contents_of(source: Source, seen: Sequence[Seen | None]) -> tuple[Source, np.ndarray]:
    """Returns one image for each different content, as a source whose ids are the SHA-256 of the bytes.

    Args:
        source: all images.
        seen: what is known of each.

    Returns:
        The source of contents, and the number of each image's content, int64 [N]; -1 where an image was not read.
    """
    keys = [file.sha256 if file else None for file in seen]
    first = numbered([key if key else index for index, key in enumerate(keys)])
    chosen = [index for index, key in enumerate(keys) if key and first[index] == index]
    chosen.sort(key=lambda index: keys[index] or "")  # whatever the order of the files, the same shards
    position = np.full(len(source), -1)
    position[chosen] = np.arange(len(chosen))
    number = np.array([position[one] for one in first.tolist()], np.int64).reshape(-1)
    ids = StringList(keys[index] or "" for index in chosen)

    def record(at: int) -> bytes:
        data = source.load(chosen[at])
        if hashlib.sha256(data).hexdigest() != ids[at]:
            raise DamagedError("it has changed since it was hashed; rerun the command")
        return data

    return Source("sscd-jax dedup", ids, StringList(source.paths[index] for index in chosen), record), number


def _collect(
    source: Source,
    seen: Sequence[Seen | None],
    order: np.ndarray,
    out: Path,
    embed: Callable[[Source, Path], Mapping[str, Any]],
    options: Options,
) -> tuple[Collection, Descriptors | None]:
    """Embeds what has no descriptor yet, and returns the collection with its descriptors."""
    contents, number = contents_of(source, seen)
    descriptors = None
    row_of_content = np.full(len(contents), -1)
    if len(contents):
        embed(contents, out / "descriptors")
        descriptors = Descriptors.read(out / "descriptors")
        row_of_content = Lookup(descriptors.ids).find(contents.ids)
    vectors = descriptors.vectors if descriptors else np.empty((0, 1), np.float32)
    has_content = number >= 0
    row = np.full(len(source), -1)
    row[has_content] = row_of_content[number[has_content]]
    content = np.where(has_content, number, len(contents) + np.arange(len(source)))
    first_images = _first_of_each(content, order)  # the most preferred image of each content
    first_images = first_images[row[first_images] >= 0]
    rows = row[first_images]
    grouped = background.first_pass(vectors, rows)
    pixels = content.copy()
    same = same_pixels(grouped, rows, lambda at: source.load(int(first_images[at])))
    of_content = np.arange(len(contents) + len(source))
    of_content[content[first_images]] = content[first_images][same]
    pixels = of_content[content]
    found = np.zeros(len(vectors))
    if options.score == "background":
        found = background.of_collection(vectors, rows, grouped)
    return Collection(Scores(vectors, found), row, content, pixels, order), descriptors


def _first_of_each(number: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns the most preferred image of each number, in order of preference."""
    _, first = np.unique(number[order], return_index=True)
    return order[np.sort(first)]


@dataclass(frozen=True)
class Group:
    """The images of a group, the kept one first, and the lowest similarity of two of them."""

    images: np.ndarray
    lowest: float


def _groups(collection: Collection, copies: Copies) -> list[Group]:
    """Returns all groups, the most doubtful ones first: those whose worst image has the lowest score."""
    found = []
    for images in copies.groups():
        rows = np.unique(collection.row[images])
        found.append(Group(images, lowest_similarity(collection.scores, rows[rows >= 0])))
    worst = [float(np.nanmin(np.append(copies.score[group.images], 2))) for group in found]  # 2 where all are NaN
    return [found[i] for i in sorted(range(len(found)), key=lambda i: (worst[i], found[i].images[0]))]


def _rows(
    groups: Sequence[Group], collection: Collection, copies: Copies, source: Source, seen: Sequence[Seen | None]
) -> Iterator[list[Any]]:
    """Yields the lines of groups.csv."""
    for number, group in enumerate(groups, 1):
        for i in group.images.tolist():
            file, is_kept = seen[i], bool(copies.kept[i] == i)
            assert file is not None, "an image that was not read has no copies"
            yield [
                number, source.ids[i], str(is_kept).lower(), tables.number(copies.similarity[i]),
                tables.number(group.lowest), file.width or "", file.height or "", file.bytes,
                file.path if file.file else "",
            ]  # fmt: skip


def _shown(
    groups: Sequence[Group], collection: Collection, copies: Copies, source: Source, seen: Sequence[Seen | None]
) -> Iterator[PageGroup]:
    """Yields the groups of the pages."""
    for number, group in enumerate(groups, 1):
        members = []
        for i in group.images.tolist():
            file, is_kept = seen[i], bool(copies.kept[i] == i)
            assert file is not None, "an image that was not read has no copies"
            similarity, score = (None if is_kept else float(part[i]) for part in (copies.similarity, copies.score))
            score = None if score is None or np.isnan(score) else score
            kind = KINDS[copies.kind[i]]
            members.append(Member(source.ids[i], file.width, file.height, file.bytes, similarity, score, kind))
        yield PageGroup(number, members, group.lowest)


def _errors(source: Source, seen: Sequence[Seen | None], out: Path) -> list[dict[str, Any]]:
    """Returns the images that have no descriptor, and why."""
    why: dict[str, str] = {}
    file = out / "descriptors" / "errors.jsonl"
    if file.exists():
        for line in file.read_text().splitlines():
            error = json.loads(line)
            why[str(error.get("id"))] = error["reason"]
    found = []
    for index, one in enumerate(seen):
        if one is None:
            found.append({"id": source.ids[index], "path": source.paths[index], "reason": "it could not be read"})
        elif one.sha256 in why:
            found.append({"id": source.ids[index], "path": source.paths[index], "reason": why[one.sha256]})
    return found
