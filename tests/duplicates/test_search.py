"""From queries and a collection of real images to tables and pages, by a narrow network; and the command."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from helpers.narrow_job import VARIABLES, Embedder, Killed, killed_runs, table
from helpers.small_collection import MODEL, PRESET, files
from PIL import Image

from sscd_jax.cli.main import main
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors, is_descriptors
from sscd_jax.duplicates.options import Options
from sscd_jax.duplicates.search import search
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.weights.native import write_npz

SUMMARY = "summary.json"


@pytest.fixture
def queries(images, tmp_path) -> Path:
    """Two photographs that were edited, and a file that is no image."""
    folder = tmp_path / "queries"
    folder.mkdir()
    for number in (3, 7):
        Image.open(images / f"{number:03d}.jpg").save(folder / f"q{number}.jpg", quality=60)
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def run(queries: Any, collection: Any, out: Path, embed: Embedder, options: Options | None = None, **more: Any) -> Any:
    opened = [open_source(str(one)) if isinstance(one, Path) else one for one in (queries, collection)]
    return search(opened[0], opened[1], out, embed, options or Options(), weights="narrow", **more)


def test_what_is_found_and_written(images, queries, tmp_path):
    out, embed = tmp_path / "out", Embedder(update=True)
    options = Options(score="similarity")
    _, summary = run(queries, images, out, embed, options, k=4)
    assert json.loads((out / SUMMARY).read_text()) == summary
    assert (summary["queries"], summary["collection"], summary["matches"], summary["unreadable"]) == (2, 40, 8, 1)
    rows = table(out / "matches.csv")
    assert [(row["query"], row["rank"]) for row in rows] == [(q, str(n)) for q in ("q3", "q7") for n in (1, 2, 3, 4)]
    assert [row["match"] for row in rows if row["rank"] == "1"] == ["003", "007"]
    lines = [json.loads(line) for line in (out / "matches.jsonl").read_text().splitlines()]
    parquet = pyarrow.parquet.read_table(out / "matches.parquet").to_pylist()
    assert lines == parquet
    for row, line in zip(rows, lines, strict=True):
        assert (row["match"], row["copy"]) == (line["match"], str(line["copy"]).lower())
        assert float(row["similarity"]) == pytest.approx(line["similarity"], abs=1e-6)
    (error,) = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    assert (error["set"], error["id"]) == ("queries", "broken")
    page = (out / "matches.html").read_text()
    assert page.count("data:image/jpeg") == 2 + 8
    assert page.index("q3</bdi>") < page.index("003</bdi>") < page.index("q7</bdi>") < page.index("007</bdi>")

    vectors = {}  # by plain embedding
    for name, folder in (("q", queries), ("c", images)):
        write_descriptors(MODEL, VARIABLES, open_source(str(folder)), PRESET, tmp_path / name, batch_size=8)
        made = Descriptors.read(tmp_path / name)
        vectors |= {(name, one): vector for one, vector in zip(made.ids, np.asarray(made.vectors), strict=True)}
    for row in rows:
        product = float(vectors["q", row["query"]] @ vectors["c", row["match"]])
        assert float(row["similarity"]) == pytest.approx(product, abs=1e-5)

    before = files(out)
    run(queries, images, out, embed, options, k=4)
    after = files(out)
    assert embed.embedded == [2, 40, 0, 0]
    for some in (before, after):
        del some[SUMMARY]
    assert before == after

    # The collection is a folder of descriptors, and other queries do not embed it again.
    one = queries / "q7.jpg"
    again, _ = run(one, images, out, embed, options, k=1)
    assert again.reference.tolist() == ["007"]
    assert embed.embedded[4:] == [1, 0]
    third, _ = run(one, Descriptors.read(out / "collection"), tmp_path / "third", embed, options, k=1)
    assert third.reference.tolist() == ["007"]
    assert embed.embedded[6:] == [1]


@pytest.mark.slow
def test_an_image_that_has_changed_is_embedded_again(images, tmp_path):
    folder, out, embed = tmp_path / "photos", tmp_path / "out", Embedder(update=True)
    shutil.copytree(images, folder)
    run(images / "003.jpg", folder, out, embed, k=1)
    shutil.copy(images / "003.jpg", folder / "009.jpg")
    (folder / "003.jpg").unlink()
    found, summary = run(images / "003.jpg", folder, out, embed, k=1)
    assert found.reference.tolist() == ["009"]
    assert embed.embedded == [1, 40, 0, 1]
    assert summary["collection"] == 39


@pytest.mark.slow
def test_a_threshold_that_nothing_reaches_and_a_large_k(images, queries, tmp_path):
    out, embed = tmp_path / "out", Embedder()
    found, summary = run(queries, images, out, embed, Options(1.0, "similarity"))
    assert (len(found), summary["matches"], summary["copies"]) == (0, 0, 0)
    assert table(out / "matches.csv") == []
    assert "No matches" in (out / "matches.html").read_text()
    found, _ = run(queries, images, out, embed, k=1000)
    assert np.bincount(found.query_row).tolist() == [40, 40]
    assert sorted(found.reference[:40]) == [f"{n:03d}" for n in range(40)]
    page = (out / "matches.html").read_text()
    assert "29 more matches are not shown here." in page


def test_queries_none_of_which_can_be_read(images, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match="no image could be read"):
        run(tmp_path / "broken.jpg", images, tmp_path / "out", Embedder())
    assert not (tmp_path / "out" / SUMMARY).exists()


@pytest.mark.slow
@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_killed_run_is_resumed(images, queries, tmp_path, monkeypatch, call):
    collection = tmp_path / "few"
    collection.mkdir()
    for n in range(9):
        shutil.copy(images / f"{n:03d}.jpg", collection)
    expected, out, embed = tmp_path / "expected", tmp_path / "out", Embedder()
    run(queries, collection, expected, embed)
    for _ in killed_runs(lambda: run(queries, collection, out, embed), monkeypatch, call):
        assert not (out / SUMMARY).exists()
    wanted, found = (
        {name: data for name, data in files(folder).items() if "/" not in name and name != SUMMARY}
        for folder in (expected, out)
    )
    assert wanted == found


def test_other_descriptors_are_refused_and_stay(images, queries, tmp_path):
    out, embed = tmp_path / "out", Embedder()
    run(queries, images, out, embed)
    before = files(out / "collection")
    with pytest.raises(ValueError, match="collection holds descriptors of"):
        run(images / "003.jpg", queries, out, embed)
    assert files(out / "collection") == before
    (out / "queries" / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"mine\.txt is in the way"):
        run(images / "003.jpg", images, out, embed)
    assert (out / "queries" / "mine.txt").read_text() == "mine"


@pytest.mark.slow
def test_a_run_that_was_killed_while_it_removed_earlier_queries(images, queries, tmp_path, monkeypatch):
    out, embed = tmp_path / "out", Embedder()
    collection = tmp_path / "few"
    collection.mkdir()
    for n in range(9):
        shutil.copy(images / f"{n:03d}.jpg", collection)
    unlink, left = Path.unlink, 0

    def dying(path, **options):
        nonlocal left
        left -= path.parent.name in ("queries", "plan")
        if left < 0:
            raise Killed
        return unlink(path, **options)

    for number in range(6):
        run(queries, collection, out, embed)
        left = number
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(Path, "unlink", dying)
            run(images / "007.jpg", collection, out, embed, k=1)
        found, _ = run(images / "007.jpg", collection, out, embed, k=1)
        assert found.reference.tolist() == ["007"]


@pytest.fixture
def network(tmp_path) -> str:
    write_npz(tmp_path / "narrow.npz", MODEL, VARIABLES, {}, PRESET)
    return str(tmp_path / "narrow.npz")


def fails(capsys, *arguments: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.slow
def test_the_command(images, queries, tmp_path, network, capsys):
    few = ["--weights", network, "--batch-size", "8"]
    main(["search", str(queries), str(images), *few, "--k", "30", "--score", "similarity"])
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0].split() == ["query", "rank", "match", "similarity", "score"]
    assert lines[1].split()[:3] == ["q3", "1", "003"]
    assert lines[1].endswith("copy")
    assert lines[51] == "... and 10 more; give --out DIR to get all"
    assert "2 of 2 queries have 60 copies among 40 images." in lines
    assert "broken.jpg: " in shown.err

    out = str(tmp_path / "out")
    main(["search", str(queries / "q3.jpg"), str(images), *few, "--out", out, "--threshold", "0.9"])
    assert f"Look at {out}/matches.html" in capsys.readouterr().out

    # Descriptors bring their preset with them, and need the same weights.
    assert is_descriptors(f"{out}/collection")
    main(["search", str(queries / "q7.jpg"), f"{out}/collection", *few, "--k", "1"])
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["q7", "1", "007"]
    main(["search", f"{out}/queries", f"{out}/collection", "--k", "1", "--weights", "/none"])
    assert capsys.readouterr().out.splitlines()[1].split()[:3] == ["q3", "1", "003"]
    other = str(tmp_path / "other.npz")
    write_npz(Path(other), MODEL, {**VARIABLES, "params": _scaled(VARIABLES["params"])}, {}, PRESET)
    line = fails(capsys, "search", str(queries / "q7.jpg"), f"{out}/collection", "--weights", other)
    assert "the networks are alike; their weights differ" in line
    line = fails(capsys, "search", str(queries / "q7.jpg"), f"{out}/collection", *few, "--preset", "small_288")
    assert "with preset small_288: embed both with the same weights and preset" in line
    assert "no image of" in fails(capsys, "search", str(queries / "broken.jpg"), str(images), *few)
    assert "--k is 0" in fails(capsys, "search", str(queries), str(images), "--k", "0")
    assert "threshold is 3" in fails(capsys, "search", str(queries), str(images), "--threshold", "3")
    (tmp_path / "out" / "collection" / "manifest.json").unlink()
    assert "not a complete set of descriptors" in fails(capsys, "search", str(queries), f"{out}/collection", *few)


def _scaled(parameters: Any) -> Any:
    return {name: _scaled(value) if hasattr(value, "items") else value * 1.01 for name, value in parameters.items()}


@pytest.mark.slow
def test_the_commands_of_two_sets(images, queries, tmp_path, network, capsys):
    few = ["--weights", network, "--batch-size", "8", "--score", "similarity", "--threshold", "0.9995"]
    shutil.copy(images / "005.jpg", queries)
    main(["overlap", str(images), str(queries), "--out", str(tmp_path / "o"), *few])
    shown = capsys.readouterr().out
    assert " of 3 images of TEST (" in shown
    assert "1 image of TEST could not be read." in shown
    assert "1 with the same bytes" in shown
    assert str(queries / "005.jpg") in (tmp_path / "o" / "test_in_train.txt").read_text().splitlines()

    main(["dedup", str(queries), "--against", str(images), "--out", str(tmp_path / "d"), *few])
    assert json.loads(capsys.readouterr().out.partition("\n\n")[0])["against_images"] == 40
    main(["dedup", "apply", str(tmp_path / "d"), "--move-to", str(tmp_path / "trash"), "--yes"])
    assert not (queries / "005.jpg").exists()
    assert (images / "005.jpg").exists()
    main(["dedup", "undo", str(tmp_path / "d")])
    assert (queries / "005.jpg").exists()
    line = fails(
        capsys, "dedup", str(queries), "--against", str(images), "--out", str(tmp_path / "d"), *few, "--keep", "first"
    )
    assert "have no meaning with --against" in line
