"""From two sets of real images to what they have in common, by a narrow network; dedup --against, which moves it."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
from helpers.narrow_job import OPTIONS, VARIABLES, Embedder, killed_runs, table
from helpers.small_collection import MODEL, PRESET, files
from PIL import Image
from scipy.stats import norm

from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates.against import dedup_against
from sscd_jax.duplicates.dedup import dedup, read_summary
from sscd_jax.duplicates.move_plan import plan_moves
from sscd_jax.duplicates.moves import apply, undo
from sscd_jax.duplicates.options import Options
from sscd_jax.duplicates.overlap import overlap
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.provenance import Provenance

SUMMARY = "summary.json"


@pytest.fixture
def sets(images, tmp_path) -> tuple[Path, Path]:
    """Six training images and seven test images, three of which are copies, and one is broken.

    Both sets have an image 000, and these are different ones.
    """
    train, test = tmp_path / "train", tmp_path / "test"
    for folder in (train, test):
        folder.mkdir()
    every = sorted(images.iterdir())
    for number, path in enumerate(every[:6]):
        shutil.copy(path, train / f"{number:03d}.jpg")
    for number, path in enumerate(every[6:9]):
        shutil.copy(path, test / f"{number:03d}.jpg")
    shutil.copy(train / "003.jpg", test / "bytes.jpg")
    Image.open(train / "001.jpg").save(test / "pixels.png")
    Image.open(train / "002.jpg").save(test / "near.jpg", quality=85)
    (test / "broken.jpg").write_bytes(b"no image")
    return train, test


FOUND = {("001", "pixels"): "pixels", ("002", "near"): "near", ("003", "bytes"): "bytes"}


def run(train: Any, test: Any, out: Path, embed: Embedder, options: Options = OPTIONS) -> dict[str, Any]:
    opened = [open_source(str(one)) if isinstance(one, Path) else one for one in (train, test)]
    return overlap(opened[0], opened[1], out, embed, options, weights="narrow")


def kinds(out: Path) -> dict[tuple[str, str], str]:
    return {(row["id_a"], row["id_b"]): row["kind"] for row in table(out / "pairs.csv")}


def descriptors(folder: Path, out: Path) -> Descriptors:
    write_descriptors(MODEL, VARIABLES, open_source(str(folder)), PRESET, out, batch_size=8)
    return Descriptors.read(out)


def wilson(count: int, total: int) -> tuple[float, float]:
    """The interval by its formula."""
    z, p = norm.ppf(0.975), count / total
    middle, half = p + z * z / (2 * total), z * np.sqrt(p * (1 - p) / total + z * z / (4 * total * total))
    return (middle - half) / (1 + z * z / total), (middle + half) / (1 + z * z / total)


def test_what_is_found_and_written(sets, tmp_path):
    train, test = sets
    out, embed = tmp_path / "out", Embedder()
    summary = run(train, test, out, embed)
    assert kinds(out) == FOUND
    assert embed.embedded == [11]  # 13 files; the same bytes once, and one that cannot be
    assert json.loads((out / SUMMARY).read_text()) == summary
    assert summary["test"]["images"] == 7
    assert summary["test"]["unreadable"] == 1
    assert summary["test"]["have_copies"] == 3
    assert summary["test"]["by_kind"] == {"bytes": 1, "pixels": 1, "near": 1}
    assert summary["test"]["share"] == 0.5
    assert summary["test"]["share_interval"] == pytest.approx(wilson(3, 6))
    assert summary["train"]["share_interval"] == pytest.approx(wilson(3, 6))
    lists = [(out / f"{name}.txt").read_text().splitlines() for name in ("test_in_train", "train_in_test")]
    assert lists[0] == [str(test / name) for name in ("bytes.jpg", "near.jpg", "pixels.png")]
    assert lists[1] == [str(train / f"00{n}.jpg") for n in (1, 2, 3)]
    (error,) = map(json.loads, (out / "errors.jsonl").read_text().splitlines())
    assert (error["set"], error["id"]) == ("test", "broken")
    parquet = pyarrow.parquet.read_table(out / "pairs.parquet").to_pylist()
    assert {(row["id_a"], row["id_b"]): row["kind"] for row in parquet} == FOUND
    page = (out / "overlap.html").read_text()
    assert page.count("data:image/jpeg") == 6
    assert page.index("near</bdi>") < page.index("pixels</bdi>")  # the most doubtful first

    first = files(out)
    run(train, test, out, embed)
    assert embed.embedded == [11, 0]
    again = files(out)
    for some in (first, again):
        del some[SUMMARY]  # it has the seconds
    assert first == again

    shutil.move(test / "near.jpg", test / "moved.jpg")
    (test / "broken.jpg").unlink()
    shutil.copy(train / "005.jpg", test / "new.jpg")
    run(train, test, out, embed)
    assert embed.embedded == [11, 0, 0]
    assert kinds(out) == {
        ("001", "pixels"): "pixels", ("002", "moved"): "near", ("003", "bytes"): "bytes", ("005", "new"): "bytes",
    }  # fmt: skip
    assert not (out / "errors.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize("of", ["train", "test", "both"])
def test_descriptors_take_the_place_of_images(sets, tmp_path, of):
    train, test = sets
    given: list[Any] = [train, test]
    for number, name in enumerate(("train", "test")):
        if of in (name, "both"):
            given[number] = descriptors(given[number], tmp_path / f"d{number}")
            shutil.rmtree(sets[number])  # so that its images cannot be read
    out, embed = tmp_path / "out", Embedder()
    summary = run(*given, out, embed)
    assert kinds(out) == dict.fromkeys(FOUND, "near")
    assert embed.embedded == {"train": [6], "test": [6], "both": []}[of]
    assert summary["test"]["have_copies"] == 3
    listed = (out / "test_in_train.txt").read_text().splitlines()
    if of == "train":
        assert all(map(os.path.exists, listed))
    else:
        assert listed == ["bytes", "near", "pixels"]


def test_descriptors_of_another_network(sets, tmp_path):
    train, test = sets
    made = descriptors(train, tmp_path / "d")
    other = Descriptors(made.ids, made.vectors, Provenance("other", made.provenance.preset))
    with pytest.raises(ValueError, match=r"images are of weights .* train are of weights other"):
        run(other, test, tmp_path / "out", Embedder())
    assert not (tmp_path / "out" / SUMMARY).exists()


def test_nothing_in_common(images, tmp_path):
    for number, path in enumerate(sorted(images.iterdir())[:4]):
        (tmp_path / str(number % 2)).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / str(number % 2))
    out = tmp_path / "out"
    for options in (OPTIONS, Options(1.0)):
        summary = run(tmp_path / "0", tmp_path / "1", out, Embedder(), options)
        assert (summary["pairs"], summary["test"]["share"]) == (0, 0)
        assert "No image is in both sets" in (out / "overlap.html").read_text()
        assert (out / "test_in_train.txt").read_text() == ""


@pytest.mark.slow
@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_killed_run_is_resumed(sets, tmp_path, monkeypatch, call):
    expected, out, embed = tmp_path / "expected", tmp_path / "out", Embedder()
    run(*sets, expected, embed)
    for _ in killed_runs(lambda: run(*sets, out, embed), monkeypatch, call):
        assert not (out / SUMMARY).exists()  # so nobody takes the folder for complete
    wanted, found = (
        {name: data for name, data in files(folder).items() if "/" not in name and name != SUMMARY}
        for folder in (expected, out)
    )
    assert wanted == found


def test_another_folder_is_refused_before_the_work(sets, tmp_path):
    out, embed = tmp_path / "out", Embedder()
    dedup(open_source(str(sets[0])), out, embed, OPTIONS, weights="narrow")
    with pytest.raises(ValueError, match=r"is not a folder of sscd_jax overlap: it holds dedup\.json"):
        run(*sets, out, embed)
    assert embed.embedded == [6]


def against(source: Path, other: Any, out: Path, embed: Embedder) -> dict[str, Any]:
    opened = open_source(str(other)) if isinstance(other, Path) else other
    return dedup_against(
        open_source(str(source)), opened, out, embed, OPTIONS, weights="narrow", roots=[str(source), str(other)]
    )


def test_what_is_in_another_set_is_moved_and_brought_back(sets, tmp_path):
    train, test = sets
    shutil.copy(test / "near.jpg", test / "near_too.jpg")
    out, embed, before = tmp_path / "out", Embedder(), files(tmp_path)
    summary = against(test, train, out, embed)
    assert read_summary(out) == summary
    assert (summary["images"], summary["against_images"], summary["duplicates"], summary["groups"]) == (8, 6, 4, 3)
    assert kinds(out) == {(b, a): kind for (a, b), kind in FOUND.items()}  # one of two equal files stands for both
    copies = {"bytes.jpg", "near.jpg", "near_too.jpg", "pixels.png"}
    assert {*(out / "remove.txt").read_text().splitlines()} == {str(test / name) for name in copies}
    assert {*(out / "keep.txt").read_text().splitlines()} == {str(test / f"00{n}.jpg") for n in range(3)}
    groups = table(out / "groups.csv")
    assert [(row["id"], row["keep"]) for row in groups if row["group"] == "1"] == [
        ("002", "true"), ("near", "false"), ("near_too", "false"),
    ]  # fmt: skip
    assert {row["path"] for row in groups if row["keep"] == "true"} == {str(train / f"00{n}.jpg") for n in (1, 2, 3)}
    page = (out / "duplicates.html").read_text()
    assert page.count("data:image/jpeg") == 7
    assert f"It is in {train}, of which nothing is removed." in page

    roots = [Path(root) for root in summary["roots"]]
    with pytest.raises(ValueError, match="cannot be moved to"):
        plan_moves(out, train / "x", roots=roots)
    done = apply(plan_moves(out, tmp_path / "trash", roots=roots))
    assert (done.done, done.skipped) == (4, [])
    assert {path.name for path in (tmp_path / "trash").iterdir()} == copies  # not below the folder of both sets
    assert files(train) == {name.removeprefix("train/"): data for name, data in before.items() if "train/" in name}
    assert undo(out).done == 4
    assert {name: data for name, data in files(tmp_path).items() if not name.startswith("out/")} == before


def test_the_kept_file_must_still_be_there(sets, tmp_path):
    train, test = sets
    out = tmp_path / "out"
    against(test, train, out, Embedder())
    (train / "003.jpg").write_bytes(b"changed")
    plan = plan_moves(out, tmp_path / "trash")
    assert len(plan.moves) == 2
    ((path, why),) = plan.skipped
    assert path == str(test / "bytes.jpg")
    assert "has changed since" in why


def test_equal_files_are_linked_across_sets(sets, tmp_path):
    train, test = sets
    out = tmp_path / "out"
    against(test, train, out, Embedder())
    done = apply(plan_moves(out, None))
    assert (done.done, done.different) == (1, 2)
    assert (test / "bytes.jpg").samefile(train / "003.jpg")


@pytest.mark.slow
def test_descriptors_as_the_other_set(sets, tmp_path):
    train, test = sets
    made = descriptors(train, tmp_path / "d")
    shutil.rmtree(train)
    out = tmp_path / "out"
    summary = against(test, made, out, Embedder())
    assert summary["duplicates"] == 3
    kept = [row for row in table(out / "groups.csv") if row["keep"] == "true"]
    assert [(row["bytes"], row["path"]) for row in kept] == [("", "")] * 3  # of their files nothing is known
    assert "-1 byte" not in (out / "duplicates.html").read_text()
    plan = plan_moves(out, tmp_path / "trash")
    assert not plan.moves  # there is nothing that could be checked
    assert len(plan.skipped) == 3


def test_a_file_in_both_sets(sets, tmp_path):
    train, _ = sets
    (train / "part").mkdir()
    shutil.copy(train / "000.jpg", train / "part" / "copy.jpg")
    with pytest.raises(ValueError, match=r"copy\.jpg is both among the images to clean and among those of --against"):
        against(train, train / "part", tmp_path / "out", Embedder())
    assert not (tmp_path / "out" / "remove.txt").exists()


def test_the_folder_serves_with_and_without_another_set(sets, tmp_path):
    train, test = sets
    out, embed = tmp_path / "out", Embedder()
    against(test, train, out, embed)
    assert (out / "other.jsonl").exists()
    dedup(open_source(str(test)), out, embed, OPTIONS, weights="narrow")
    assert not (out / "other.jsonl").exists()
    assert "against" not in read_summary(out)
    assert embed.embedded == [11, 0]


@pytest.mark.slow
@pytest.mark.parametrize("call", ["replace", "open"])
def test_a_killed_run_against_another_set_is_resumed(sets, tmp_path, monkeypatch, call):
    expected, out, embed = tmp_path / "expected", tmp_path / "out", Embedder()
    against(sets[1], sets[0], expected, embed)
    for _ in killed_runs(lambda: against(sets[1], sets[0], out, embed), monkeypatch, call):
        assert not (out / SUMMARY).exists()
    wanted, found = (
        {name: data for name, data in files(folder).items() if "/" not in name and name != SUMMARY}
        for folder in (expected, out)
    )
    assert {name: data.replace(str(out).encode(), str(expected).encode()) for name, data in found.items()} == wanted
