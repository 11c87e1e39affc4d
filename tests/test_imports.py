"""Imports point one way (DESIGN section 2), so that a reader can take the package apart room by room."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sscd_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each room may import from those in earlier lines; files of one line may import one another.
LEVELS = [
    {
        "cache",
        "config",
        "presets",
        "descriptors",
        "evaluation.metrics",
        "photographs",
        "edits",
        "edits_colour",
        "edits_common",
        "edits_frame",
        "edits_geometry",
        "edits_overlay",
        "edits_quality",
        "benchmark_set",
        "contact_sheet",
    },
    {
        "data",
        "models",
        "losses",
        "optimizer",
        "microbatch",
        "collapse",
        "profile",
        "mesh",
        "device_augment",
        "search",
        "search_jax",
        "postprocess",
        "calibration",
        "calibrate",
        "perceptual_hash",
        "full_disk",
        "interruption",
        "evaluation",
    },
    {"train_state", "checkpoint", "weights"},
    {
        "embed",
        "collection",
        "copydays_folders",
        "disc_folders",
        "exchange",
        "shards",
        "preview",
        "validation",
        "train_log",
        "train",
        "report",
        "charts",
        "evaluation_charts",
        "report_gallery",
        "benchmark_pictures",
        "benchmark_choose",
        "benchmark_make",
    },
    {"demo"},
    {
        "beam",
        "cli",
        "cli_descriptors",
        "cli_evaluate",
        "cli_weights",
        "cli_copydays",
        "cli_results",
        "cli_calibrate",
        "cli_report",
        "cli_benchmark",
        "cli_pack",
    },
]
ONLY_IN = {"faiss": {"search.py"}, "apache_beam": {"beam.py"}, "orbax": {"checkpoint.py"}}
FORBIDDEN = {"data": {"jax", "flax"}, "evaluation": {"jax", "flax", "tensorflow", "faiss"}}


def imported(path: Path) -> set[str]:
    """Every module named by an import anywhere in the file."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def level(module: str) -> int | None:
    """Of a module of the package, by its longest known name."""
    matches = [
        (len(room), number)
        for number, rooms in enumerate(LEVELS)
        for room in rooms
        if module == room or module.startswith(f"{room}.")
    ]
    return max(matches)[1] if matches else None


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports(path: Path):
    relative = path.relative_to(PACKAGE)
    module = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
    names = imported(path)
    for package, files in ONLY_IN.items():
        assert path.name in files or not any(n.split(".")[0] == package for n in names)
    for package in FORBIDDEN.get(relative.parts[0], ()):
        assert not any(n.split(".")[0] == package for n in names)
    if module == "__init__":
        return
    mine = level(module)
    assert mine is not None, f"{module} has no level: give it one in LEVELS"
    for name in names:
        theirs = level(name.removeprefix("sscd_jax.")) if name.startswith("sscd_jax.") else None
        assert theirs is None or theirs <= mine, f"{module} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_are_short(path: Path):
    lines = len(path.read_text().splitlines())
    assert lines <= (250 if path.name == "train.py" else 350)
