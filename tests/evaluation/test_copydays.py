"""Copydays evaluation against what the official code gives on the same descriptors, and against plain loops."""

import json
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.descriptors import Descriptors, Provenance
from sscd_jax.evaluation import copydays

GOLDEN = Path(__file__).parents[1] / "golden"
INPUTS = np.load(GOLDEN / "copydays_eval_inputs.npz")
EXPECTED = json.loads((GOLDEN / "copydays_eval_expected.json").read_text())
PROVENANCE = Provenance("a" * 64, "small_288")


def numbered(name: str, letter: str) -> Descriptors:
    vectors = INPUTS[name]
    return Descriptors([f"{letter}{i}" for i in range(len(vectors))], vectors, PROVENANCE)


PICTURES = Descriptors(INPUTS["names"].tolist(), INPUTS["embeddings"], PROVENANCE)
DISTRACTORS, TRAINING = numbered("distractors", "D"), numbered("training", "T")


@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: row["codec"])
def test_golden(row):
    assert len(PICTURES.ids) == copydays.PICTURES
    (found,) = copydays.evaluate(PICTURES, DISTRACTORS, TRAINING, codecs=[row["codec"]])
    for name in ("strong_mAP", "overall_uAP"):
        assert found[name] == pytest.approx(row[name], abs=1e-6), name
    assert found["block_mAP"]["strong"] == found["strong_mAP"]
    assert list(found["block_mAP"]) == list(copydays.BLOCKS)


def test_ids_without_endings_in_any_order():
    order = np.random.default_rng(0).permutation(len(PICTURES.ids))
    ids = [PICTURES.ids[i].removesuffix(".jpg") for i in order]
    (found,) = copydays.evaluate(Descriptors(ids, PICTURES.vectors[order], PROVENANCE), DISTRACTORS, None)
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

    with pytest.raises(ValueError, match="other is no block of Copydays: they are original, strong, jpegqual/3"):
        copydays.evaluate(of("original/200000", "other/200001"), None, None)
    with pytest.raises(ValueError, match="no pictures of the block strong"):
        copydays.evaluate(of("original/200000"), None, None)
    with pytest.raises(ValueError, match="strong/200101 has no original"):
        copydays.evaluate(of("original/200000", "strong/200101"), None, None)
    with pytest.raises(ValueError, match=r"PCAW8.*must be fitted"):
        copydays.evaluate(of("original/200000", "strong/200001"), None, None, codecs=["PCAW8,Flat"])
    other = Descriptors(DISTRACTORS.ids, DISTRACTORS.vectors, Provenance("b" * 64, "small_288"))
    with pytest.raises(ValueError, match=r"distractors are of weights b{12}"):
        copydays.evaluate(PICTURES, other, None)
