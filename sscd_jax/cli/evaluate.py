"""The commands that measure: thin calls into the package."""

import sys
from pathlib import Path
from typing import Literal

import numpy as np
import tyro

from sscd_jax.cli.output import checked, facts_of, leave, sources_of, table
from sscd_jax.datasets import disc2021
from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS, COPYDAYS_IMAGES, read_edits, read_ground_truth
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation.by_edit import by_edit
from sscd_jax.evaluation.results import Evaluation, read_rows
from sscd_jax.evaluation.thresholds import at_thresholds
from sscd_jax.presets import PresetName, choose
from sscd_jax.search.calibration import Calibration

LEAST_BACKGROUND = 3  # training images, for 1.0[0,2]


def evaluate_disc(
    queries: Path | None = None,
    references: Path | None = None,
    ground_truth: Path | None = None,
    training: Path | None = None,
    root: Path | None = None,
    weights: str | None = None,
    split: Literal["val", "dev", "test", "benchmark"] | None = None,
    descriptors: Path | None = None,
    preset: PresetName = "small_288",
    codecs: tuple[str, ...] = (),
    score_norm: tuple[str, ...] = (),
    candidates: Literal["per_query", "global"] | None = None,
    k: int = 10,
    precision: tuple[float, ...] = (0.9,),
    edits: Path | None = None,
    calibration: Path | None = None,
    bootstrap: int = 1000,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on DISC2021: a row for each codec, without and with score normalization.

    Either from descriptors: --queries, --references, --ground-truth and maybe --training. Or from DISC2021's folders:
    --root and --weights; what is not embedded yet is. Behind each metric is where it lies, at 95 %, were other such
    queries asked (by bootstrap over the queries).

    Args:
        queries: Descriptors of the queries, a folder that `sscd-jax embed` wrote.
        references: Descriptors of the images that are searched.
        ground_truth: CSV file with the header query_id,reference_id.
        training: Descriptors that codecs are fitted on and scores normalized by.
        root: Folder with val_query, val_ref, training and val_groundtruth_matches.csv, as the official code has them,
            or with what was released: references, train, dev_queries and dev_queries_groundtruth.csv, test_queries and
            test_queries_groundtruth.csv, each in one folder or in the parts that are downloaded. Or what `sscd-jax
            benchmark make` wrote.
        weights: Weights for --root, as of `sscd-jax embed`.
        split: Which of those in --root, where there are several.
        descriptors: Folder for the descriptors of --root; by default ROOT/descriptors.
        preset: How the images of --root are resized and normalized.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        score_norm: Score normalizations by the training descriptors, as weight[first,last], or none; by default
            1.0[0,2] where there are training descriptors.
        candidates: The best k of each query, or the best k x queries of all; by default the first, with --root both.
        k: Candidates a query.
        precision: Precisions to say the threshold of the score for.
        edits: CSV file with query_id, edits ("crop + text") and maybe strength, to measure by kind and number of edits;
            by default, with --root, its queries.csv where there is one.
        calibration: File that `sscd-jax calibrate` wrote, to measure by it too, and at its threshold.
        bootstrap: Sets of queries to draw for the intervals; 0 for none.
        out: JSON file for the rows; by default QUERIES.disc.json, with --root DESCRIPTORS/SPLIT.disc.json. Charts and
            tables go to the folder beside it.
    """
    from sscd_jax.evaluation import disc

    for wanted in precision:
        if not 0 < wanted <= 1:
            raise ValueError(f"--precision {wanted}: it must be over 0, and 1 at most")
    if bootstrap < 0:
        raise ValueError(f"--bootstrap {bootstrap}: it must be 0 for none, or more")
    if root:
        if queries or references or ground_truth or training:
            raise ValueError("--root says where all is: leave out --queries, --references, --ground-truth, --training")
        if not weights:
            raise ValueError("--root needs --weights, to embed its images")
        found = disc2021.find(root, split)
        known_edits = read_edits(edits) if (edits := edits or found.edits) else {}
        folder = descriptors or root / "descriptors"
        out = checked(out or folder / f"{found.name}.disc.json", may_make=folder)
        sets, truth = _embedded(found, weights, folder, preset), found.ground_truth
    elif queries and references and ground_truth:
        if weights or split or descriptors:
            raise ValueError("--weights, --split and --descriptors go with --root")
        known_edits = read_edits(edits) if edits else {}
        out = checked(out or queries.with_name(f"{queries.name}.disc.json"))
        sets, truth = {"queries": queries, "references": references, "training": training}, ground_truth
    else:
        raise ValueError("give --queries, --references and --ground-truth, or --root and --weights")
    read = {part: Descriptors.read(path) if path else None for part, path in sets.items()}
    background = read["training"]
    if set(score_norm) - {"none"} and background is None:
        raise ValueError(f"--score-norm {' '.join(score_norm)} needs --training, the descriptors to normalize by")
    asked, searched = read["queries"], read["references"]
    assert asked is not None
    assert searched is not None
    pairs = list(dict.fromkeys(read_ground_truth(truth)))
    if root:
        pairs = _readable(pairs, found, asked, searched)
    if background and len(background.ids) < LEAST_BACKGROUND and not score_norm:
        print(f"no score normalization: it needs {LEAST_BACKGROUND} training images", file=sys.stderr)
        score_norm = ("none",)
    chosen = codecs or disc.default_codecs(background)
    if background and not codecs and len(chosen) == 1:
        print("no whitening: it needs training images that vary along all dimensions", file=sys.stderr)
    norms = [None if one == "none" else one for one in score_norm or (["1.0[0,2]"] if background else [])]
    rules: list[disc.Candidates] = [candidates] if candidates else ["per_query", "global"] if root else ["per_query"]
    found_by = disc.predict(
        asked,
        searched,
        background,
        pairs,
        codecs=chosen,
        score_norms=list(dict.fromkeys([None, *norms])),
        k=k,
        rules=rules,
    )
    fitted = Calibration.read(calibration) if calibration else None
    if fitted:
        found_by += disc.predict_calibrated(asked, searched, pairs, fitted, k=k, rules=rules)
    rows = []
    for one in found_by:
        row = disc.measure(one, asked.ids, pairs, bootstrap=bootstrap, precisions=precision)
        if known_edits:
            row["by_edit"] = by_edit(one.predictions, asked.ids, known_edits, bootstrap=bootstrap)
        if fitted and one.settings["codec"] == "calibrated":
            (row["at_calibration"],) = at_thresholds(one.predictions, np.array([fitted.threshold]))
        rows.append(row)
    facts = facts_of(read, **{"Ground truth": str(truth)})
    evaluation = Evaluation(
        rows,
        found_by,
        asked.ids,
        searched.ids,
        pairs,
        known_edits,
        facts,
        sources_of(queries=asked, references=searched),
    )
    leave(out, evaluation, precision=precision[0] if precision else 0.9)


def _readable(
    pairs: list[tuple[str, str]], found: disc2021.Split, queries: Descriptors, references: Descriptors
) -> list[tuple[str, str]]:
    """The pairs whose images could be read; says which others there are."""
    unread = [
        set(disc2021.open_images(found.folders[part]).ids) - set(one.ids)
        for part, one in (("queries", queries), ("references", references))
    ]
    kept = [pair for pair in pairs if pair[0] not in unread[0] and pair[1] not in unread[1]]
    if len(kept) < len(pairs):
        lost = next(pair for pair in pairs if pair[0] in unread[0] or pair[1] in unread[1])
        print(
            f"{len(pairs) - len(kept)} pairs of the ground truth are left out, as {lost[0]},{lost[1]}: an image "
            "cannot be read (errors.jsonl of the descriptors says why)",
            file=sys.stderr,
        )
    return kept


def _embedded(found: disc2021.Split, weights: str, descriptors: Path, preset: PresetName) -> dict[str, Path | None]:
    """Folders of descriptors of a split."""
    from sscd_jax import weights as known_weights
    from sscd_jax.embedding import evaluation_sets

    return evaluation_sets.embed_split(found, *known_weights.load(weights), choose(preset), descriptors)


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
    bootstrap: int = 1000,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on Copydays with distractors: a row for each codec.

    Either from descriptors: --copydays, and maybe --distractors and --training. Or from Copydays' folders: --root and
    --weights; what is not embedded yet is.

    Args:
        copydays: Descriptors of Copydays' folder, whose ids are as strong/200001.
        distractors: Descriptors of images that are searched besides the originals; the paper takes 10,000. With
            --root also the images, as IMAGES of `sscd-jax embed`.
        training: Descriptors that codecs are fitted on; with --root also images.
        root: Folder with original, strong, jpegqual/3 to jpegqual/75 and crops/10 to crops/80, as the official code has
            them, or with what INRIA's archives unpack to.
        weights: Weights for --root, as of `sscd-jax embed`.
        descriptors: Folder for the descriptors of --root; by default ROOT/descriptors.
        preset: How the images of --root are resized and normalized.
        codecs: faiss factory strings that end in Flat; by default Flat, and whitening to the full length where there
            are enough training descriptors.
        k: Neighbors of a query that count.
        bootstrap: Sets of queries to draw for the intervals; 0 for none.
        out: JSON file for the rows, with the mAP of each block; by default COPYDAYS.copydays.json, with --root
            DESCRIPTORS/copydays.copydays.json. Charts and tables go to the folder beside it.
    """
    from sscd_jax.evaluation import copydays as evaluated
    from sscd_jax.evaluation import disc

    if bootstrap < 0:
        raise ValueError(f"--bootstrap {bootstrap}: it must be 0 for none, or more")
    sets: dict[str, Path | None]
    if root:
        if copydays:
            raise ValueError("--root says where Copydays is: leave out --copydays")
        if not weights:
            raise ValueError("--root needs --weights, to embed its images")
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
    out = checked(out or where.with_name(f"{where.name}.copydays.json"))
    read = {name: Descriptors.read(path) if path else None for name, path in sets.items()}
    images, background = read["copydays"], read["training"]
    assert images is not None
    codecs = codecs or tuple(disc.default_codecs(background))
    found = evaluated.predict(images, read["distractors"], background, codecs=codecs, k=k)
    rows = [evaluated.measure(one, images.ids, bootstrap=bootstrap) for one in found]
    if len(images.ids) != COPYDAYS_IMAGES:
        missing = [block for block in COPYDAYS_BLOCKS if block not in rows[0]["block_mAP"]]
        without = f"; without {', '.join(missing)}" if missing else ""
        print(f"{where} has {len(images.ids)} images; Copydays has {COPYDAYS_IMAGES}{without}", file=sys.stderr)
    searched = evaluated.reference_ids(images, read["distractors"])
    truth = evaluated.ground_truth(images)
    evaluation = Evaluation(
        rows,
        found,
        images.ids,
        searched,
        truth,
        facts=facts_of(read),
        sources=[*sources_of(queries=images, references=images), *sources_of(references=read["distractors"])],
    )
    leave(out, evaluation)


def _copydays_folder(
    root: Path, weights: str, descriptors: Path, preset: PresetName, distractors: str | None, training: str | None
) -> dict[str, Path | None]:
    """Folders of descriptors."""
    from sscd_jax import weights as known_weights
    from sscd_jax.datasets import copydays
    from sscd_jax.embedding import evaluation_sets

    copydays.find(root)  # before weights, which take longer
    return evaluation_sets.embed_copydays(
        root,
        *known_weights.load(weights),
        choose(preset),
        descriptors,
        distractors=distractors,
        training=training,
    )


def evaluate_compare(before: tyro.conf.Positional[Path], after: tyro.conf.Positional[Path]) -> None:
    """Compare two evaluations of the same queries, and say which differences are more than chance.

    Differences are paired: both are measured on the same draws of queries. Of 95 %: "within noise" where 0 is among
    what the difference may be.

    Args:
        before: JSON file that `sscd-jax evaluate` wrote.
        after: Another.
    """
    from sscd_jax.evaluation.compare import compare

    print(table(compare(read_rows(before), read_rows(after))))
