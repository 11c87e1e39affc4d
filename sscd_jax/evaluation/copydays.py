"""Evaluates descriptors as on Copydays with distractors, as the official copydays_eval.py does."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS
from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.evaluation.bootstrap import as_row, by_id, interval, samples_of
from sscd_jax.evaluation.metrics import Found, Predictions
from sscd_jax.search.faiss_backend import project
from sscd_jax.search.knn import is_unit, knn, similarities
from sscd_jax.search.same_images import without

_PREFIX = 4  # the first characters of a name, which it shares with its original: 2014 of 201402

METRICS = ("strong_mAP", "overall_uAP")


def evaluate(
    copydays: Descriptors,
    distractors: Descriptors | None,
    training: Descriptors | None,
    *,
    codecs: Sequence[str] = ("Flat",),
    k: int = 100,
    bootstrap: int = 0,
) -> list[dict[str, Any]]:
    """Measures each codec. All images are queries; originals and distractors are searched, by L2 distance.

    Args:
        copydays: descriptors whose ids are `block/file`, such as strong/200001; see `COPYDAYS_BLOCKS`.
        distractors: descriptors of images that are searched besides the originals, or None. Those that are the same
            image as one of Copydays (see `search.same_images`) are left out.
        training: descriptors on which codecs are fitted; None if no codec needs them.
        codecs: faiss factory strings that end in Flat.
        k: the number of neighbors per query that count.
        bootstrap: the number of sets of queries drawn for the confidence intervals; 0 for none.

    Returns:
        A row for each codec, with codec, strong_mAP, overall_uAP (over all queries of all blocks), block_mAP (by
        block), k, unit (see `Found`) and left_out (the number of distractors that are left out); if `bootstrap` is not
        0 also intervals and bootstrap, as in `disc.evaluate`, and block_intervals.

    Raises:
        ValueError: descriptors differ in provenance, an id belongs to no block of Copydays or to no original, a block
            is missing, or training descriptors are missing or too few.
    """
    if bootstrap < 0:
        raise ValueError(f"the bootstrap is of {bootstrap} samples; it must be 0 for none, or more")
    found = predict(copydays, distractors, training, codecs=codecs, k=k)
    return [measure(one, copydays.ids, bootstrap=bootstrap) for one in found]


def predict(
    copydays: Descriptors,
    distractors: Descriptors | None,
    training: Descriptors | None,
    *,
    codecs: Sequence[str] = ("Flat",),
    k: int = 100,
) -> list[Found]:
    """Searches by each codec; `reference_ids` gives the ids of the references, `measure` the metrics."""
    if k < 1:
        raise ValueError(f"k is {k}; a query needs at least one neighbor")
    others = {name: one for name, one in (("distractors", distractors), ("training", training)) if one is not None}
    check_same_provenance(copydays=copydays, **others)
    given = 0 if distractors is None else len(distractors.ids)
    distractors = None if distractors is None else without(distractors, copydays)
    left_out = given - (0 if distractors is None else len(distractors.ids))
    block, made_of = _blocks(copydays.ids)
    is_original = block == "original"
    originals = made_of[is_original]
    pairs = np.argwhere(made_of[:, None] == originals)
    positives = np.bincount(pairs[:, 0], minlength=len(made_of))
    if not positives.all():
        raise ValueError(
            f"{copydays.ids[int(np.argmin(positives))]} has no original: images of {COPYDAYS_BLOCKS[0]} are missing"
        )
    found = []
    for codec in codecs:
        searched = [copydays.vectors, *([] if distractors is None else [distractors.vectors])]
        encoded = project(codec, None if training is None else training.vectors, *searched)[-len(searched) :]
        queries, background = encoded[0], encoded[1:]
        references = np.concatenate([queries[is_original], *background])
        scores, indexes = knn(queries, references, k, "l2")
        # After the originals come the distractors, which match nothing.
        names = np.concatenate([originals, np.full(sum(map(len, background)), "")])
        is_match = names[indexes] == made_of[:, None]
        query = np.repeat(np.arange(len(queries)), indexes.shape[1])
        predictions = Predictions(query, indexes.ravel(), scores.ravel(), is_match.ravel(), positives)
        pair_scores = similarities(queries, references, pairs[:, 0], pairs[:, 1], "l2")
        unit = is_unit(queries) and is_unit(references)
        settings = {"codec": codec, "k": k, "unit": unit, "left_out": left_out}
        found.append(Found(settings, predictions, pair_scores))
    return found


def reference_ids(copydays: Descriptors, distractors: Descriptors | None) -> list[str]:
    """Returns the ids of the images that are searched, in the order of the references of `predict`."""
    originals = [one for one in copydays.ids if one.rpartition("/")[0] == COPYDAYS_BLOCKS[0]]
    return [*originals, *([] if distractors is None else without(distractors, copydays).ids)]


def ground_truth(copydays: Descriptors) -> list[tuple[str, str]]:
    """Returns pairs (query id, id of its original), in the order of `Found.pair_scores`."""
    block, made_of = _blocks(copydays.ids)
    originals = np.flatnonzero(block == COPYDAYS_BLOCKS[0])
    pairs = np.argwhere(made_of[:, None] == made_of[originals])
    return [(copydays.ids[query], copydays.ids[originals[one]]) for query, one in pairs.tolist()]


def measure(found: Found, ids: Sequence[str], *, bootstrap: int = 0) -> dict[str, Any]:
    """Returns a row of `evaluate` from a search by `predict`."""
    predictions = found.predictions
    block, _ = _blocks(ids)
    k = len(predictions.query) // len(ids)
    by_query = np.array(
        [
            _average_precision(*one)
            for one in zip(predictions.is_match.reshape(-1, k), predictions.positives, strict=True)
        ]
    )
    ranking = np.lexsort((predictions.is_match, -predictions.score))
    row: dict[str, Any] = {
        "codec": found.settings["codec"],
        "strong_mAP": float(by_query[block == "strong"].mean()),
        "overall_uAP": _average_precision(predictions.is_match[ranking], int(predictions.positives.sum())),
        "block_mAP": {name: float(by_query[block == name].mean()) for name in COPYDAYS_BLOCKS if name in block},
        "k": found.settings["k"],
        "unit": found.settings["unit"],
        "left_out": found.settings["left_out"],
    }
    if bootstrap:
        order = np.argsort(np.asarray(ids))  # so that two evaluations draw the same queries
        values, blocks = _resampled(by_id(predictions, ids), by_query[order], block[order], bootstrap)
        row |= as_row(values, ids, [], of=int(np.count_nonzero(block == "strong")))
        row["block_intervals"] = {
            name: interval(blocks[name], of=int(np.count_nonzero(block == name))) for name in row["block_mAP"]
        }
    return row


def _resampled(
    predictions: Predictions, by_query: np.ndarray, block: np.ndarray, samples: int
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Measures sets of queries drawn with replacement.

    Returns:
        float64 [samples] for each of METRICS, and likewise the mAP of each block; NaN if a set has no image of a block.
    """
    values = {name: np.full(samples, np.nan) for name in METRICS}
    names, number = np.unique(block, return_inverse=True)
    blocks = np.full((samples, len(names)), np.nan)
    for row, sample in enumerate(samples_of(predictions, samples)):
        drawn = np.bincount(number, sample.times)
        there = drawn > 0
        blocks[row, there] = np.bincount(number, sample.times * by_query)[there] / drawn[there]
        # The area by trapezoids uses the mean of the precisions before and after each correct prediction.
        lost = sample.incorrect_inverse_ranks() + sample.incorrect_inverse_ranks(shift=1)
        values["overall_uAP"][row] = (sample.copies - lost / 2).sum() / (sample.times @ predictions.positives)
    by_block = dict(zip(names.tolist(), blocks.T, strict=True))
    values["strong_mAP"] = by_block["strong"]
    return values, by_block


def _blocks(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the block of each image, and the prefix of its name that identifies its original."""
    block, _, name = np.char.rpartition(np.asarray(ids), "/").T
    if unknown := sorted({*block.tolist()} - {*COPYDAYS_BLOCKS}):
        raise ValueError(f"{unknown[0] or ids[0]} is not a block of Copydays: they are {', '.join(COPYDAYS_BLOCKS)}")
    for name_of in ("original", "strong"):
        if name_of not in block:
            raise ValueError(f"there are no images of the block {name_of}: ids must look like {name_of}/200001")
    return block, np.array([one[:_PREFIX] for one in name.tolist()])


def _average_precision(is_match: np.ndarray, positives: int) -> float:
    """Returns the area under the precision-recall curve by trapezoids (official score_ap_from_ranks_1).

    Args:
        is_match: bool [N], best score first.
        positives: the number of ground-truth pairs, found or not.
    """
    ranks = np.flatnonzero(is_match)
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    return float(((found + 1) / (ranks + 1) + before).sum() / (2 * positives))
