"""Image sets of any images: the ground truth is right, the seed decides everything, and a set is resumed."""

import csv
import json
import shutil
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from sscd_jax.cli.main import main
from sscd_jax.data.sources import open_source
from sscd_jax.datasets import benchmark, rendering, screening
from sscd_jax.datasets.benchmark import Options
from sscd_jax.datasets.edits import BENCHMARK_KINDS, KINDS
from sscd_jax.files import temporary_name

SMALL = Options(max_side=80)


def make(images: Path, out: Path, options: Options = SMALL, workers: int = 1) -> dict[str, int]:
    return benchmark.make(open_source(str(images)), out, options, workers=workers)


@pytest.fixture(scope="module")
def benchmark_set(images, tmp_path_factory) -> tuple[Path, dict[str, int]]:
    out = tmp_path_factory.mktemp("benchmark") / "set"
    return out, make(images, out)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"), float)


def stems(folder: Path) -> list[str]:
    return sorted(path.stem for path in folder.iterdir())


def test_the_files_are_those_of_the_tables(benchmark_set):
    out, counts = benchmark_set
    assert counts == {
        "training": 12,
        "references": 12,
        "copies": 36,
        "non_copies": 12,
        "unreadable": 0,
        "left_out": 4,  # of one color
    }
    plain, queries = rows(out / "images.csv"), rows(out / "queries.csv")
    assert [row["id"] for row in plain] == stems(out / "training") + stems(out / "references")
    assert [row["query_id"] for row in queries] == stems(out / "queries") == [f"Q{i:05d}" for i in range(1, 49)]
    truth = [(row["query_id"], row["reference_id"]) for row in rows(out / "ground_truth.csv")]
    assert truth == [(row["query_id"], row["reference_id"]) for row in queries if row["reference_id"]]
    assert set(Counter(reference for _, reference in truth).values()) == {3}
    assert (out / "ground_truth.csv").read_bytes().startswith(b"query_id,reference_id\nQ0")
    assert not out.with_name("set.incomplete").exists()
    files = {path.name for path in out.iterdir()} - {"training", "references", "queries"}
    tables = {"images.csv", "queries.csv", "ground_truth.csv", "left_out.csv"}
    assert files == tables | {"made_by.json", "sheet.jpg"}
    for path in out.glob("*/*.jpg"):
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("JPEG", "RGB")
            assert max(image.size) <= 80
    assert Image.open(out / "sheet.jpg").width > 800


def test_the_parts_share_no_image(benchmark_set):
    out, _ = benchmark_set
    plain, queries = rows(out / "images.csv"), rows(out / "queries.csv")
    source = {row["id"]: row["source"] for row in plain}
    assert len({*source.values()}) == len(plain)
    held_back = {row["source"] for row in queries if not row["reference_id"]}
    assert len(held_back) == 12
    assert not held_back & {*source.values()}
    assert all(row["source"] == source[row["reference_id"]] for row in queries if row["reference_id"])


def test_copies_and_non_copies_are_edited_alike(benchmark_set):
    out, _ = benchmark_set
    queries = rows(out / "queries.csv")
    for copies in (True, False):
        part = [row for row in queries if bool(row["reference_id"]) == copies]
        strengths = Counter(row["strength"] for row in part)
        assert set(strengths) == {"weak", "medium", "strong"}
        assert max(strengths.values()) - min(strengths.values()) <= 1
        assert {row["number"] for row in part} == {"1", "2", "3"}
    for row in queries:
        names = row["edits"].split(" + ")
        assert len(names) == len({*names}) == int(row["number"])
        assert {*names} <= {*BENCHMARK_KINDS}
    assert len({name for row in queries for name in row["edits"].split(" + ")}) > 18
    mixed = [bool(row["reference_id"]) for row in queries]
    assert 10 < sum(mixed[:20]) < 20


def test_a_copy_is_its_reference_edited_and_a_reference_its_source(images, tmp_path):
    """With an edit that can be undone; compared with the files of the source by nothing of the package."""
    options = replace(SMALL, kinds=("flip",), edits=(1, 1), max_side=1024, copies_of_each=1)
    make(images, tmp_path / "set", options)
    plain, queries = rows(tmp_path / "set" / "images.csv"), rows(tmp_path / "set" / "queries.csv")
    sources = {path.stem: pixels(Image.open(path)) for path in images.iterdir()}
    for row in plain:
        folder = "training" if row["id"][0] == "T" else "references"
        saved = pixels(Image.open(tmp_path / "set" / folder / f"{row['id']}.jpg"))
        assert nearest(saved, sources) == row["source"]
    references = {row["id"]: sources[row["source"]] for row in plain if row["id"][0] == "R"}
    for row in queries:
        query = pixels(ImageOps.mirror(Image.open(tmp_path / "set" / "queries" / f"{row['query_id']}.jpg")))
        assert nearest(query, sources) == row["source"]
        if row["reference_id"]:
            assert nearest(query, references) == row["reference_id"]
        else:
            assert min(np.abs(query - reference).mean() for reference in references.values()) > 15


def nearest(image: np.ndarray, known: dict[str, np.ndarray]) -> str:
    errors = {name: np.abs(image - other).mean() for name, other in known.items()}
    best = min(errors, key=errors.__getitem__)
    assert errors[best] < 8, "JPEG of quality 85 does no more"
    return best


@pytest.mark.slow
def test_the_seed_decides_everything_and_workers_nothing(images, benchmark_set, tmp_path):
    out, _ = benchmark_set
    make(images, tmp_path / "two", workers=2)
    assert content(tmp_path / "two") == content(out)
    make(images, tmp_path / "other", replace(SMALL, seed=1))
    first, second = (rows(folder / "queries.csv") for folder in (out, tmp_path / "other"))
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 5


def test_more_images_move_few_others(images, benchmark_set, tmp_path):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    Image.open(next(images.iterdir())).resize((96, 80)).effect_spread(40).save(folder / "more.jpg")
    make(folder, tmp_path / "set")
    before, now = (
        {row["source"]: row["id"][0] for row in rows(out / "images.csv")}
        for out in (benchmark_set[0], tmp_path / "set")
    )
    assert sum(now.get(source) == letter for source, letter in before.items()) >= len(before) - 3


class _Killed(BaseException):
    pass


@pytest.mark.parametrize(("stage", "calls"), [("screen_image", 7), ("_save", 1), ("_save", 31), ("_sheet", 0)])
def test_an_interrupted_call_is_resumed(stage, calls, images, benchmark_set, tmp_path, monkeypatch):
    """It is killed while it screens, renders and completes, in the middle of a line of its log and of an image."""
    left = calls
    module = {"screen_image": vars(screening), "_sheet": vars(benchmark)}.get(stage)

    def dies(*arguments):
        nonlocal left
        left -= 1
        if left < 0:
            raise _Killed
        return original(*arguments)

    with monkeypatch.context() as patch:
        if module:
            original = module[stage]
            patch.setitem(module, stage, dies)
        else:
            original = rendering.Renderer._save
            patch.setattr(rendering.Renderer, stage, lambda *arguments: dies(*arguments))
        with pytest.raises(_Killed):
            make(images, tmp_path / "set")
    incomplete = tmp_path / "set.incomplete"
    assert not (tmp_path / "set").exists()
    for log in incomplete.glob("*.jsonl"):
        log.write_text(log.read_text() + '{"R0')
    (incomplete / "queries" / temporary_name("Q00001.jpg")).write_bytes(b"\xff\xd8")
    times = {path: path.stat().st_mtime_ns for path in incomplete.glob("*/*.jpg")}
    logged = (incomplete / "rendered.jsonl").read_text() if calls != 7 else ""
    screened = []
    real = screening.screen_image
    monkeypatch.setattr(screening, "screen_image", lambda *a: screened.append(a) or real(*a))
    make(images, tmp_path / "set")
    assert len(screened) == (33 if stage == "screen_image" else 0)
    assert content(tmp_path / "set") == content(benchmark_set[0])
    for path, time in times.items():
        if path.stem in logged:  # it is complete and not rendered again
            assert (tmp_path / "set" / path.relative_to(incomplete)).stat().st_mtime_ns == time


def test_what_is_left_of_other_options_is_not_mixed_in(images, tmp_path, monkeypatch):
    def dies(*_, **__):
        raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(benchmark, "_sheet", dies)
        with pytest.raises(_Killed):
            make(images, tmp_path / "set")
    with pytest.raises(ValueError, match=r"set.incomplete was left .* with other max side, seed: .*remove the folder"):
        make(images, tmp_path / "set", replace(SMALL, seed=4, max_side=90))
    fewer = tmp_path / "fewer"
    shutil.copytree(images, fewer)
    next(fewer.iterdir()).unlink()
    with pytest.raises(ValueError, match="with other source, images, list of images"):
        make(fewer, tmp_path / "set")
    (tmp_path / "set.incomplete" / "made_by.json").unlink()
    with pytest.raises(ValueError, match="in the way"):
        make(images, tmp_path / "set")


def test_images_of_an_archive(images, tmp_path):
    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for path in sorted(images.iterdir())[:12]:
            archive.add(path, path.name)
    make(tmp_path / "all.tar", tmp_path / "set", replace(SMALL, max_side=1024))
    assert not (tmp_path / "set" / "originals").exists()
    sources = {f"all/{path.stem}": pixels(Image.open(path)) for path in images.iterdir()}
    plain = rows(tmp_path / "set" / "images.csv")
    assert len(plain) == 7
    for row in plain:
        folder = "training" if row["id"][0] == "T" else "references"
        assert nearest(pixels(Image.open(tmp_path / "set" / folder / f"{row['id']}.jpg")), sources) == row["source"]


def test_files_of_others_are_not_removed(images, tmp_path, monkeypatch):
    """They were put into the folder of an interrupted command."""

    def dies(*_, **__):
        raise _Killed

    with tarfile.open(tmp_path / "all.tar", "w") as archive:
        for path in sorted(images.iterdir())[:12]:
            archive.add(path, path.name)
    theirs = [f"{where}notes{number}.txt" for number, where in enumerate(("", "originals/", "queries/"))]
    for name, options in (("few", replace(SMALL, training=30)), ("set", replace(SMALL, max_side=1024))):
        with monkeypatch.context() as patch:
            patch.setattr(benchmark, "select_images", dies)
            with pytest.raises(_Killed):
                make(tmp_path / "all.tar", tmp_path / name, options)
        for one in theirs:
            (tmp_path / f"{name}.incomplete" / one).write_text("mine")
    with pytest.raises(ValueError, match="too few"):
        make(tmp_path / "all.tar", tmp_path / "few", replace(SMALL, training=30))
    left = [path for path in (tmp_path / "few.incomplete").rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(tmp_path / "few.incomplete")) for path in left) == sorted(theirs)
    make(tmp_path / "all.tar", tmp_path / "set", replace(SMALL, max_side=1024))
    assert [(tmp_path / "set" / one).read_text() for one in theirs] == ["mine"] * 3
    assert [path.name for path in (tmp_path / "set" / "originals").iterdir()] == ["notes1.txt"]


def test_the_command_and_what_it_refuses(images, tmp_path, capsys):
    command = ["benchmark", "make", str(images), "--workers", "1", "--out"]
    few = ["--references", "2", "--training", "1", "--non-copies", "2", "--kinds", "flip", "paste onto"]
    main([*command, str(tmp_path / "set"), *few, "--edits", "1", "2", "--strengths", "weak"])
    assert json.loads(capsys.readouterr().out.split("Look")[0])["copies"] == 6
    assert {row["strength"] for row in rows(tmp_path / "set" / "queries.csv")} == {"weak"}
    recorded = json.loads((tmp_path / "set" / "made_by.json").read_text())
    assert (recorded["seed"], recorded["references"], recorded["edits"]) == (0, 2, [1, 2])
    assert {*recorded["versions"]} == {"sscd_jax", "numpy", "pillow"}

    def fails(*options: str, out: str = "other") -> str:
        with pytest.raises(SystemExit) as stop:
            main([*command, str(tmp_path / out), *options])
        assert stop.value.code == 1
        return capsys.readouterr().err

    assert "already exists: remove it" in fails(out="set")
    assert "--edits 1 3: pass the smallest and the largest number, from 1 to the number of kinds, 1" in fails(
        "--kinds", "flip"
    )
    assert "--edits 3 2" in fails("--edits", "3", "2")
    assert "there is no 'fly'; choose from 'crop'" in fails("--kinds", "fly")
    assert "each only once" in fails("--kinds", "flip", "crop", "flip")
    assert "--non-copies is 1; it must be at least 2, as overlay" in fails("--non-copies", "1")
    assert "--references is 0" in fails("--references", "0")
    assert "--seed is -1" in fails("--seed", "-1")
    assert "--workers is 0" in fails("--workers", "0")
    message = fails("--references", "30", "--training", "20")
    assert "has 40 images, of which 36 are usable" in message
    assert "too few for --references 30 --training 20, as" in message
    assert not (tmp_path / "other.incomplete").exists()
    with pytest.raises(ValueError, match="the folder of the images"):
        make(images, images / "set")


def test_no_other_images_are_needed_where_no_edit_uses_them(images, tmp_path):
    alone = tuple(kind for kind in KINDS if kind not in ("overlay", "paste onto", "collage"))
    counts = make(images, tmp_path / "set", replace(SMALL, kinds=alone, references=3, non_copies=0, training=0))
    assert (counts["copies"], counts["non_copies"]) == (9, 0)
