"""The report as data in, HTML out; and as a real browser shows it."""

import base64
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.html_page import Page
from PIL import Image

pytest.importorskip("matplotlib")
from sscd_jax.data.names import printable_lines
from sscd_jax.datasets.annotations import Edited
from sscd_jax.datasets.edits import edit
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import disc
from sscd_jax.evaluation.report.page import Result, results_of, write_report
from sscd_jax.evaluation.results import Evaluation
from sscd_jax.provenance import Provenance

TITLE = 'What is <found> & "missed"?'
METRICS = ("uAP", "uAP, normalized", "accuracy@1", "recall@p90")
VALUES = {"gray 4 x 4": (0.2514, 0.1, 0.31, 0.2), "thumbnails <8x8>": (0.4567, 0.5, 0.9996, 0.0)}


@pytest.fixture(scope="module")
def inputs(images: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """30 references, edited copies of 24 of them, 10 queries that copy nothing, two descriptors."""
    folder = tmp_path_factory.mktemp("queries")
    rng = np.random.default_rng(0)
    files = sorted(images.iterdir())
    references, others = files[:30], files[30:]
    sources = [*references[:24], *others]
    queries = [folder / f"Q{i:02d}.jpg" for i in range(len(sources))]
    edits = {}
    for source, query in zip(sources, queries, strict=True):
        image, kinds = edit(Image.open(source), rng, [Image.open(others[0])], 2)
        edits[query.stem] = Edited(tuple(kinds))
        image.save(query)
    truth = [(query.stem, reference.stem) for query, reference in zip(queries[:24], references, strict=False)]

    def small(paths: list[Path], mode: str, side: int) -> np.ndarray:
        thumbnails = [Image.open(p).convert(mode).resize((side, side)) for p in paths]
        pixels = [np.asarray(thumbnail).ravel().astype(np.float32) for thumbnail in thumbnails]
        centered = np.stack(pixels) - 128
        return centered / np.linalg.norm(centered, axis=1, keepdims=True)

    results = []
    for name, of in (("gray 4 x 4", ("L", 4)), ("thumbnails <8x8>", ("RGB", 8))):
        asked, searched = (
            Descriptors([p.stem for p in paths], small(paths, *of), Provenance(name, "p"))
            for paths in (queries, references)
        )
        found = disc.predict(asked, searched, None, truth, codecs=["Flat"])
        row = disc.measure(found[0], asked.ids, truth)
        (result,) = results_of(Evaluation([row], found, asked.ids, searched.ids, truth))
        results.append(replace(result, name=name, metrics=dict(zip(METRICS, VALUES[name], strict=True))))
    steps = np.arange(50)
    history = {name: 1 / (steps + 1) for name in ("loss", "InfoNCE", "entropy", "positive_sim")}
    return {
        "title": TITLE,
        "summary": "Copies were searched for.",
        "results": results,
        "ground_truth": truth,
        "query_images": {p.stem: p.read_bytes for p in queries},
        "reference_images": {p.stem: p.read_bytes for p in references},
        "query_ids": [p.stem for p in queries],
        "history": {"step": steps, **history},
        "edits": edits,
        "facts": {"seed": "0", "<odd>": "a & b"},
    }


@pytest.fixture(scope="module")
def report(inputs: dict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, **inputs)
    return path


def test_the_page_is_well_formed_and_shows_the_numbers(report, inputs):
    page = Page(report.read_text(encoding="utf-8"))
    assert page.texts("h1") == page.texts("title") == [TITLE]
    expected = [f"{value:.3f}" for values in VALUES.values() for value in values]
    assert page.texts("td")[: len(expected)] == expected
    assert [name for name in page.texts("th") if name in VALUES][:2] == list(VALUES)
    assert page.texts("dt") == ["seed", "<odd>"]
    assert page.texts("dd") == ["0", "a & b"]

    shown: Result = inputs["results"][-1]
    scores = {f"{score:.3f}" for score in (*shown.scores, *shown.copy_similarities)}
    on_cards = page.texts("span", "score")
    assert len(on_cards) >= 20
    assert set(on_cards) <= scores
    words = page.texts("span", "mark")
    assert set(words) == {"✓ correct", "✗ incorrect"}
    classes = [a["class"].split()[0] for tag, a, _ in page.elements if tag == "li" and "mark" not in a]
    assert [c for c in classes if c in ("correct", "incorrect")][-len(words) :] == [w.split()[1] for w in words]
    for text in page.texts("article", "card"):
        assert "correctly rejected" not in text or "✗" not in text
    assert len(page.texts("article", "example")) == 4
    assert all("best match" in text for text in page.texts("article", "example"))


def test_the_outcomes_and_the_edits_are_those_of_the_answers(report, inputs):
    """Counted again by numpy, from the similarities."""
    page = Page(report.read_text(encoding="utf-8"))
    result, truth = inputs["results"][-1], dict(inputs["ground_truth"])
    scores = result.scores.reshape(-1, 10)
    queries, best = result.query_ids[::10], result.reference_ids[::10]
    first = np.array([truth.get(q) == r for q, r in zip(queries, best, strict=True)])
    precision = [first[scores[:, 0] >= s].mean() for s in scores[:, 0]]
    threshold = min(s for s, p, f in zip(scores[:, 0], precision, first, strict=True) if p >= 0.9 and f)
    answered, copies = scores[:, 0] >= threshold, np.array([q in truth for q in queries])
    for text in (
        f"found: {(first & answered).sum()}",
        f"missed: score too low: {(first & ~answered).sum()}",
        f"missed: another image first: {(copies & ~first).sum()}",
        f"correctly rejected: {(~copies & ~answered).sum()}",
        f"false alarm: {(~copies & answered).sum()}",
    ):
        assert any(item.endswith(text) for item in page.texts("li")), text
    assert any(f"at least {threshold:.3f}" in text for text in page.texts("p"))

    copied = [inputs["edits"][query].kinds for query in truth]
    for name in {name for names in copied for name in names}:
        edited = [q in truth and name in inputs["edits"][q].kinds for q in queries]
        (row,) = [row for row in page.texts("tr") if row.startswith(f"{name} {sum(edited)} ")]
        assert row.endswith(f" {100 * first[edited].mean():.0f}%")


def test_nothing_is_loaded_from_outside(report):
    text = report.read_text(encoding="utf-8")
    page = Page(text)
    assert "script" not in {tag for tag, _, _ in page.elements}
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "srcset", "data", "action", "poster", "xlink:href"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, name)
        assert not any(name.startswith("on") for name in attributes)
    (style,) = [texts for tag, _, texts in page.elements if tag == "style"]
    assert not re.search(r"url\(|@import|@font-face", "".join(style))
    assert not re.search(r"https?://", text)


def test_results_of_an_evaluation_against_one_large_matrix():
    rng = np.random.default_rng(0)
    queries, references = (rng.normal(size=(n, 4)).astype(np.float32) for n in (300, 30))
    queries, references = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, references))
    asked, searched = (
        Descriptors([f"{letter}{i}" for i in range(len(v))], v, Provenance("w", "p"))
        for letter, v in (("q", queries), ("r", references))
    )
    pairs = np.stack([rng.permutation(300)[:100], rng.integers(30, size=100)], 1)
    truth = [(f"q{q}", f"r{r}") for q, r in pairs]
    found = disc.predict(asked, searched, searched, truth, codecs=["Flat"], score_norms=[None, "1.0[0,2]"], k=3)
    rows = [disc.measure(one, asked.ids, truth, bootstrap=10) for one in found]
    plain, normed = results_of(Evaluation(rows, found, asked.ids, searched.ids, truth), prefix="net: ")
    assert (plain.name, plain.score_name) == ("net: Flat", "similarity")
    assert (normed.name, normed.score_name) == ("net: Flat, score norm 1.0[0,2]", "normalized score")
    assert plain.metrics == {
        "uAP": rows[0]["uAP"],
        "accuracy@1": rows[0]["accuracy_at_1"],
        "recall@p90": rows[0]["recall_at_p90"],
    }
    assert list(plain.intervals) == list(plain.metrics)

    similarity = queries @ references.T
    np.testing.assert_allclose(plain.scores.reshape(-1, 3), -np.sort(-similarity, 1)[:, :3], atol=1e-6)
    queries_at, references_at = ([int(one[1:]) for one in ids] for ids in (plain.query_ids, plain.reference_ids))
    np.testing.assert_allclose(similarity[queries_at, references_at], plain.scores, atol=1e-6)
    np.testing.assert_allclose(plain.copy_similarities, similarity[pairs[:, 0], pairs[:, 1]], atol=1e-6)
    bias = -np.sort(-similarity, 1)[:, :3].mean(1)
    np.testing.assert_allclose(normed.scores.reshape(-1, 3), -np.sort(-similarity, 1)[:, :3] - bias[:, None], atol=1e-6)
    similarity[pairs[:, 0], pairs[:, 1]] = -np.inf
    np.testing.assert_allclose(plain.other_similarities, similarity.max(1), atol=1e-6)
    longer = Descriptors(asked.ids, 2 * queries, asked.provenance)
    (found,) = disc.predict(longer, searched, None, truth, codecs=["Flat"], k=3)
    (result,) = results_of(Evaluation([disc.measure(found, asked.ids, truth)], [found], asked.ids, searched.ids, truth))
    assert result.score_name == "minus squared distance"
    assert result.scores.max() <= -1


def test_bad_input_leaves_an_older_report_as_it_was(tmp_path, inputs):
    path = tmp_path / "report.html"
    path.write_text("older")
    for results in ([], [inputs["results"][0], _empty("y", {"other": 1.0})], [_empty("x", {})]):
        with pytest.raises(ValueError, match="a report needs"):
            write_report(path, **{**inputs, "results": results})
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.html", "older")]


def _empty(name: str, metrics: dict[str, float]) -> Result:
    nothing = np.array([])
    return Result(name, metrics, nothing, nothing, nothing, nothing, nothing)


def test_a_page_without_images_history_and_edits(tmp_path, inputs):
    broken = tmp_path / "Q00.jpg"
    broken.write_bytes(b"no image")
    path = tmp_path / "report.html"
    plain = {name: inputs[name] for name in ("title", "summary", "results", "ground_truth", "query_ids")}
    write_report(path, **plain, query_images={"Q00": broken.read_bytes}, reference_images={})
    page = Page(path.read_text(encoding="utf-8"))
    assert all(a["alt"].startswith("Chart: ") for tag, a, _ in page.elements if tag == "img")
    assert len([t for t in page.texts("div", "frame") if t.endswith(": no image")]) > 20
    ids = {attributes.get("id") for _, attributes, _ in page.elements}
    assert {"results", "outcomes", "curves"} <= ids
    assert not {"training", "edits", "facts"} & ids


@pytest.mark.parametrize("name", ["$\\frac$", "_a", "a\x1b[31m\n", "abc\u202egpj", "</p><script>", "\udcff"])
def test_names_of_any_kind(name, tmp_path):
    """As names of images and of results. No character of them changes anything but the place where it stands."""
    one = np.array([name])
    result = Result(name, {"uAP": 1.0}, one, one, np.array([0.9]), np.array([0.9]), np.array([]))
    facts = {"title": name, "summary": f"first\n{name}", "ground_truth": [(name, name)], "query_ids": [name]}
    images = {"query_images": {}, "reference_images": {}}
    write_report(tmp_path / "report.html", results=[result, replace(result, name="x")], **facts, **images)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert all(character.isprintable() or character == "\n" for character in text)
    shown = re.sub(r"\s+", " ", printable_lines(name)).strip()
    page = Page(text)
    assert page.texts("title") == page.texts("h1") == [shown]
    assert not page.texts("script")
    assert shown in page.texts("th")


def test_a_query_and_a_reference_of_one_name_have_their_own_images(tmp_path):
    """And queries without a prediction count, as those of the best of all queries."""
    images = {}
    for name, color in (("query", (250, 0, 0)), ("reference", (0, 0, 250))):
        Image.new("RGB", (64, 64), color).save(tmp_path / f"{name}.png")
        images[name] = {"1": (tmp_path / f"{name}.png").read_bytes}
    one = np.array(["1"])
    result = Result("x", {"uAP": 1.0}, one, one, np.array([0.9]), np.array([0.9]), np.array([]))
    path = tmp_path / "report.html"
    write_report(
        path,
        title=TITLE,
        summary="",
        results=[result],
        ground_truth=[("1", "1")],
        query_images=images["query"],
        reference_images=images["reference"],
        query_ids=["1", "2", "3"],
    )
    page = Page(path.read_text(encoding="utf-8"))
    shown = [a["src"] for tag, a, _ in page.elements if tag == "img" and a["src"].startswith("data:image/jpeg")]
    pixels = [Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).getpixel((30, 30)) for uri in shown]
    assert [red > 200 for red, _, _ in pixels] == [True, False] * 2  # among the examples, and in the gallery
    assert any("2 queries copy nothing" in text for text in page.texts("b"))
    assert any(text.endswith("correctly rejected: 2") for text in page.texts("li"))
    alarms = [row.split()[-1] for row in page.texts("tr") if row.startswith("0.900 ")]
    assert set(alarms) == {"0.000"}


# A script that the test adds to a copy of the page, where it writes what it saw into the document.
PROBE = """<script>
const seen = [];
addEventListener("error", event => seen.push("error " + (event.message || event.target.tagName)), true);
addEventListener("securitypolicyviolation", event => seen.push("blocked " + event.blockedURI));
addEventListener("load", () => {
  const images = [...document.images], root = document.documentElement, box = e => e.getBoundingClientRect();
  const report = {
    images: images.length,
    loaded: images.filter(i => i.complete && i.naturalWidth > 0 && box(i).width > 0).length,
    charts: [...document.querySelectorAll("figure.chart > img")].filter(i => box(i).height > 100).length,
    rows: [...document.querySelectorAll("tbody tr")].filter(r => box(r).height > 10).length,
    overflow: root.scrollWidth - root.clientWidth,
    requests: performance.getEntriesByType("resource").filter(e => !e.name.startsWith("data:")).length,
    seen: seen.join("; "),
  };
  for (const [name, value] of Object.entries(report)) root.setAttribute("data-" + name, value);
});
</script>"""


@pytest.fixture
def browse(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Opens a file in headless Chromium: the DOM that it gives back, and what it wrote to its log."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    browser = next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        if os.environ.get("CI"):
            pytest.fail("CI has no Chromium: .ci/run is to install it")
        pytest.skip("no Chromium here; with one, this test opens the report in it")

    def run(path: Path, width: int) -> tuple[str, str]:
        profile = tmp_path / f"profile{width}{path.stem}"
        profile.mkdir()
        flags = [
            *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *("--disable-dev-shm-usage", "--enable-logging=stderr", "--dump-dom"),
        ]
        done = subprocess.run(
            [browser, *flags, f"--user-data-dir={profile}", f"--window-size={width},900", path.as_uri()],
            capture_output=True,
            text=True,
            timeout=90,
            check=True,
        )
        return done.stdout, done.stderr

    return run


def _probed(report: Path, path: Path, more: str = "") -> Path:
    """A copy of the report with the probe in it, allowed to run by the copy's policy."""
    text = report.read_text(encoding="utf-8")
    assert text.count("default-src 'none'") == text.count("<head>") == 1
    text = text.replace("default-src 'none'", "default-src 'none'; script-src 'unsafe-inline'")
    text = text.replace("<title>", f"{PROBE}<title>", 1).replace("</main>", f"{more}</main>", 1)
    path.write_text(text, encoding="utf-8")
    return path


def _seen(dom: str) -> dict[str, str]:
    _, attributes, _ = next(e for e in Page(dom).elements if e[0] == "html")
    return {name.removeprefix("data-"): value for name, value in attributes.items()}


@pytest.mark.parametrize("width", [1200, pytest.param(600, marks=pytest.mark.slow)])
def test_a_browser_shows_all_of_it(report, inputs, browse, tmp_path, width):
    dom, log = browse(_probed(report, tmp_path / "probed.html"), width)
    seen = _seen(dom)
    written = Page(report.read_text(encoding="utf-8"))
    images = sum(tag == "img" for tag, _, _ in written.elements)
    assert images > 20
    assert seen["images"] == seen["loaded"] == str(images)
    assert seen["charts"] == "8"  # precision and recall, two histograms, edits, four of the training
    kinds = {name for query, _ in inputs["ground_truth"] for name in inputs["edits"][query].kinds}
    assert seen["rows"] == str(2 + 12 + len(kinds))  # results, thresholds, edits
    assert seen["overflow"] == "0"
    assert seen["requests"] == "0"
    assert seen["seen"] == ""
    assert "CONSOLE" not in log


def test_the_page_as_written_has_no_complaint(report, browse):
    dom, log = browse(report, 1200)
    assert Page(dom).texts("h1") == [TITLE]
    assert "CONSOLE" not in log


def test_the_page_forbids_what_it_could_load(report, browse, tmp_path):
    """The other side of the tests above: what they would see, were there something to see."""
    more = '<img src="http://127.0.0.1:9/outside.png" alt=""><script>missing()</script>'
    dom, log = browse(_probed(report, tmp_path / "outside.html", more), 1200)
    seen = _seen(dom)
    assert "blocked http://127.0.0.1:9" in seen["seen"]
    assert "missing is not defined" in seen["seen"]
    assert int(seen["loaded"]) == int(seen["images"]) - 1
    assert "CONSOLE" in log
