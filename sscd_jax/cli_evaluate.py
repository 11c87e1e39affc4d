"""The commands that measure: thin calls into the package."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import tyro

from sscd_jax.descriptors import Descriptors
from sscd_jax.presets import PresetName, choose


def evaluate_disc(
    queries: Path | None = None,
    references: Path | None = None,
    ground_truth: Path | None = None,
    training: Path | None = None,
    root: Path | None = None,
    weights: str | None = None,
    split: Literal["val", "dev", "test"] | None = None,
    descriptors: Path | None = None,
    preset: PresetName = "small_288",
    codecs: tuple[str, ...] = (),
    score_norm: tuple[str, ...] = (),
    candidates: Literal["per_query", "global"] | None = None,
    k: int = 10,
    bootstrap: int = 1000,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on DISC2021: a row for each codec, without and with score normalisation.

    Either from descriptors: --queries, --references, --ground-truth and maybe --training. Or from DISC2021's folders:
    --root and --weights; what is not embedded yet is. Behind each metric is where it lies, at 95 %, were other such
    queries asked (by bootstrap over the queries).

    Args:
        queries: Descriptors of the queries, a folder that `sscd-jax embed` wrote.
        references: Descriptors of the pictures that are searched.
        ground_truth: CSV file with the header query_id,reference_id.
        training: Descriptors that codecs are fitted on and scores normalised by.
        root: Folder with val_query, val_ref, training and val_groundtruth_matches.csv, as the official code has them,
            or with what was released: references, train, dev_queries and dev_queries_groundtruth.csv, test_queries and
            test_queries_groundtruth.csv, each in one folder or in the parts that are downloaded.
        weights: Weights for --root, as of `sscd-jax embed`.
        split: Which of those in --root, where there are several.
        descriptors: Folder for the descriptors of --root; by default ROOT/descriptors.
        preset: How the pictures of --root are resized and normalised.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        score_norm: Score normalisations by the training descriptors, as weight[first,last]; by default 1.0[0,2] where
            there are training descriptors.
        candidates: The best k of each query, or the best k x queries of all; by default the first, with --root both.
        k: Candidates a query.
        bootstrap: Sets of queries to draw for the intervals; 0 for none.
        out: JSON file for the rows; by default QUERIES.disc.json, with --root DESCRIPTORS/SPLIT.disc.json.
    """
    from sscd_jax.evaluation import disc

    if root:
        if queries or references or ground_truth or training:
            raise ValueError("--root says where all is: leave out --queries, --references, --ground-truth, --training")
        if not weights:
            raise ValueError("--root needs --weights, to embed its pictures")
        sets, truth, default = _disc_folder(root, weights, split, descriptors or root / "descriptors", preset)
    elif queries and references and ground_truth:
        if weights or split or descriptors:
            raise ValueError("--weights, --split and --descriptors go with --root")
        sets, truth, default = (
            {"queries": queries, "references": references, "training": training},
            ground_truth,
            queries.with_name(f"{queries.name}.disc.json"),
        )
    else:
        raise ValueError("give --queries, --references and --ground-truth, or --root and --weights")
    out = _checked(out or default)
    read = {part: Descriptors.read(path) if path else None for part, path in sets.items()}
    background = read["training"]
    if score_norm and background is None:
        raise ValueError(f"--score-norm {' '.join(score_norm)} needs --training, the descriptors to normalise by")
    asked, searched = read["queries"], read["references"]
    assert asked is not None
    assert searched is not None
    rules: list[Literal["per_query", "global"]] = ["per_query", "global"] if root else ["per_query"]
    pairs = disc.read_ground_truth(truth)
    rows = [
        row
        for rule in ([candidates] if candidates else rules)
        for row in disc.evaluate(
            asked,
            searched,
            background,
            pairs,
            codecs=codecs or None,
            score_norms=[None, *(score_norm or ["1.0[0,2]"])] if background else [None],
            k=k,
            candidates=rule,
            bootstrap=bootstrap,
        )
    ]
    print(table([_with_intervals(row) for row in rows]))
    _write(out, rows)


def _disc_folder(
    root: Path, weights: str, split: str | None, descriptors: Path, preset: PresetName
) -> tuple[dict[str, Path | None], Path, Path]:
    """Folders of descriptors of a split, its ground truth, and where results go."""
    from sscd_jax import disc_folders
    from sscd_jax import weights as known_weights

    found = disc_folders.find(root, split)
    folders = disc_folders.embed_split(found, *known_weights.load(weights), choose(preset), descriptors)
    return folders, found.ground_truth, descriptors / f"{found.name}.disc.json"


def _with_intervals(row: dict[str, Any]) -> dict[str, Any]:
    """As a line of a table."""
    intervals = row.get("intervals", {})
    shown = {name: value for name, value in row.items() if name not in ("intervals", "bootstrap")}
    return shown | {name: f"{row[name]:.4f} ({low:.3f}-{high:.3f})" for name, (low, high) in intervals.items()}


def evaluate_compare(before: tyro.conf.Positional[Path], after: tyro.conf.Positional[Path]) -> None:
    """Compare two evaluations of the same queries, and say which differences are more than chance.

    Differences are paired: both are measured on the same draws of queries. Of 95 %: "within noise" where 0 is among
    what the difference may be.

    Args:
        before: JSON file that `sscd-jax evaluate disc` wrote.
        after: Another.
    """
    from sscd_jax.evaluation.compare import compare

    print(table(compare(_read(before), _read(after))))


def _read(path: Path) -> Any:
    try:
        rows = json.loads(path.read_text())
        if not isinstance(rows, list) or not all(isinstance(row, dict) and "codec" in row for row in rows):
            raise ValueError("it has no rows of an evaluation")
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}; give a JSON file that `sscd-jax evaluate disc` wrote") from error
    return rows


def evaluate_copydays(
    copydays: Path | None = None,
    distractors: str | None = None,
    training: str | None = None,
    root: Path | None = None,
    weights: str | None = None,
    descriptors: Path | None = None,
    preset: PresetName = "small_288",
    codecs: tuple[str, ...] = (),
    k: int = 100,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on Copydays with distractors: a row for each codec.

    Either from descriptors: --copydays, and maybe --distractors and --training. Or from Copydays' folders: --root and
    --weights; what is not embedded yet is.

    Args:
        copydays: Descriptors of Copydays' folder, whose ids are as strong/200001.
        distractors: Descriptors of pictures that are searched besides the originals; the paper takes 10,000. With
            --root also the pictures, as IMAGES of `sscd-jax embed`.
        training: Descriptors that codecs are fitted on; with --root also pictures.
        root: Folder with original, strong, jpegqual/3 to jpegqual/75 and crops/10 to crops/80, as the official code has
            them, or with what INRIA's archives unpack to.
        weights: Weights for --root, as of `sscd-jax embed`.
        descriptors: Folder for the descriptors of --root; by default ROOT/descriptors.
        preset: How the pictures of --root are resized and normalised.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        k: Neighbours of a query that count.
        out: JSON file for the rows, with the mAP of each block; by default COPYDAYS.copydays.json, with --root
            DESCRIPTORS/copydays.copydays.json.
    """
    from sscd_jax.evaluation import disc
    from sscd_jax.evaluation.copydays import BLOCKS, PICTURES, evaluate

    sets: dict[str, Path | None]
    if root:
        if copydays:
            raise ValueError("--root says where Copydays is: leave out --copydays")
        if not weights:
            raise ValueError("--root needs --weights, to embed its pictures")
        sets = _copydays_folder(root, weights, descriptors or root / "descriptors", preset, distractors, training)
    elif copydays:
        if weights or descriptors:
            raise ValueError("--weights and --descriptors go with --root")
        sets = {
            "copydays": copydays,
            "distractors": Path(distractors) if distractors else None,
            "training": Path(training) if training else None,
        }
    else:
        raise ValueError("give --copydays, or --root and --weights")
    where = sets["copydays"]
    assert where is not None
    out = _checked(out or where.with_name(f"{where.name}.copydays.json"))
    read = {name: Descriptors.read(path) if path else None for name, path in sets.items()}
    pictures, background = read["copydays"], read["training"]
    assert pictures is not None
    rows = evaluate(
        pictures,
        read["distractors"],
        background,
        codecs=codecs or disc.default_codecs(background),
        k=k,
    )
    if len(pictures.ids) != PICTURES:
        missing = [block for block in BLOCKS if block not in rows[0]["block_mAP"]]
        without = f"; without {', '.join(missing)}" if missing else ""
        print(f"{where} has {len(pictures.ids)} pictures; Copydays has {PICTURES}{without}", file=sys.stderr)
    print(table([{name: value for name, value in row.items() if name != "block_mAP"} for row in rows]))
    _write(out, rows)


def _copydays_folder(
    root: Path, weights: str, descriptors: Path, preset: PresetName, distractors: str | None, training: str | None
) -> dict[str, Path | None]:
    """Folders of descriptors."""
    from sscd_jax import weights as known_weights
    from sscd_jax.copydays_folders import embed_copydays, find

    find(root)  # before weights, which take longer
    return embed_copydays(
        root,
        *known_weights.load(weights),
        choose(preset),
        descriptors,
        distractors=distractors,
        training=training,
    )


def _checked(out: Path) -> Path:
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: it must be a file in a folder that exists")
    return out


def _write(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    unfinished = out.with_name(f"{out.name}.unfinished")
    unfinished.write_text(json.dumps(rows, indent=2))
    unfinished.replace(out)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Rows of equal keys as text in columns."""
    cells = [list(rows[0])] + [
        [f"{value:.4f}" if isinstance(value, float) else str(value) for value in row.values()] for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells]
    return "\n".join(line.rstrip() for line in lines)
