"""DISC2021 as it lies on disks: which folders and which file are what.

Known are the layout of the official code (val_query, val_ref, training, val_groundtruth_matches.csv) and the names of
the released files, development and test queries, in one folder each or in the parts that they are downloaded in.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import list_files

_REFERENCES = {"references": ("references", "references_*"), "training": ("train", "train_*", "training")}
# Patterns of each, of which the first that matches anything counts.
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
        folders: of queries, references and training images (none: []).
        ground_truth: CSV file.
        edits: CSV file of how queries were made, if there is one.
    """

    name: str
    folders: dict[str, list[Path]]
    ground_truth: Path
    edits: Path | None = None


def find(root: Path, name: str | None = None) -> Split:
    """The split of that name in a folder, or the only one that is there.

    Raises:
        ValueError: there is none, or more than one to choose from; says what was looked for.
    """
    there = [one for one, layout in LAYOUTS.items() if _first(root, layout["ground_truth"])]
    if name is None and len(there) != 1:
        if there:
            raise ValueError(f"{root} has the splits {', '.join(there)}: choose one by --split")
        names = (pattern for layout in LAYOUTS.values() for pattern in layout["ground_truth"])
        raise ValueError(f"no DISC2021 in {root}: looked for {', '.join(names)}")
    name = name or there[0]
    found = {part: _first(root, patterns) for part, patterns in LAYOUTS[name].items()}
    for part in ("ground_truth", "queries", "references"):
        if not found[part]:
            raise ValueError(f"{root} has no {part} of the split {name}: looked for {' or '.join(LAYOUTS[name][part])}")
    folders = {part: found[part] for part in ("queries", "references", "training")}
    return Split(name, folders, found["ground_truth"][0], next(iter(found.get("edits", [])), None))


def find_all(root: Path) -> tuple[dict[str, list[Path]], dict[str, Path]]:
    """All that a folder has of DISC2021: folders of images by name, and the ground truth of those that are queries.

    Names are train, references, and val_queries, dev_queries, test_queries. Training images or references may be
    alone; queries may not.

    Raises:
        ValueError: there is nothing, queries lack their ground truth or references, or two folders are the same part.
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
                raise ValueError(f"{folders[key][0]} and {found[0]} are both {part} of DISC2021: leave one of them")
    if not folders:
        patterns = {pattern for layout in LAYOUTS.values() for part in layout.values() for pattern in part}
        raise ValueError(f"no DISC2021 in {root}: looked for {', '.join(sorted(patterns))}")
    return folders, truths


def _first(root: Path, patterns: tuple[str, ...]) -> list[Path]:
    """What matches the first pattern that anything matches; archives beside their folders do not count."""
    for pattern in patterns:
        if found := sorted(path for path in root.glob(pattern) if path.is_dir() or path.suffix == ".csv"):
            return found
    return []


def images(folders: list[Path]) -> Source:
    """Images of several folders, whose ids are their names, as the ground truth has them.

    Raises:
        ValueError: there is no image in one of them.
    """
    paths = [path for folder in folders for path in list_files(str(folder))[1]]
    return Source(str(folders[0]), [os.path.splitext(os.path.basename(path))[0] for path in paths], paths)
