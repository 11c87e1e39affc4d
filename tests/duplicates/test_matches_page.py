"""The pages of matches: rows in, HTML out."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.html_page import Page
from PIL import Image

from sscd_jax.duplicates.matches_page import About, Match, Row, write_matches
from sscd_jax.duplicates.options import Kind

ABOUT = About(
    title="Found",
    intro="What is like the queries.",
    totals=[("3", "queries"), ("9", "images")],
    query="query",
    copy="copy",
    row="Query",
    rows="Queries",
    files="All are in matches.csv.",
    threshold=0.2,
    background=True,
    unreadable=1,
    weights="<w>",
    preset="small_288",
    scores=(np.array([0.1, 0.3]), "the best matches"),
)


def load(key: str) -> bytes:
    if "gone" in key:
        raise OSError("gone")
    buffer = io.BytesIO()
    Image.new("RGB", (30, 20), (200, 30, 30)).save(buffer, "JPEG")
    return buffer.getvalue()


def match(one: str, score: float | None = 0.5, kind: Kind = "near", *, is_copy: bool = True) -> Match:
    return Match(one, f"1 {one}", 0.75, score, kind, is_copy)


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_what_a_row_shows(tmp_path):
    rows = [
        Row(1, "q", "0 q", [match("same", None, "bytes"), match("near"), match("no", 0.1, is_copy=False)], 2),
        Row(2, "alone", "0 gone", []),
        Row(3, "<b>bold</b>", "0 b", [match("\x1b[31mred", 0.3, "pixels")]),
    ]
    (path,) = write_matches(tmp_path, "matches", rows, 3, ABOUT, load)
    page = read(path)
    assert page.texts("h1") == ["Found"]
    assert page.texts("h3") == ["Query 1", "Query 2", "Query 3"]
    cards = page.texts("li")
    assert cards[1].split() == ["copy", "same", "same", "bytes", "similarity", "0.750"]
    assert cards[2].split() == ["copy", "near", "score", "0.500", "similarity", "0.750"]
    assert cards[3].split()[0] == "other"
    assert cards[4].split() == ["cannot", "be", "read", "query", "alone"]
    assert "same pixels, score 0.300" in cards[6]
    assert page.texts("small")[0] == "5 matches"
    assert "2 more matches are not shown here." in page.texts("article")[0]
    text = path.read_text()
    assert "<b>bold" not in text
    assert "\x1b" not in text
    assert "<script" not in text
    assert "the weights <w>" in " ".join(page.texts("main"))
    assert "Red bars are below the threshold." in page.texts("figcaption")[0]


def test_pages_of_both_names_and_those_of_an_earlier_run(tmp_path):
    for name in ("matches", "overlap"):
        rows = (Row(n, f"q{n}", "0 q", [match("m")]) for n in range(1, 91))
        paths = write_matches(tmp_path, name, rows, 90, ABOUT, load)
        assert [path.name for path in paths] == [f"{name}.html", f"{name}-2.html", f"{name}-3.html"]
        assert [read(path).texts("h2")[-1] for path in paths] == [
            f"Queries {n} of 90" for n in ("1 to 40", "41 to 80", "81 to 90")
        ]
        assert f'href="{name}-2.html"' in paths[0].read_text()
    write_matches(tmp_path, "matches", [], 0, replace(ABOUT, scores=(np.empty(0), "none")), load)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "matches.html", "overlap-2.html", "overlap-3.html", "overlap.html",
    ]  # fmt: skip


def test_a_page_of_others_stays(tmp_path):
    (tmp_path / "overlap.html").write_text("mine")
    with pytest.raises(ValueError, match=r"overlap\.html exists already"):
        write_matches(tmp_path, "overlap", [], 0, ABOUT, load)
    assert (tmp_path / "overlap.html").read_text() == "mine"
