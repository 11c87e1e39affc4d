import base64
import io

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
from sscd_jax.datasets.annotations import Edited
from sscd_jax.evaluation.report.gallery import (
    FALSE_ALARM,
    FOUND,
    REJECTED,
    TOO_LOW,
    WRONG_FIRST,
    answer_threshold,
    counts,
    examples,
    galleries,
    outcomes,
    ranking,
    thumbnail,
)

# Two references, and one query for each thing that can come of it, at a threshold of 0.6.
TRUTH = [("found", "A"), ("low", "B"), ("wrong", "A"), ("unanswered", "B")]
PREDICTIONS = [
    ("found", "B", 0.1),
    ("found", "A", 0.9),
    ("low", "B", 0.5),
    ("wrong", "B", 0.8),
    ("wrong", "A", 0.7),
    ("alarm", "A", 0.6),
    ("rejected", "A", 0.59),
]
QUERIES = ["found", "low", "wrong", "unanswered", "alarm", "rejected", "silent"]
RANKED = ranking(*(np.array(column) for column in zip(*PREDICTIONS, strict=True)))


def test_ranking_is_best_first():
    assert RANKED["wrong"] == [("B", 0.8), ("A", 0.7)]
    assert RANKED["found"][0] == ("A", 0.9)


def test_what_came_of_each_query():
    expected = {
        "found": FOUND,
        "low": TOO_LOW,
        "wrong": WRONG_FIRST,
        "unanswered": WRONG_FIRST,
        "alarm": FALSE_ALARM,
        "rejected": REJECTED,
        "silent": REJECTED,
    }
    assert outcomes(RANKED, QUERIES, TRUTH, 0.6) == expected
    nothing = {**expected, "found": TOO_LOW, "alarm": REJECTED}
    assert outcomes(RANKED, QUERIES, TRUTH, None) == nothing
    assert counts(expected) == [
        ("are copies", [(FOUND, 1, True), (TOO_LOW, 1, False), (WRONG_FIRST, 2, False)]),
        ("copy nothing", [(REJECTED, 2, True), (FALSE_ALARM, 1, False)]),
    ]


def test_galleries_hold_each_query_with_its_matches():
    similarity = np.array([0.9, 0.5, 0.7, 0.2])
    outcome = outcomes(RANKED, QUERIES, TRUTH, 0.6)
    found = galleries(RANKED, TRUTH, similarity, outcome, {}, {}, {"low": Edited(("blur",))})
    shown = [[card.query for card in gallery.cards] for gallery in found]
    assert shown == [["found"], ["low"], ["wrong"], ["alarm", "rejected"]]
    (wrong,) = found[2].cards
    assert [(m.reference, m.rank, m.score, m.verdict) for m in wrong.matches] == [
        ("B", 1, 0.8, "incorrect"),
        ("A", 2, 0.7, "correct"),
    ]
    assert found[1].cards[0].edits == ("blur",)
    (first,) = found[0].cards
    assert [m.verdict for m in first.matches] == ["correct", ""], "what comes after the correct one is no mistake"
    assert [[m.verdict for m in card.matches] for card in found[3].cards] == [["incorrect"], [""]]


def test_the_threshold_of_answers_is_that_of_best_matches():
    """Matches of lower ranks are no answers: here they would allow 10 of the 26 copies that are found first."""
    count, good = 30, 26
    scores = np.linspace(0.9, 0.272, good)
    matches = [
        (f"q{i:02d}", "right" if i < good else "other", s) for i, s in enumerate([*scores, 0.2, 0.19, 0.18, 0.17])
    ]
    matches += [(f"q{i:02d}", f"no{j}", s - 0.01 - j / 1000) for i, s in enumerate(scores[9:], 9) for j in range(3)]
    ranked = ranking(*(np.array(column) for column in zip(*matches, strict=True)))
    truth = [(f"q{i:02d}", "right") for i in range(count)]
    threshold = answer_threshold(ranked, truth, 0.9)
    assert threshold == scores[-1]
    found = outcomes(ranked, [query for query, _ in truth], truth, threshold)
    assert list(found.values()).count(FOUND) == good
    assert answer_threshold(ranked, [("q29", "right")], 0.9) is None


@pytest.mark.parametrize("precision", [0.5, 0.8, 0.9, 1.0])
def test_no_other_threshold_of_the_precision_finds_more_copies(precision):
    rng = np.random.default_rng(int(10 * precision))
    for _ in range(30):
        count = 12
        scores, right = rng.integers(0, 8, count) / 8, rng.random(count) < 0.7
        ranked = ranking(np.array([f"q{i}" for i in range(count)]), np.where(right, "a", "b"), scores)
        reached = [s for s in scores if right[scores >= s].mean() >= precision]
        found = {s: right[scores >= s].sum() for s in reached}
        expected = max(s for s in reached if found[s] == max(found.values())) if reached else None
        assert answer_threshold(ranked, [(f"q{i}", "a") for i in range(count)], precision) == expected


def test_four_examples_with_their_best_match():
    outcome = outcomes(RANKED, QUERIES, TRUTH, 0.6)
    cards = examples(RANKED, TRUTH, outcome, {}, {}, {})
    assert [card.query for card in cards] == ["found", "wrong", "alarm", "low"], "best score first"
    assert [[m.verdict for m in card.matches] for card in cards] == [
        ["correct"],
        ["incorrect"],
        ["incorrect"],
        ["correct"],
    ]
    queries = np.array([f"q{i}" for i in range(9)])
    ranked = ranking(queries, np.full(9, "A"), np.linspace(0.1, 0.9, 9))
    truth = [(query, "A") for query in queries.tolist()]
    outcome = outcomes(ranked, queries.tolist(), truth, 0.5)
    shown = examples(ranked, truth, outcome, {}, {}, {})
    assert [card.query for card in shown] == ["q8", "q7", "q6", "q3"], "the best, the median, one missed, and one more"


def test_the_right_reference_stands_apart_where_it_is_not_among_the_best():
    names = np.array([f"R{i}" for i in range(5)])
    ranked = ranking(np.full(5, "q"), names, np.array([0.9, 0.8, 0.7, 0.6, 0.5]))
    for right, rank in (("R4", 5), ("R9", None)):
        truth = [("q", right)]
        (gallery,) = galleries(ranked, truth, np.array([0.4]), outcomes(ranked, ["q"], truth, 0.5), {}, {}, {})
        *best, last = gallery.cards[0].matches
        assert [m.verdict for m in best] == ["incorrect"] * 3
        assert (last.reference, last.rank, last.score, last.verdict) == (right, rank, 0.4, "correct")


def test_a_large_gallery_shows_some_and_counts_all():
    queries = np.array([f"q{i:02d}" for i in range(30)])
    ranked = ranking(queries, np.full(30, "A"), np.linspace(0.7, 0.99, 30))
    truth = [(str(query), "A") for query in queries]
    outcome = outcomes(ranked, queries.tolist(), truth, 0.6)
    (gallery,) = galleries(ranked, truth, np.linspace(0.7, 0.99, 30), outcome, {}, {}, {})
    scores = [card.matches[0].score for card in gallery.cards]
    assert gallery.total == 30
    assert len(scores) == 8
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (0.99, 0.7)  # from the surest to the least sure


def test_thumbnail(images, tmp_path):
    path = next(iter(sorted(images.iterdir())))
    data = thumbnail(path.read_bytes)
    small = Image.open(io.BytesIO(base64.b64decode(data.removeprefix("data:image/jpeg;base64,"))))
    whole = Image.open(path)
    assert max(small.size) == 144
    assert abs(small.width / small.height - whole.width / whole.height) < 0.02
    again = np.asarray(small.resize((12, 10), Image.Resampling.BOX)).astype(float)
    expected = np.asarray(whole.resize((12, 10), Image.Resampling.BOX)).astype(float)
    assert np.abs(again - expected).mean() < 4

    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    assert thumbnail(broken.read_bytes) == thumbnail((tmp_path / "absent.jpg").read_bytes) == thumbnail(None) == ""
