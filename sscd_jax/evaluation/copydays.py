"""Evaluation as on Copydays with distractors (official copydays_eval.py): descriptors in, numbers out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.search import knn, project

# Pictures of each: 157, in strong 229.
BLOCKS = (
    "original",
    "strong",
    *(f"jpegqual/{quality}" for quality in (3, 5, 8, 10, 15, 20, 30, 50, 75)),
    *(f"crops/{percent}" for percent in (10, 15, 20, 30, 40, 50, 60, 70, 80)),
)
PICTURES = 157 * 19 + 229
_PREFIX = 4  # of a name says which original it is made of: 2014 of 201402


def evaluate(
    copydays: Descriptors,
    distractors: Descriptors | None,
    training: Descriptors | None,
    *,
    codecs: Sequence[str] = ("Flat",),
    k: int = 100,
) -> list[dict[str, Any]]:
    """A row of metrics for each codec. All pictures are queries, originals and distractors are searched, by L2.

    Args:
        copydays: ids are `block/file`, as strong/200001.jpg or strong/200001; see `BLOCKS`.
        distractors: what is searched besides the originals; None for nothing.
        training: what codecs are fitted on; None where they need no fitting.
        codecs: faiss factory strings that end in Flat.
        k: neighbours of a query that count.

    Returns:
        Rows with codec, strong_mAP, overall_uAP (over all queries of all blocks), and block_mAP, that of each block.

    Raises:
        ValueError: descriptors differ in provenance, an id is of no block of Copydays or of no original, a block is
            missing, or training descriptors are missing or too few.
    """
    if k < 1:
        raise ValueError(f"k is {k}; a query needs at least one neighbour")
    others = {name: one for name, one in (("distractors", distractors), ("training", training)) if one is not None}
    check_same_provenance(copydays=copydays, **others)
    block, made_of = _blocks(copydays.ids)
    is_original = block == "original"
    originals = made_of[is_original]
    positives = np.array([np.count_nonzero(originals == one) for one in made_of])
    if not positives.all():
        raise ValueError(
            f"{copydays.ids[int(np.argmin(positives))]} has no original: pictures of {BLOCKS[0]} are missing"
        )
    rows = []
    for codec in codecs:
        searched = [copydays.vectors, *([] if distractors is None else [distractors.vectors])]
        encoded = project(codec, None if training is None else training.vectors, *searched)[-len(searched) :]
        queries, background = encoded[0], encoded[1:]
        scores, found = knn(queries, np.concatenate([queries[is_original], *background]), k, "l2")
        # Beyond the originals are distractors, which match nothing.
        names = np.concatenate([originals, np.full(sum(map(len, background)), "")])
        is_match = names[found] == made_of[:, None]
        by_query = np.array([_average_precision(*one) for one in zip(is_match, positives, strict=True)])
        ranking = np.lexsort((is_match.ravel(), -scores.ravel()))
        rows.append(
            {
                "codec": codec,
                "strong_mAP": float(by_query[block == "strong"].mean()),
                "overall_uAP": _average_precision(is_match.ravel()[ranking], len(queries)),
                "block_mAP": {name: float(by_query[block == name].mean()) for name in BLOCKS if name in block},
            }
        )
    return rows


def _blocks(ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """The block of each picture, and by what its original is known."""
    block, _, name = np.char.rpartition(np.asarray(ids), "/").T
    if unknown := sorted({*block.tolist()} - {*BLOCKS}):
        raise ValueError(f"{unknown[0] or ids[0]} is no block of Copydays: they are {', '.join(BLOCKS)}")
    for name_of in ("original", "strong"):
        if name_of not in block:
            raise ValueError(f"there are no pictures of the block {name_of}: ids should be as {name_of}/200001")
    return block, np.array([one[:_PREFIX] for one in name.tolist()])


def _average_precision(is_match: np.ndarray, positives: int) -> float:
    """The area under precision over recall by trapezoids: bool [N] in the order of a ranking -> share.

    Official datasets/copydays.py score_ap_from_ranks_1.
    """
    ranks = np.flatnonzero(is_match)
    found = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, found / np.maximum(ranks, 1))
    return float(((found + 1) / (ranks + 1) + before).sum() / (2 * positives))
