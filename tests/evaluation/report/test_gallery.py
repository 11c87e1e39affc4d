import base64
import io

import numpy as np
from PIL import Image

from sscd_jax.datasets.annotations import Edited
from sscd_jax.evaluation.report.gallery import (
    FALSE_ALARM,
    FOUND,
    REJECTED,
    TOO_LOW,
    WRONG_FIRST,
    counts,
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
    assert [(m.reference, m.rank, m.score, m.right) for m in wrong.matches] == [
        ("B", 1, 0.8, False),
        ("A", 2, 0.7, True),
    ]
    assert found[1].cards[0].edits == ("blur",)


def test_the_right_reference_stands_apart_where_it_is_not_among_the_best():
    names = np.array([f"R{i}" for i in range(5)])
    ranked = ranking(np.full(5, "q"), names, np.array([0.9, 0.8, 0.7, 0.6, 0.5]))
    for right, rank in (("R4", 5), ("R9", None)):
        truth = [("q", right)]
        (gallery,) = galleries(ranked, truth, np.array([0.4]), outcomes(ranked, ["q"], truth, 0.5), {}, {}, {})
        *best, last = gallery.cards[0].matches
        assert [m.right for m in best] == [False] * 3
        assert (last.reference, last.rank, last.score, last.right) == (right, rank, 0.4, True)


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
