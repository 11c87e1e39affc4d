"""Images that cannot serve are left out, and no more images than needed are read."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from sscd_jax.data.sources import open_source
from sscd_jax.datasets import benchmark, screening
from sscd_jax.datasets.benchmark import Options

SMALL = Options(max_side=80)


def make(images: Path, out: Path, options: Options = SMALL) -> dict[str, int]:
    return benchmark.make(open_source(str(images)), out, options, workers=1)


def test_unusable_and_duplicate_images_are_left_out_and_reported(images, tmp_path, capsys):
    folder = tmp_path / "images"
    shutil.copytree(images, folder)
    one, two = sorted(images.iterdir())[:2]
    shutil.copy(one, folder / "bytes.jpg")
    Image.open(one).save(folder / "pixels.png")
    Image.open(two).save(folder / two.name, comment=b"taken by me", quality=95)
    brighter = Image.open(two).resize((144, 120)).point(lambda level: level * 0.9 + 12)
    brighter.save(folder / "nearly.jpg", quality=60)
    Image.new("RGB", (90, 90), "teal").save(folder / "plain.png")
    Image.linear_gradient("L").save(folder / "gradient.png")
    Image.open(one).resize((63, 70)).save(folder / "small.png")
    Image.open(one).resize((500, 100)).save(folder / "long.png")
    (folder / "text.jpg").write_bytes(b"text")
    (folder / "cut.jpg").write_bytes(one.read_bytes()[:700])
    (folder / "none.jpg").write_bytes(b"")
    turned = Image.open(one).rotate(90, expand=True)
    exif = Image.Exif()
    exif[274] = 6  # upright, it is `one` again
    turned.save(folder / "turned.png", exif=exif)
    counts = make(folder, tmp_path / "set")
    assert (counts["unreadable"], counts["left_out"]) == (3, 4 + 8)
    assert counts["training"] + counts["references"] + counts["non_copies"] == 36
    errors = [json.loads(line) for line in (tmp_path / "set" / "errors.jsonl").read_text().splitlines()]
    assert {error["path"] for error in errors} == {str(folder / name) for name in ("text.jpg", "cut.jpg", "none.jpg")}
    with (tmp_path / "set" / "left_out.csv").open(newline="", encoding="utf-8") as file:
        left_out = {row["source"]: row["reason"] for row in csv.DictReader(file)}
    assert {name: left_out[name] for name in ("plain", "gradient", "small", "long")} == {
        "plain": "too little detail: nearly one color or one gradient",
        "gradient": "too little detail: nearly one color or one gradient",
        "small": "too small: 63 x 70 pixels",
        "long": "longer than 1:4: 500 x 100 pixels",
    }
    assert len(({one.stem, "bytes", "pixels", "turned"}) & {*left_out}) == 3  # the first of them is kept
    assert sum(reason.startswith("the same image as ") for reason in left_out.values()) == 3
    assert len({two.stem, "nearly"} & {*left_out}) == 1
    assert sum(reason.startswith("nearly the same image as ") for reason in left_out.values()) == 1
    assert not any(b"taken by me" in path.read_bytes() for path in (tmp_path / "set").glob("*/*.jpg"))
    printed = capsys.readouterr().err
    assert f"cannot read {folder / 'text.jpg'}: " in printed
    assert "left out 12 unusable or duplicate images: see left_out.csv" in printed


def test_no_more_images_are_read_than_needed(images, tmp_path, monkeypatch):
    screened = []
    real = screening.screen_image
    monkeypatch.setattr(screening, "screen_image", lambda *a: screened.append(a) or real(*a))
    options = replace(SMALL, references=5, training=0, non_copies=2, copies_of_each=2, strengths=("weak",))
    counts = make(images, tmp_path / "set", options)
    assert (counts["references"], counts["training"], counts["copies"], counts["non_copies"]) == (5, 0, 10, 2)
    assert len(screened) == 7


def test_an_incomplete_line_of_a_log_is_dropped(tmp_path):
    log = screening.Log(tmp_path / "log.jsonl")
    log.add({"a": 1})
    with log.path.open("a") as file:
        file.write('{"b": ')
    log = screening.Log(log.path)
    log.add({"c": 3})
    assert screening.Log(log.path).lines == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("module", ["screening", "rendering"])
def test_processes_import_neither_jax_nor_tensorflow(module):
    """`spawn` imports the main module of the command, and that of the function."""
    code = f"import sscd_jax.datasets.{module}, sys; print({{'jax', 'tensorflow'}} & {{*sys.modules}})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
    code = f"import sscd_jax.cli.main; {code}"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
