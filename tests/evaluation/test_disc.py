"""DISC evaluation against what the official code gives on the same descriptors."""

import json
from pathlib import Path

import numpy as np
import pytest

from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import disc
from sscd_jax.provenance import Provenance

GOLDEN = Path(__file__).parents[1] / "golden"
INPUTS = np.load(GOLDEN / "disc_eval_inputs.npz")
EXPECTED = json.loads((GOLDEN / "disc_eval_expected.json").read_text())
TRUTH = [(f"Q{q:05d}", f"R{r:06d}") for q, r in INPUTS["ground_truth"]]


def descriptors(name: str, form: str, weights: str = "a" * 64, preset: str = "skew_320") -> Descriptors:
    vectors = INPUTS[name]
    return Descriptors([form % i for i in range(len(vectors))], vectors, Provenance(weights, preset))


QUERIES, REFERENCES = descriptors("queries", "Q%05d"), descriptors("references", "R%06d")
TRAINING = descriptors("training", "T%06d")


@pytest.mark.parametrize("row", EXPECTED, ids=lambda r: f"{r['codec']} {r['score_norm']} {r['candidates']}")
def test_golden(row):
    (result,) = disc.evaluate(
        QUERIES,
        REFERENCES,
        TRAINING,
        TRUTH,
        codecs=[row["codec"]],
        score_norms=[None if row["score_norm"] == "None" else row["score_norm"]],
        k=row["k"],
        candidates=row["candidates"],
    )
    for ours, official in {
        "uAP": "uAP",
        "accuracy_at_1": "accuracy-at-1",
        "recall_at_p90": "recall-at-p90",
    }.items():
        assert result[ours] == pytest.approx(row[official], abs=1e-6), ours


def test_a_row_for_each_combination_in_the_official_order():
    rows = disc.evaluate(QUERIES, REFERENCES, TRAINING, TRUTH, score_norms=[None, "1.0[0,2]"])
    assert [(row["score_norm"], row["codec"]) for row in rows] == [
        (norm, codec) for norm in (None, "1.0[0,2]") for codec in ("Flat", "PCAW32,L2norm,Flat")
    ]


def test_different_weights_or_presets_are_refused_with_both_names():
    other = descriptors("references", "R%06d", weights="b" * 64)
    with pytest.raises(ValueError, match=r"weights a{12} with preset skew_320.*weights b{12}"):
        disc.evaluate(QUERIES, other, TRAINING, TRUTH)
    other = descriptors("references", "R%06d", preset="small_288")
    with pytest.raises(ValueError, match=r"preset skew_320.*preset small_288"):
        disc.evaluate(QUERIES, other, TRAINING, TRUTH)


def test_what_needs_training_descriptors_says_so():
    assert [row["codec"] for row in disc.evaluate(QUERIES, REFERENCES, None, TRUTH)] == ["Flat"]
    with pytest.raises(ValueError, match=r"1\.0\[0,2\] needs training"):
        disc.evaluate(QUERIES, REFERENCES, None, TRUTH, score_norms=["1.0[0,2]"])
    with pytest.raises(ValueError, match=r"PCAW16.*training"):
        disc.evaluate(QUERIES, REFERENCES, None, TRUTH, codecs=["PCAW16,L2norm,Flat"])
    few = Descriptors(TRAINING.ids[:8], TRAINING.vectors[:8], TRAINING.provenance)
    with pytest.raises(ValueError, match=r"PCAW32.*give more"):
        disc.evaluate(QUERIES, REFERENCES, few, TRUTH, codecs=["PCAW32,L2norm,Flat"])
    with pytest.raises(ValueError, match="must end in Flat"):
        disc.evaluate(QUERIES, REFERENCES, TRAINING, TRUTH, codecs=["PQ16"])
    with pytest.raises(ValueError, match=r"as 1\.0\[0,2\]"):
        disc.evaluate(QUERIES, REFERENCES, TRAINING, TRUTH, score_norms=["1.0"])


def test_other_dimensions_are_refused():
    short = Descriptors(REFERENCES.ids, REFERENCES.vectors[:, :16], REFERENCES.provenance)
    with pytest.raises(ValueError, match="descriptors are of 16 and 32 dimensions"):
        disc.evaluate(QUERIES, short, None, TRUTH)


def test_ids_without_descriptors_are_named():
    with pytest.raises(ValueError, match=r"1 ids .* Q99999"):
        disc.evaluate(QUERIES, REFERENCES, None, [*TRUTH, ("Q99999", "R000000")])


def small(letter: str, vectors: np.ndarray) -> Descriptors:
    ids = [f"{letter}{i}" for i in range(len(vectors))]
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Descriptors(ids, unit, Provenance("a" * 64, "skew_320"))


@pytest.mark.parametrize("letter", ["r", "q"])  # ids of queries that are those of references, or others
@pytest.mark.parametrize("candidates", ["per_query", "global"])
def test_an_image_does_not_find_itself_unless_the_ground_truth_says_so(letter, candidates):
    """Queries that are references: each has a copy, which is the second best after the image itself."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(20, 16))
    copies = images[:10] + 0.3 * rng.normal(size=(10, 16))
    references = small("r", np.concatenate([images, copies]))
    queries = small(letter, images)
    truth = [(f"{letter}{i}", f"r{20 + i}") for i in range(10)]
    for norms in ([None], ["1.0[0,2]"]):
        (row,) = disc.evaluate(
            queries, references, TRAINING_16, truth, codecs=["Flat"], score_norms=norms, candidates=candidates, k=3
        )
        assert (row["left_out"], row["accuracy_at_1"], row["recall_at_p90"]) == (20, 1.0, 1.0)
    itself = [(f"{letter}{i}", f"r{i}") for i in range(20)]
    (row,) = disc.evaluate(queries, references, None, itself, codecs=["Flat"], candidates=candidates)
    assert (row["left_out"], row["accuracy_at_1"]) == (0, 1.0)


TRAINING_16 = small("t", np.random.default_rng(1).normal(size=(40, 16)))


def test_equal_ids_of_different_images_still_count():
    """Two folders that number their images alike: the reference of a query's id is its hard negative."""
    rng = np.random.default_rng(0)
    images = rng.normal(size=(10, 16))
    references = small("photo", images)
    queries = small("photo", np.roll(images, 1, axis=0) + 0.1 * images)  # photo1 copies photo0, and resembles photo1
    truth = [(f"photo{i}", f"photo{(i - 1) % 10}") for i in range(10)]
    (row,) = disc.evaluate(queries, references, None, truth, codecs=["Flat"])
    assert (row["left_out"], row["accuracy_at_1"]) == (0, 1.0)
    found = disc.predict(queries, references, None, truth, codecs=["Flat"])[0].predictions
    assert len(found.query) == 100, "every pair is a candidate"
    wrong = [(f"photo{i}", f"photo{(i + 3) % 10}") for i in range(10)]
    (row,) = disc.evaluate(queries, references, None, wrong, codecs=["Flat"])
    assert row["accuracy_at_1"] == 0.0, "what the ground truth does not name is a false positive"


def test_a_collapsed_network_gains_nothing():
    same = np.ones((30, 16))
    truth = [(f"q{i}", f"r{i}") for i in range(10)]
    (row,) = disc.evaluate(small("q", same[:10]), small("r", same), None, truth, codecs=["Flat"])
    assert row["left_out"] == 0
    assert row["uAP"] < 0.2
