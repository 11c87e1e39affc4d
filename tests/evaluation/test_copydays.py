"""Copydays evaluation against what the official code gives on the same descriptors, and against plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.datasets import annotations
from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import bootstrap, copydays
from sscd_jax.evaluation.compare import compare
from sscd_jax.provenance import Provenance

GOLDEN = Path(__file__).parents[1] / "golden"
INPUTS = np.load(GOLDEN / "copydays_eval_inputs.npz")
EXPECTED = json.loads((GOLDEN / "copydays_eval_expected.json").read_text())
PROVENANCE = Provenance("a" * 64, "small_288")


def numbered(name: str, letter: str) -> Descriptors:
    vectors = INPUTS[name]
    return Descriptors([f"{letter}{i}" for i in range(len(vectors))], vectors, PROVENANCE)


IMAGES = Descriptors(INPUTS["names"].tolist(), INPUTS["embeddings"], PROVENANCE)
DISTRACTORS, TRAINING = numbered("distractors", "D"), numbered("training", "T")


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: row["codec"])
def test_golden(row):
    assert len(IMAGES.ids) == annotations.COPYDAYS_IMAGES
    (found,) = copydays.evaluate(IMAGES, DISTRACTORS, TRAINING, codecs=[row["codec"]])
    for name in ("strong_mAP", "overall_uAP"):
        assert found[name] == pytest.approx(row[name], abs=1e-6), name
    assert found["block_mAP"]["strong"] == found["strong_mAP"]
    assert list(found["block_mAP"]) == list(COPYDAYS_BLOCKS)


def test_ids_without_endings_in_any_order():
    order = np.random.default_rng(0).permutation(len(IMAGES.ids))
    ids = [IMAGES.ids[i].removesuffix(".jpg") for i in order]
    (found,) = copydays.evaluate(Descriptors(ids, IMAGES.vectors[order], PROVENANCE), DISTRACTORS, None)
    assert found["overall_uAP"] == pytest.approx(EXPECTED[0]["overall_uAP"], abs=1e-6)
    assert found["strong_mAP"] == pytest.approx(EXPECTED[0]["strong_mAP"], abs=1e-6)


def test_a_small_set_by_hand():
    """Two originals and two copies: one is found first, the other behind a distractor and the wrong original."""
    vectors = np.array([[0, 0], [10, 0], [1, 0], [0, 7]], np.float32)
    ids = ["original/200000", "original/200100", "strong/200001", "strong/200101"]
    distractors = Descriptors(["d"], np.array([[0, 9]], np.float32), PROVENANCE)
    (found,) = copydays.evaluate(Descriptors(ids, vectors, PROVENANCE), distractors, None)
    assert found["block_mAP"] == {"original": 1.0, "strong": pytest.approx((1 + (1 / 3 + 0) / 2) / 2)}
    # By distance: 0 0 (right), 1 (right), 4 (wrong), 49 (wrong), 81 (wrong), 81 (wrong), 100 ... : four right of 12.
    (alone,) = copydays.evaluate(Descriptors(ids, vectors, PROVENANCE), None, None)
    assert alone["strong_mAP"] == pytest.approx((1 + (1 / 2 + 0) / 2) / 2)
    assert 0.75 < found["overall_uAP"] < alone["overall_uAP"] < 1


def test_what_cannot_be_measured_says_why():
    def of(*ids: str) -> Descriptors:
        return Descriptors(ids, np.eye(len(ids), 8, dtype=np.float32), PROVENANCE)

    with pytest.raises(ValueError, match="other is not a block of Copydays: they are original, strong, jpegqual/3"):
        copydays.evaluate(of("original/200000", "other/200001"), None, None)
    with pytest.raises(ValueError, match="no images of the block strong"):
        copydays.evaluate(of("original/200000"), None, None)
    with pytest.raises(ValueError, match="strong/200101 has no original"):
        copydays.evaluate(of("original/200000", "strong/200101"), None, None)
    with pytest.raises(ValueError, match=r"PCAW8.*must be fitted"):
        copydays.evaluate(of("original/200000", "strong/200001"), None, None, codecs=["PCAW8,Flat"])
    other = Descriptors(DISTRACTORS.ids, DISTRACTORS.vectors, Provenance("b" * 64, "small_288"))
    with pytest.raises(ValueError, match=r"distractors are of weights b{12}"):
        copydays.evaluate(IMAGES, other, None)


def test_the_bootstrap_is_of_queries_written_out_again():
    """A sample by its weights is the evaluation of predictions in which a query stands as often as it was drawn."""
    few = np.random.default_rng(1).choice(len(IMAGES.ids), 40, replace=False)
    original = [i for i, name in enumerate(IMAGES.ids) if name.startswith("original/")]
    strong = [i for i, name in enumerate(IMAGES.ids) if name.startswith("strong/")][:30]
    some = np.unique([*few, *original, *strong])
    ids = [IMAGES.ids[i] for i in some]
    images = Descriptors(ids, IMAGES.vectors[some], PROVENANCE)
    (found,) = copydays.predict(images, DISTRACTORS, None, k=5)
    predictions = bootstrap.by_id(found.predictions, ids)
    names = sorted(ids)
    by_query = np.random.default_rng(0).random(len(names))
    block = np.array([name.rpartition("/")[0] for name in names])
    is_strong = block == "strong"
    values, blocks = copydays._resampled(predictions, by_query, block, 3)
    for row, times in enumerate(bootstrap.draws(len(names), 3, 0)):
        again = np.concatenate(
            [np.flatnonzero(predictions.query == query) for query in np.repeat(range(len(names)), times)]
        )
        order = np.lexsort((predictions.is_match[again], -predictions.score[again]))
        expected = copydays._average_precision(predictions.is_match[again][order], times @ predictions.positives)
        assert values["overall_uAP"][row] == pytest.approx(expected)
        original = block == "original"
        assert blocks["original"][row] == pytest.approx(np.repeat(by_query[original], times[original]).mean())
        assert values["strong_mAP"][row] == pytest.approx(np.repeat(by_query[is_strong], times[is_strong]).mean())


def test_rows_with_intervals_are_compared():
    (row,) = copydays.evaluate(IMAGES, DISTRACTORS, TRAINING, bootstrap=200)
    for name, (low, high) in row["intervals"].items():
        assert low < row[name] < high
    assert list(row["block_intervals"]) == list(row["block_mAP"])
    assert all(low <= row["block_mAP"][name] <= high for name, (low, high) in row["block_intervals"].items())
    other = Descriptors(
        IMAGES.ids,
        IMAGES.vectors
        + np.float32(0.02) * np.random.default_rng(0).normal(size=IMAGES.vectors.shape).astype(np.float32),
        PROVENANCE,
    )
    worse = copydays.evaluate(other, DISTRACTORS, TRAINING, bootstrap=200)
    compared = compare([row], worse)
    assert [one["metric"] for one in compared] == ["strong_mAP", "overall_uAP"]
    assert {one["verdict"] for one in compare([row], [row])} == {"within noise"}
    assert all(one["difference"] == one["after"] - one["before"] for one in compared)


def test_the_ground_truth_is_of_the_scores():
    (found,) = copydays.predict(IMAGES, DISTRACTORS, None)
    row = {name: i for i, name in enumerate(IMAGES.ids)}
    truth = copydays.ground_truth(IMAGES)
    assert len(truth) == len(found.pair_scores) == found.predictions.positives.sum()
    for (query, original), score in list(zip(truth, found.pair_scores, strict=True))[::97]:
        assert original.startswith("original/")
        assert original.split("/")[-1][:4] == query.split("/")[-1][:4]
        difference = IMAGES.vectors[row[query]] - IMAGES.vectors[row[original]]
        assert score == pytest.approx(-(difference**2).sum(), abs=1e-6)
    searched = copydays.reference_ids(IMAGES, DISTRACTORS)
    right = found.predictions.is_match
    pairs = zip(found.predictions.query[right], found.predictions.reference[right], strict=True)
    assert {(IMAGES.ids[q], searched[r]) for q, r in pairs} <= set(truth)


def test_distractors_that_are_images_of_copydays_are_left_out():
    few = [0, 5, 9]
    vectors = np.concatenate([DISTRACTORS.vectors, IMAGES.vectors[few]])
    more = Descriptors([*DISTRACTORS.ids, *(f"again{i}" for i in few)], vectors, PROVENANCE)
    (row,), (expected,) = (copydays.evaluate(IMAGES, one, None) for one in (more, DISTRACTORS))
    assert (row.pop("left_out"), expected.pop("left_out")) == (3, 0)
    assert row == expected
    assert copydays.reference_ids(IMAGES, more) == copydays.reference_ids(IMAGES, DISTRACTORS)
