"""DISC2021 in the layouts that people have, from folders to a table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import seeded
from PIL import Image

from sscd_jax import Descriptors
from sscd_jax.cli.main import main
from sscd_jax.datasets.disc2021 import find
from sscd_jax.weights.native import write_npz

OFFICIAL = {"queries": "val_query", "references": "val_ref", "training": "training"}
RELEASED = {"references": "references_{}", "training": "train_{}"}


def copy(images: list[Path], folder: Path, form: str, first: int = 0, quality: int | None = None) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [form % (first + number) for number in range(len(images))]
    for path, name in zip(images, names, strict=True):
        if quality:
            Image.open(path).save(folder / f"{name}.jpg", quality=quality)
        else:
            shutil.copy(path, folder / f"{name}.jpg")
    return names


@pytest.fixture
def paths(images) -> list[Path]:
    return sorted(images.iterdir())


@pytest.fixture
def weights(tmp_path) -> str:
    write_npz(tmp_path / "w.npz", *seeded("resnet18"), {})
    return str(tmp_path / "w.npz")


@pytest.fixture
def official(paths, tmp_path) -> Path:
    """Ten queries, of which six are copies, and twenty references."""
    root = tmp_path / "official"
    copy(paths[:20], root / "val_ref", "R%06d")
    copy([*paths[:6], *paths[20:24]], root / "val_query", "Q%05d", quality=90)
    copy(paths[24:], root / "training", "T%06d")
    rows = [f"Q{i:05d},R{i:06d}" for i in range(6)]
    (root / "val_groundtruth_matches.csv").write_text("\n".join(["query_id,reference_id", *rows]) + "\n")
    return root


@pytest.fixture
def released(paths, tmp_path) -> Path:
    """Development and test queries in parts, ground truth without a header, and queries without a match in it."""
    root = tmp_path / "released"
    for part in range(2):
        copy(paths[10 * part : 10 * part + 10], root / f"references_{part}", "R%06d", first=10 * part)
        copy(paths[24 + 8 * part : 32 + 8 * part], root / f"train_{part}", "T%06d", first=8 * part)
    for name, first, shift in (("dev", 0, 0), ("test", 50000, 10)):
        copy(
            [*paths[shift : shift + 6], *paths[20:24]], root / f"{name}_queries_50k_0", "Q%05d", first=first, quality=90
        )
        rows = [f"Q{first + i:05d}," + (f"R{shift + i:06d}" if i < 6 else "") for i in range(10)]
        (root / f"{name}_queries_groundtruth.csv").write_text("\n".join(rows) + "\n")
    return root


def test_the_official_layout(official, weights, capsys):
    main(["evaluate", "disc", "--root", str(official), "--weights", weights, "--preset", "skew_320"])
    said = capsys.readouterr().out
    assert "global" in said
    rows = json.loads((official / "descriptors" / "val.disc.json").read_text())
    assert {(row["score_norm"], row["candidates"]) for row in rows} == {
        (norm, rule) for norm in (None, "1.0[0,2]") for rule in ("per_query", "global")
    }
    assert rows[0]["accuracy_at_1"] == 1.0, "copies of quality 90 are found by any network"
    queries = Descriptors.read(official / "descriptors" / "val-queries")
    assert list(queries.ids) == [f"Q{i:05d}" for i in range(10)]

    # Again: nothing is embedded twice, and the result is the same as from the descriptors.
    vectors = official / "descriptors" / "val-references" / "vectors-00000.npy"
    before = vectors.stat().st_mtime_ns
    main(["evaluate", "disc", "--root", str(official), "--weights", weights, "--preset", "skew_320"])
    assert vectors.stat().st_mtime_ns == before
    folders = [f for part in OFFICIAL for f in (f"--{part}", str(official / "descriptors" / f"val-{part}"))]
    truth = ["--ground-truth", str(official / "val_groundtruth_matches.csv"), "--out", str(official / "again.json")]
    main(["evaluate", "disc", *folders, *truth])
    assert json.loads((official / "again.json").read_text()) == [r for r in rows if r["candidates"] == "per_query"]


def test_the_released_files_in_parts(released, weights, tmp_path, capsys):
    with pytest.raises(ValueError, match="has the splits dev, test: choose one by --split"):
        find(released)
    options = [
        "--root",
        str(released),
        "--weights",
        weights,
        "--preset",
        "skew_320",
        "--descriptors",
        str(tmp_path / "d"),
    ]
    for split in ("dev", "test"):
        main(["evaluate", "disc", *options, "--split", split])
        rows = json.loads((tmp_path / "d" / f"{split}.disc.json").read_text())
        assert rows[0]["accuracy_at_1"] == 1.0
    assert sorted(p.name for p in (tmp_path / "d").iterdir() if p.is_dir()) == [
        *("dev-queries", "dev.disc", "references", "test-queries", "test.disc", "training"),
    ]
    assert len(Descriptors.read(tmp_path / "d" / "references").ids) == 20
    assert np.array_equal(Descriptors.read(tmp_path / "d" / "training").ids, [f"T{i:06d}" for i in range(16)]), (
        "parts are one set"
    )


def test_without_training_images(official, weights):
    shutil.rmtree(official / "training")
    main(["evaluate", "disc", "--root", str(official), "--weights", weights, "--preset", "skew_320"])
    rows = json.loads((official / "descriptors" / "val.disc.json").read_text())
    assert [(row["codec"], row["score_norm"]) for row in rows] == [("Flat", None)] * 2


def test_an_image_that_cannot_be_read_is_left_out(official, weights, capsys):
    (official / "val_query" / "Q00003.jpg").write_bytes(b"no image")
    main(["evaluate", "disc", "--root", str(official), "--weights", weights, "--preset", "skew_320"])
    said = capsys.readouterr().err
    assert "1 pairs of the ground truth are left out, as Q00003,R00000" in said
    rows = json.loads((official / "descriptors" / "val.disc.json").read_text())
    assert rows[0]["accuracy_at_1"] == 1.0


def test_what_is_missing_is_named(official, released, weights, tmp_path, capsys):
    with pytest.raises(ValueError, match=r"no DISC2021 in .*: looked for val_groundtruth_matches\.csv, dev_queries_g"):
        find(tmp_path)
    shutil.rmtree(official / "val_ref")
    with pytest.raises(ValueError, match="has no references of the split val: looked for val_ref"):
        find(official)
    with pytest.raises(ValueError, match="has no ground_truth of the split val"):
        find(released, "val")
    for options, message in (
        (["--root", str(released)], "--root needs --weights"),
        (["--root", str(released), "--weights", weights, "--queries", "x"], "leave out --queries"),
        (["--queries", "x"], "give --queries, --references and --ground-truth, or --root and --weights"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", "disc", *options])
        assert message in capsys.readouterr().err
