"""The commands that measure how well copies are found."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

from sscd_jax.cli.options import preset_for
from sscd_jax.cli.output import beside, checked, leave, table
from sscd_jax.datasets import disc2021
from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS, COPYDAYS_IMAGES, read_edits, read_ground_truth
from sscd_jax.descriptors import Descriptors
from sscd_jax.presets import PresetName

if TYPE_CHECKING:
    from sscd_jax.evaluation.disc import Candidates

LEAST_BACKGROUND = 3  # training images, for the score normalization 1.0[0,2]


def evaluate_disc(
    queries: str | None = None,
    references: str | None = None,
    ground_truth: Path | None = None,
    training: str | None = None,
    root: Path | None = None,
    weights: str | None = None,
    split: Literal["val", "dev", "test", "benchmark"] | None = None,
    descriptors: Path | None = None,
    preset: PresetName | None = None,
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
    """Measure copy detection as on DISC2021, one row for each codec, without and with score normalization.

    Give either descriptors, by --queries, --references, --ground-truth and optionally --training, or the folders of
    DISC2021, by --root and --weights; images there that have no descriptors yet are embedded first. Each metric is
    followed by its 95 % confidence interval, from a bootstrap over the queries.

    Args:
        queries: The descriptors of the queries, a folder that `sscd-jax embed` wrote.
        references: The descriptors of the images that are searched.
        ground_truth: The CSV file that says which query copies which reference. Its header is query_id,reference_id.
        training: The descriptors on which codecs are fitted and by which scores are normalized.
        root: A folder in one of three layouts. The layout of the official code has val_query, val_ref, training and
            val_groundtruth_matches.csv. The layout of the released data has references, train, dev_queries with
            dev_queries_groundtruth.csv, and test_queries with test_queries_groundtruth.csv, each part in one folder or
            in the folders that its archives unpack to. The third layout is what `sscd-jax benchmark make` writes.
        weights: The network that embeds the images of --root, given as for `sscd-jax embed`.
        split: The split to evaluate. It is needed only if --root holds several.
        descriptors: The folder for the descriptors of --root. The default is ROOT/descriptors.
        preset: How the images of --root are resized and normalized. The default is the preset that the
            network is for, or small_288 if that is not known.
        codecs: Transforms of the descriptors, as faiss factory strings that end in Flat. The default is Flat, and
            also whitening to the full dimension if there are enough training descriptors.
        score_norm: Score normalizations by the training descriptors, each as weight[first,last], or none. The default
            is 1.0[0,2] if there are training descriptors.
        candidates: Which predictions count. "per_query" takes the k best references of each query, "global" the best
            k x queries pairs over all queries. The default is per_query, and both with --root.
        k: The number of candidates per query.
        precision: The precisions for which the threshold of the score is printed.
        edits: A CSV file with the columns query_id, edits (such as "crop + text") and optionally strength, for metrics
            by kind and number of edits. With --root, the default is its queries.csv if it has one.
        calibration: A file that `sscd-jax calibrate` wrote. It adds a row for this calibration, and the precision
            and recall at its threshold.
        bootstrap: The number of sets of queries drawn for the confidence intervals. 0 computes none, which is faster.
        out: The JSON file for the rows. The default is QUERIES.disc.json, or DESCRIPTORS/SPLIT.disc.json with --root.
            Charts and tables go to the folder of the same name beside it.
    """
    from sscd_jax.evaluation import disc, run
    from sscd_jax.search.calibration import Calibration

    sets: Mapping[str, str | Path | None]

    for wanted in precision:
        if not 0 < wanted <= 1:
            raise ValueError(f"--precision {wanted}: it must be over 0, and 1 at most")
    if bootstrap < 0:
        raise ValueError(f"--bootstrap {bootstrap}: it must be 0 for none, or more")
    if root:
        if queries or references or ground_truth or training:
            raise ValueError("--root holds all of it: leave out --queries, --references, --ground-truth, --training")
        if not weights:
            raise ValueError("--root needs --weights, to embed its images")
        found = disc2021.find(root, split)
        edits = edits or found.edits
        known_edits = read_edits(edits) if edits else {}
        folder = descriptors or root / "descriptors"
        out = checked(out or folder / f"{found.name}.disc.json", may_make=folder)
        sets, truth = _embedded(found, weights, folder, preset), found.ground_truth
    elif queries and references and ground_truth:
        if weights or split or descriptors:
            raise ValueError("--weights, --split and --descriptors require --root")
        known_edits = read_edits(edits) if edits else {}
        out = checked(out or beside(queries, "disc.json"))
        sets, truth = {"queries": queries, "references": references, "training": training}, ground_truth
    else:
        raise ValueError("give --queries, --references and --ground-truth, or --root and --weights")
    read = {part: Descriptors.read(path) if path else None for part, path in sets.items()}
    asked, searched, background = read["queries"], read["references"], read["training"]
    if set(score_norm) - {"none"} and background is None:
        raise ValueError(f"--score-norm {' '.join(score_norm)} needs --training, the descriptors to normalize by")
    assert asked is not None
    assert searched is not None
    pairs = read_ground_truth(truth)
    if root:
        pairs = _readable(pairs, found, asked, searched)
    if background and len(background.ids) < LEAST_BACKGROUND and not score_norm:
        print(f"no score normalization: it needs {LEAST_BACKGROUND} training images", file=sys.stderr)
        score_norm = ("none",)
    chosen = codecs or disc.default_codecs(background)
    if background and not codecs and len(chosen) == 1:
        print("no whitening: it needs training images that vary along all dimensions", file=sys.stderr)
    norms = [None if one == "none" else one for one in score_norm or (["1.0[0,2]"] if background else [])]
    rules: list[Candidates] = [candidates] if candidates else ["per_query", "global"] if root else ["per_query"]
    evaluation = run.evaluate_disc(
        asked,
        searched,
        background,
        pairs,
        codecs=chosen,
        score_norms=list(dict.fromkeys([None, *norms])),
        k=k,
        rules=rules,
        precisions=precision,
        edits=known_edits,
        calibration=Calibration.read(calibration) if calibration else None,
        bootstrap=bootstrap,
        facts=run.facts_of(read, **{"Ground truth": str(truth)}),
    )
    leave(out, evaluation, precision=precision[0] if precision else 0.9)


def _readable(
    pairs: list[tuple[str, str]], found: disc2021.Split, queries: Descriptors, references: Descriptors
) -> list[tuple[str, str]]:
    """Returns the pairs whose images could be read, and prints how many pairs are left out."""
    unread = [
        set(disc2021.open_images(found.folders[part]).ids) - set(one.ids)
        for part, one in (("queries", queries), ("references", references))
    ]
    pairs = list(dict.fromkeys(pairs))
    kept = [pair for pair in pairs if pair[0] not in unread[0] and pair[1] not in unread[1]]
    if len(kept) < len(pairs):
        lost = next(pair for pair in pairs if pair[0] in unread[0] or pair[1] in unread[1])
        print(
            f"{len(pairs) - len(kept)} pairs of the ground truth are left out, such as {lost[0]},{lost[1]}: an image "
            "cannot be read (errors.jsonl of the descriptors says why)",
            file=sys.stderr,
        )
    return kept


def _embedded(
    found: disc2021.Split, weights: str, descriptors: Path, preset: PresetName | None
) -> dict[str, Path | None]:
    """Embeds the parts of a split that have no descriptors yet, and returns the folders of descriptors."""
    from sscd_jax import weights as known_weights
    from sscd_jax.embedding import evaluation_sets

    read = known_weights.read(weights)
    return evaluation_sets.embed_split(found, read.model, read.variables, preset_for(read, preset), descriptors)


def evaluate_copydays(
    copydays: str | None = None,
    distractors: str | None = None,
    training: str | None = None,
    root: Path | None = None,
    weights: str | None = None,
    descriptors: Path | None = None,
    preset: PresetName | None = None,
    codecs: tuple[str, ...] = (),
    k: int = 100,
    bootstrap: int = 1000,
    out: Path | None = None,
) -> None:
    """Measure copy detection as on Copydays with distractors, one row for each codec.

    Give either descriptors, by --copydays and optionally --distractors and --training, or the folders of Copydays, by
    --root and --weights; images there that have no descriptors yet are embedded first.

    Args:
        copydays: The descriptors of Copydays' folder. Their ids look like strong/200001.
        distractors: The descriptors of images that are searched besides the originals; the paper takes 10,000. With
            --root they can also be images, given as for `sscd-jax embed`.
        training: The descriptors on which codecs are fitted. With --root they can also be images.
        root: A folder with original, strong, jpegqual/3 to jpegqual/75 and crops/10 to crops/80, as the official code
            has them, or with what INRIA's archives unpack to.
        weights: The network that embeds the images of --root, given as for `sscd-jax embed`.
        descriptors: The folder for the descriptors of --root. The default is ROOT/descriptors.
        preset: How the images of --root are resized and normalized. The default is the preset that the
            network is for, or small_288 if that is not known.
        codecs: Transforms of the descriptors, as faiss factory strings that end in Flat. The default is Flat, and
            also whitening to the full dimension if there are enough training descriptors.
        k: The number of neighbors per query that count.
        bootstrap: The number of sets of queries drawn for the confidence intervals. 0 computes none, which is faster.
        out: The JSON file for the rows, with the mAP of each block. The default is COPYDAYS.copydays.json, or
            DESCRIPTORS/copydays.copydays.json with --root. Charts and tables go to the folder of the same name beside
            it.
    """
    from sscd_jax.evaluation import disc, run

    if bootstrap < 0:
        raise ValueError(f"--bootstrap {bootstrap}: it must be 0 for none, or more")
    sets: Mapping[str, str | Path | None]
    if root:
        if copydays:
            raise ValueError("--root holds Copydays: leave out --copydays")
        if not weights:
            raise ValueError("--root needs --weights, to embed its images")
        sets = _copydays_folder(root, weights, descriptors or root / "descriptors", preset, distractors, training)
    elif copydays:
        if weights or descriptors:
            raise ValueError("--weights and --descriptors require --root")
        sets = {
            "copydays": copydays,
            "distractors": distractors,
            "training": training,
        }
    else:
        raise ValueError("give --copydays, or --root and --weights")
    where = sets["copydays"]
    assert where is not None
    out = checked(out or beside(where, "copydays.json"))
    read = {name: Descriptors.read(path) if path else None for name, path in sets.items()}
    images, background = read["copydays"], read["training"]
    assert images is not None
    codecs = codecs or tuple(disc.default_codecs(background))
    evaluation = run.evaluate_copydays(images, read["distractors"], background, codecs=codecs, k=k, bootstrap=bootstrap)
    if len(images.ids) != COPYDAYS_IMAGES:
        missing = [block for block in COPYDAYS_BLOCKS if block not in evaluation.rows[0]["block_mAP"]]
        without = f"; without {', '.join(missing)}" if missing else ""
        print(f"{where} has {len(images.ids)} images; Copydays has {COPYDAYS_IMAGES}{without}", file=sys.stderr)
    leave(out, evaluation)


def _copydays_folder(
    root: Path,
    weights: str,
    descriptors: Path,
    preset: PresetName | None,
    distractors: str | None,
    training: str | None,
) -> dict[str, Path | None]:
    """Embeds the images of Copydays that have no descriptors yet, and returns the folders of descriptors."""
    from sscd_jax import weights as known_weights
    from sscd_jax.datasets import copydays
    from sscd_jax.embedding import evaluation_sets

    copydays.find(root)  # before the weights are loaded, which takes longer
    read = known_weights.read(weights)
    return evaluation_sets.embed_copydays(
        root,
        read.model,
        read.variables,
        preset_for(read, preset),
        descriptors,
        distractors=distractors,
        training=training,
    )


def evaluate_compare(before: tyro.conf.Positional[Path], after: tyro.conf.Positional[Path]) -> None:
    """Compare two evaluations of the same queries, and say which differences are more than chance.

    Differences are paired: both evaluations are measured on the same draws of queries. The verdict is "within noise"
    if the 95 % confidence interval of the difference contains 0.

    Args:
        before: The JSON file that `sscd-jax evaluate` wrote for the first network.
        after: The JSON file for the second network.
    """
    from sscd_jax.evaluation.compare import compare
    from sscd_jax.evaluation.results import read_rows

    print(table(compare(read_rows(before), read_rows(after))))
