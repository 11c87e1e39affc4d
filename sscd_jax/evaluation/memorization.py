"""Measures how much a generative model copies: how similar its images are to the images that it was trained on.

The formulas are those of `diff_retrieval.py` of github.com/somepago/DCR, the code of Somepalli et al., "Diffusion Art
or Digital Forgery?" (CVPR 2023) and "Understanding and Mitigating Copying in Diffusion Models" (NeurIPS 2023).
Descriptors have norm 1, and the similarity of two images is their inner product. Each generated image counts with its
most similar training image. Of these similarities the official code logs the mean and the standard deviation
(`sim_mean`, `sim_std`), the percentiles 75, 90 and 95 (`sim_75pc` to `sim_95pc`) and the share above 0.5
(`sim_gt_05pc`); the percentile 95 is the dataset similarity of the second paper. It logs the same, without the share,
of each training image with its nearest other one (`bg_mean` to `bg_95pc`), where an exact duplicate is another image,
of similarity 1. The other percentiles and thresholds, the intervals and the images of the background are ours.
"""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.evaluation.bootstrap import draws, interval
from sscd_jax.files import atomic_file, check_file, write_text
from sscd_jax.mapped_vectors import Vectors
from sscd_jax.search.knn import is_unit, knn, similarities
from sscd_jax.search.same_images import EQUAL_HALF

PERCENTILES = (5, 25, 50, 75, 90, 95, 99)  # 75, 90 and 95 are those of the official code
DATASET_SIMILARITY = "percentile_95"
# 0.5 is that of the official code. 0.75 is from the README of SSCD: pairs of DISC above it are copies with a precision
# of 90 %, by sscd_disc_mixup. 0.3 is from no paper: it shows how common weak similarities are.
THRESHOLDS = (0.3, 0.5, 0.75)
METRICS = ("mean", "std", *(f"percentile_{p}" for p in PERCENTILES), *(f"share_above_{t}" for t in THRESHOLDS))
SEEDS = {"generated": 0, "background": 1, "training": 2}  # independent sets are drawn independently
REFERENCES = 2**20  # training images that are in memory at once
PAIRS = ("generated_id", "training_id", "similarity")
FORMAT, VERSION = "sscd_jax memorization", 1


@dataclass(frozen=True)
class Nearest:
    """The most similar training image of each of N images.

    Attributes:
        row: int64 [N], the row of that training image, or -1 if there is none.
        similarity: float32 [N], the inner product with it, or -inf.
    """

    row: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Memorization:
    """What was measured.

    Attributes:
        rows: for "generated", and as far as they were asked for "background" and "training", a row of metrics:
            `images`, the number of images; METRICS, each a float; `intervals`, the 95 % confidence interval of each as
            far as there is one; and, except for "training", `same_as_training`, the number of images that have the
            same descriptor as a training image, up to rounding. For "difference", METRICS of the generated images
            minus those of the background, and `intervals`.
        nearest: the most similar training image of each generated image.
    """

    rows: Mapping[str, Mapping[str, Any]]
    nearest: Nearest


def evaluate(
    generated: Descriptors,
    training: Descriptors,
    background: Descriptors | None = None,
    *,
    bootstrap: int = 1000,
    training_sample: int = 10_000,
) -> Memorization:
    """Measures how similar generated images are to training images.

    Args:
        generated: descriptors of images that the model has generated.
        training: descriptors of the images that the model was trained on.
        background: descriptors of real images that the model has not seen, from the same distribution as its training
            images: their similarity to the training images is that of chance.
        bootstrap: the number of sets of images drawn for the confidence intervals; 0 for those of shares alone.
        training_sample: the number of training images, drawn without replacement, that are compared with all other
            training images; 0 for none. If there are fewer, all of them are, as in the official code.

    Raises:
        ValueError: a set is empty, sets are of different weights or presets, or descriptors do not have norm 1.
    """
    sets = {"generated": generated, "training": training} | ({"background": background} if background else {})
    for name, one in sets.items():
        if not len(one.ids):
            raise ValueError(f"there are no descriptors of the {name} images")
    check_same_provenance(**sets)
    for name, one in sets.items():
        if not is_unit(one.vectors):
            raise ValueError(
                f"the descriptors of the {name} images do not have norm 1, as those of SSCD have, so that their inner "
                "products are no similarities between -1 and 1"
            )
    found = find_nearest(generated.vectors, training.vectors)
    similarity = {"generated": found.similarity}
    same = {"generated": _same_images(generated.vectors, training.vectors, found)}
    if background:
        others = find_nearest(background.vectors, training.vectors)
        similarity["background"] = others.similarity
        same["background"] = _same_images(background.vectors, training.vectors, others)
    if training_sample and len(training.ids) > 1:
        similarity["training"] = nearest_others(training.vectors, training_sample).similarity
    drawn = {name: resampled(one, bootstrap, SEEDS[name]) for name, one in similarity.items()}
    rows = {name: _row(one, drawn[name]) for name, one in similarity.items()}
    for name, count in same.items():
        rows[name]["same_as_training"] = count
    if background:
        rows["difference"] = _difference(rows["generated"], drawn["generated"], rows["background"], drawn["background"])
    return Memorization(rows, found)


def find_nearest(queries: Vectors, references: Vectors, own: np.ndarray | None = None) -> Nearest:
    """Finds the most similar reference of each query, with a part of the references in memory at a time.

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        own: int64 [Q], the row of the reference that is the query itself, and is left out.
    """
    best = Nearest(np.full(len(queries), -1, np.int64), np.full(len(queries), -np.inf, np.float32))
    for start in range(0, len(references), REFERENCES):
        some = references[start : start + REFERENCES]
        scores, at = knn(queries, some, 1 if own is None else 2, "inner_product")
        at = at + start
        if own is not None:
            scores = np.where(at == own[:, None], -np.inf, scores)
        column = scores.argmax(1)[:, None]
        score, row = (np.take_along_axis(one, column, 1)[:, 0] for one in (scores, at))
        better = score > best.similarity
        best.similarity[better], best.row[better] = score[better], row[better]
    return best


def nearest_others(training: Vectors, sample: int) -> Nearest:
    """Finds for some training images, or for all if there are no more, the most similar other training image.

    Args:
        training: float32 [T, D].
        sample: the number of images, drawn without replacement with a fixed seed.
    """
    if sample >= len(training):
        return find_nearest(training, training, np.arange(len(training)))
    own = np.sort(np.random.default_rng(SEEDS["training"]).choice(len(training), sample, replace=False))
    return find_nearest(training[own], training, own)


def measure(similarity: np.ndarray) -> dict[str, float]:
    """Returns METRICS of the similarities of images to their nearest training image, float [N].

    Percentiles are interpolated linearly, as by `np.percentile`; the standard deviation divides by N; a similarity that
    equals a threshold is not above it (official `diff_retrieval.py`, from `sim_mean` to `sim_gt_05pc`).
    """
    percentiles = np.percentile(similarity, PERCENTILES)
    shares = [(similarity > threshold).mean() for threshold in THRESHOLDS]
    values = [similarity.mean(dtype=np.float64), similarity.std(dtype=np.float64), *percentiles, *shares]
    return dict(zip(METRICS, map(float, values), strict=True))


def resampled(similarity: np.ndarray, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Measures sets of images that are drawn with replacement, each with as many images as there are.

    Args:
        similarity: float [N].
        samples: the number of sets.
        seed: random seed of the draws.

    Returns:
        float64 [samples] for each of METRICS. With one image there is nothing to draw, and no metric.
    """
    if len(similarity) < 2 or not samples:
        return {}
    ordered, values = np.sort(similarity), {name: np.empty(samples) for name in METRICS}
    for number, times in enumerate(draws(len(ordered), samples, seed)):
        for name, value in measure(np.repeat(ordered, times)).items():
            values[name][number] = value
    return values


def wilson(share: float, images: int) -> tuple[float, float]:
    """Returns the 95 % confidence interval of a share of images by Wilson's score, which also holds at 0 and 1."""
    found = binomtest(round(share * images), images).proportion_ci(0.95, method="wilson")
    return float(found.low), float(found.high)


def newcombe(
    share: float, limits: tuple[float, float], other: float, other_limits: tuple[float, float]
) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the difference `share` - `other` of two independent sets of images.

    Args:
        share, other: the two shares.
        limits, other_limits: their intervals by `wilson`, of which this one is made (Newcombe, "Interval estimation for
            the difference between independent proportions", Statistics in Medicine 1998, method 10).
    """
    below = np.hypot(share - limits[0], other_limits[1] - other)
    above = np.hypot(limits[1] - share, other - other_limits[0])
    return float(share - other - below), float(share - other + above)


def _row(similarity: np.ndarray, drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Returns the metrics of a set of images, with their intervals: by Wilson for shares, else by the bootstrap."""
    values, images = measure(similarity), len(similarity)
    intervals = {name: interval(one) for name, one in drawn.items()}
    if images > 1:
        intervals |= {name: wilson(one, images) for name, one in values.items() if name.startswith("share")}
    return {"images": images, **values, "intervals": intervals}


def _difference(
    one: Mapping[str, Any], drawn: Mapping[str, np.ndarray], other: Mapping[str, Any], others: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Returns the differences of the metrics of two sets of images, with their intervals."""
    intervals = {name: interval(drawn[name] - others[name]) for name in drawn if name in others}
    limits, other_limits = one["intervals"], other["intervals"]
    for name in METRICS:
        if name.startswith("share") and name in limits and name in other_limits:
            intervals[name] = newcombe(one[name], limits[name], other[name], other_limits[name])
    return {name: one[name] - other[name] for name in METRICS} | {"intervals": intervals}


def _same_images(vectors: Vectors, training: Vectors, found: Nearest) -> int:
    """Returns how many images have the same descriptor as their nearest training image, up to rounding."""
    squares = -similarities(vectors, training, np.arange(len(vectors)), found.row, "l2")
    return int((squares <= EQUAL_HALF**2).sum())


def pairs_path(out: Path) -> Path:
    """Returns the path of the pairs that belong to NAME.json: NAME.pairs.csv."""
    return out.with_suffix(".pairs.csv")


def check_free(out: Path) -> None:
    """Raises ValueError if NAME.json or NAME.pairs.csv exists and is something else than `write` writes."""
    check_file(out, _read)
    check_file(pairs_path(out), _check_pairs)


def _read(path: Path) -> None:
    if json.loads(path.read_text(encoding="utf-8"))["format"] != FORMAT:
        raise ValueError("it is of another format")


def _check_pairs(path: Path) -> None:
    with path.open(encoding="utf-8") as file:
        if file.readline() != f"{','.join(PAIRS)}\n":
            raise ValueError("it has other columns")


def write(out: Path, made: Memorization, sets: Mapping[str, Descriptors], settings: Mapping[str, Any]) -> None:
    """Writes NAME.pairs.csv, with the most similar training image of each generated image, and NAME.json.

    Args:
        out: the path of NAME.json.
        made: what was measured.
        sets: the descriptors by "generated", "training" and, if there are any, "background".
        settings: further entries of the settings in NAME.json, such as the folders of the descriptors.

    Raises:
        ValueError: one of the files exists and is something else.
    """
    check_free(out)
    generated, training, nearest = sets["generated"].ids, sets["training"].ids, made.nearest
    with (
        atomic_file(pairs_path(out)) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        lines = csv.writer(file, lineterminator="\n")
        lines.writerow(PAIRS)
        for i in np.argsort(-nearest.similarity, kind="stable").tolist():
            lines.writerow((generated[i], training[int(nearest.row[i])], f"{nearest.similarity[i]:.6f}"))
    provenance = {name: one.provenance.as_json() for name, one in sets.items()}
    for one in provenance.values():
        one["details"].pop("probe", None)  # numbers that only compare computations
    content = {
        "format": FORMAT,
        "version": VERSION,
        **made.rows,
        "settings": {**settings, "percentiles": PERCENTILES, "thresholds": THRESHOLDS, "seeds": SEEDS},
        "provenance": provenance,
    }
    write_text(out, json.dumps(content, indent=2))
