"""One evaluation, as the commands and the demo make it."""

from types import SimpleNamespace

import numpy as np
import pytest

from sscd_jax.datasets.annotations import Edited
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import copydays, disc
from sscd_jax.evaluation.run import evaluate_copydays, evaluate_disc, facts_of, sources_of
from sscd_jax.provenance import Provenance

TRUTH = [(f"q{i}", f"r{i}") for i in range(20)]


def drawn(letter: str, count: int, seed: int, **details: str) -> Descriptors:
    vectors = np.random.default_rng(seed).normal(size=(count, 8)).astype(np.float32)
    return Descriptors([f"{letter}{i}" for i in range(count)], vectors, Provenance("w" * 64, "small_288", details))


@pytest.fixture(scope="module")
def sets() -> SimpleNamespace:
    references, training = drawn("r", 50, 0, source="/images/references"), drawn("t", 60, 1)
    queries = drawn("q", 30, 2, source="/images/queries")
    queries.vectors[:20] = references.vectors[:20] + 0.5 * queries.vectors[:20]
    return SimpleNamespace(queries=queries, references=references, training=training)


def test_rows_are_those_of_disc_evaluate_with_what_a_report_shows(sets):
    edits = {query: Edited(("crop",)) for query, _ in TRUTH}
    given = [sets.queries, sets.references, sets.training]
    norms = [None, "1.0[0,2]"]
    made = evaluate_disc(*given, [*TRUTH, TRUTH[0]], codecs=["Flat"], score_norms=norms, edits=edits, bootstrap=20)
    expected = disc.evaluate(*given, TRUTH, codecs=["Flat"], score_norms=norms, bootstrap=20)
    for row, one in zip(made.rows, expected, strict=True):
        assert {name: row[name] for name in one} == one
        assert [at["precision"] for at in row["at_precision"]] == [0.9]
        assert row["by_edit"][0]["copies"] == 20
    assert made.ground_truth == TRUTH, "each pair once"
    assert made.facts == {
        "Queries": "30 images",
        "References": "50 images",
        "Training": "60 images",
        "Weights": "w" * 64,
        "Preset": "small_288",
    }
    assert made.sources == [("queries", "/images/queries"), ("references", "/images/references")]


def test_edits_bootstrap_and_training_can_be_absent(sets):
    made = evaluate_disc(
        sets.queries,
        sets.references,
        None,
        TRUTH,
        codecs=["Flat"],
        score_norms=[None],
        bootstrap=0,
        facts={},
        sources=[],
    )
    (row,) = made.rows
    assert not {"by_edit", "intervals", "at_calibration"} & set(row)
    assert (made.edits, made.facts, made.sources) == ({}, {}, [])


def test_the_same_image_is_said(sets):
    given = [sets.references, sets.references, None, [("r0", "r1")]]
    made = evaluate_disc(*given, codecs=["Flat"], score_norms=[None], bootstrap=0)
    assert [row["left_out"] for row in made.rows] == [50]
    assert made.facts["Left out"] == "50 pairs of a query and a reference that are the same image"


def test_copydays():
    ids = [f"{block}/2{i:03d}00" for block in ("original", "strong") for i in range(10)]
    vectors = drawn("", 20, 0).vectors
    vectors[10:] = vectors[:10] + 0.3 * vectors[10:]
    images = Descriptors(ids, vectors, Provenance("w", "p", {"source": "/copydays"}))
    distractors = Descriptors(["d"], vectors[:1] + 1, Provenance("w", "p"))
    made = evaluate_copydays(images, distractors, None, codecs=["Flat"], k=5, bootstrap=20)
    (expected,) = copydays.evaluate(images, distractors, None, k=5, bootstrap=20)
    assert made.rows == [expected]
    assert made.reference_ids == [*ids[:10], "d"]
    assert made.ground_truth == copydays.ground_truth(images)
    assert made.sources == [("queries", "/copydays"), ("references", "/copydays")]


def test_facts_and_sources_are_of_what_is_given(sets):
    assert facts_of({"queries": sets.queries, "training": None}, More="x") == {
        "Queries": "30 images",
        "Weights": "w" * 64,
        "Preset": "small_288",
        "More": "x",
    }
    assert sources_of(queries=sets.queries, references=None, training=sets.training) == [("queries", "/images/queries")]
