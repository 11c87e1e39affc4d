"""Finds the parts of DISC2021 in a folder.

Three layouts are known: that of the official code (val_query, val_ref, training, val_groundtruth_matches.csv), the
names of the released files, for development and for test queries, and that of sets which this package makes. A part of
the released files may be one folder, or several as they are downloaded.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import list_files

_REFERENCES = {"references": ("references", "references_*"), "training": ("train", "train_*", "training")}
# The patterns of each part; the first pattern that matches anything counts.
LAYOUTS: dict[str, dict[str, tuple[str, ...]]] = {
    "val": {
        "queries": ("val_query",),
        "references": ("val_ref",),
        "training": ("training",),
        "ground_truth": ("val_groundtruth_matches.csv",),
    },
    "dev": _REFERENCES
    | {
        "queries": ("dev_queries", "dev_queries_*[0-9]"),
        "ground_truth": ("dev_queries_groundtruth.csv", "dev_ground_truth.csv", "public_ground_truth.csv"),
    },
    "test": _REFERENCES
    | {
        "queries": ("test_queries", "test_queries_*[0-9]", "final_queries"),
        "ground_truth": ("test_queries_groundtruth.csv", "final_ground_truth.csv"),
    },
    # What `sscd-jax benchmark make` and the demo write.
    "benchmark": {
        "queries": ("queries",),
        "references": ("references",),
        "training": ("training",),
        "ground_truth": ("ground_truth.csv",),
        "edits": ("queries.csv",),
    },
}


@dataclass(frozen=True)
class Split:
    """A split of DISC2021 on disk.

    Attributes:
        name: a key of LAYOUTS.
        folders: the folders of "queries", "references" and "training"; the last may be an empty list.
        ground_truth: the CSV file of pairs.
        edits: the CSV file of how queries were edited, if there is one.
    """

    name: str
    folders: dict[str, list[Path]]
    ground_truth: Path
    edits: Path | None = None


def find(root: Path, name: str | None = None) -> Split:
    """Finds a split in a folder.

    Args:
        root: the folder.
        name: the name of the split; by default that of the only one in the folder.

    Raises:
        ValueError: the split is missing or incomplete, or there are several splits and no name; the error says what was
            looked for.
    """
    splits = [split for split, layout in LAYOUTS.items() if _first(root, layout["ground_truth"])]
    if name is None and len(splits) != 1:
        if splits:
            raise ValueError(f"{root} has the splits {', '.join(splits)}: choose one by --split")
        names = (pattern for layout in LAYOUTS.values() for pattern in layout["ground_truth"])
        raise ValueError(f"no DISC2021 in {root}: looked for {', '.join(names)}")
    name = name or splits[0]
    found = {part: _first(root, patterns) for part, patterns in LAYOUTS[name].items()}
    for part in ("ground_truth", "queries", "references"):
        if not found[part]:
            raise ValueError(f"{root} has no {part} of the split {name}: looked for {' or '.join(LAYOUTS[name][part])}")
    folders = {part: found[part] for part in ("queries", "references", "training")}
    return Split(name, folders, found["ground_truth"][0], next(iter(found.get("edits", [])), None))


def find_all(root: Path) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """Finds all parts of DISC2021 in a folder.

    Returns:
        The folders of images of each part, and the ground truth of each part that has queries. Parts are named train,
        references, val_queries, dev_queries and test_queries. Training images and references may have no queries.

    Raises:
        ValueError: there is no part, queries lack their ground truth or references, or two folders are the same part.
    """
    folders: dict[str, list[Path]] = {}
    truths: dict[str, Path] = {}
    for name, layout in LAYOUTS.items():
        parts = {part: found for part in ("training", "references") if (found := _first(root, layout[part]))}
        if _first(root, layout["queries"]) or _first(root, layout["ground_truth"]):
            split = find(root, name)
            parts["queries"] = split.folders["queries"]
            truths[f"{name}_queries"] = split.ground_truth
        for part, found in parts.items():
            key = {"queries": f"{name}_queries", "training": "train"}.get(part, part)
            if folders.setdefault(key, found) != found:
                raise ValueError(f"{folders[key][0]} and {found[0]} are both {part} of DISC2021: remove one of them")
    if not folders:
        patterns = {pattern for layout in LAYOUTS.values() for part in layout.values() for pattern in part}
        raise ValueError(f"no DISC2021 in {root}: looked for {', '.join(sorted(patterns))}")
    return folders, truths


def _first(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Returns what matches the first pattern that matches any folder or CSV file; archives are ignored."""
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_dir() or path.suffix == ".csv"):
            return found
    return []


def open_images(folders: list[Path]) -> Source:
    """Opens the images of several folders as one source. Ids are file names without extension, as in the ground truth.

    Raises:
        ValueError: a folder has no image.
    """
    paths = [path for folder in folders for path in list_files(str(folder))[1]]
    return Source(str(folders[0]), [os.path.splitext(os.path.basename(path))[0] for path in paths], paths)
