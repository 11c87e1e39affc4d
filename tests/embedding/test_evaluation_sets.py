"""DISC2021 and Copydays from the folders that people have to a table, by the commands."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import seeded
from helpers.set_folders import ORIGINALS, STRONG, make_copydays, make_released_files, make_validation_set

from sscd_jax import Descriptors
from sscd_jax.cli.main import main
from sscd_jax.data.sources import open_source
from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.evaluation.copydays import evaluate
from sscd_jax.presets import choose
from sscd_jax.weights.native import write_npz

PARTS = ("queries", "references", "training")


@pytest.fixture
def network():
    return seeded("resnet18")


@pytest.fixture
def weights(network, tmp_path) -> str:
    write_npz(tmp_path / "w.npz", *network, {})
    return str(tmp_path / "w.npz")


@pytest.fixture
def paths(images) -> list[Path]:
    return sorted(images.iterdir())


@pytest.fixture
def copydays(paths, tmp_path) -> Path:
    return make_copydays(paths, tmp_path / "official")


@pytest.fixture
def validation(paths, tmp_path) -> Path:
    return make_validation_set(paths, tmp_path / "official")


@pytest.fixture
def released(paths, tmp_path) -> Path:
    return make_released_files(paths, tmp_path / "released")


def run_copydays(*options: str) -> None:
    main(["evaluate", "copydays", "--preset", "skew_320", *options])


@pytest.mark.slow
def test_copydays(copydays, paths, weights, network, tmp_path, capsys):
    """The table is that of descriptors made block by block, and nothing is embedded twice."""
    distractors, training = tmp_path / "distractors", tmp_path / "training"
    for folder, some in ((distractors, paths[10:20]), (training, paths[20:])):
        folder.mkdir()
        for path in some:
            shutil.copy(path, folder)
    training_list = tmp_path / "training.txt"
    training_list.write_text("".join(f"training/{path.name}\n" for path in paths[20:]))
    given = ["--root", str(copydays), "--weights", weights, "--distractors", str(distractors)]
    codecs = ["--codecs", "Flat", "PCA4,L2norm,Flat"]
    run_copydays(*given, "--training", str(training_list), *codecs)
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["codec", "strong_mAP", "overall_uAP", "k"]
    assert "has 82 images; Copydays has 3212\n" in said.err
    folder = copydays / "descriptors"
    rows = json.loads((folder / "copydays.copydays.json").read_text())
    assert [row["codec"] for row in rows] == ["Flat", "PCA4,L2norm,Flat"]

    def described(source, name: str) -> Descriptors:
        write_descriptors(*network, source, choose("skew_320"), tmp_path / "alone" / name)
        return Descriptors.read(tmp_path / "alone" / name)

    blocks = {
        block: described(open_source(str(copydays / block)), block.replace("/", "-")) for block in COPYDAYS_BLOCKS
    }
    ids = [f"{block}/{one}" for block, some in blocks.items() for one in some.ids]
    vectors = np.concatenate([some.vectors for some in blocks.values()])
    alone = Descriptors(ids, vectors, blocks["strong"].provenance)
    others = [described(open_source(str(one)), one.name) for one in (distractors, training)]
    assert len(ids) == 19 * ORIGINALS + STRONG
    expected = evaluate(alone, *others, codecs=["Flat", "PCA4,L2norm,Flat"])
    for row, other in zip(rows, expected, strict=True):
        assert list(row["block_mAP"]) == list(COPYDAYS_BLOCKS)
        for name in ("strong_mAP", "overall_uAP"):
            assert row[name] == pytest.approx(other[name], abs=1e-6), name
    assert rows[0]["block_mAP"]["jpegqual/75"] == 1.0, "copies of quality 75 are found by any network"

    # Again, with descriptors for distractors: what is there stays, though it is in the root.
    files = sorted(folder.glob("*/vectors-00000-*.npy"))
    assert [file.parent.name for file in files] == ["copydays", "distractors", "training"]
    before = [file.stat().st_mtime_ns for file in files]
    given[-1] = str(folder / "distractors")
    run_copydays(*given, "--training", str(training_list), *codecs, "--out", str(tmp_path / "again.json"))
    assert [file.stat().st_mtime_ns for file in files] == before
    assert json.loads((tmp_path / "again.json").read_text()) == rows
    parts = [f for name in ("copydays", "distractors", "training") for f in (f"--{name}", str(folder / name))]
    main(["evaluate", "copydays", *parts, *codecs, "--out", str(tmp_path / "parts.json")])
    assert json.loads((tmp_path / "parts.json").read_text()) == rows

    # Other distractors do not mix with those that are there.
    given[-1] = str(training)
    with pytest.raises(SystemExit):
        run_copydays(*given)
    assert "descriptors/distractors holds descriptors of" in capsys.readouterr().err


def test_copydays_of_originals_and_strong_copies_alone(copydays, weights, tmp_path, capsys):
    """What Meta's mirror still has."""
    shutil.rmtree(copydays / "jpegqual")
    shutil.rmtree(copydays / "crops")
    run_copydays("--root", str(copydays), "--weights", weights, "--descriptors", str(tmp_path / "d"))
    assert "has 10 images; Copydays has 3212; without jpegqual/3, jpegqual/5" in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "d" / "copydays.copydays.json").read_text())
    assert list(row["block_mAP"]) == ["original", "strong"]
    assert not (copydays / "descriptors").exists()


def test_options_for_copydays_that_do_not_go_together(copydays, weights, tmp_path, capsys):
    shutil.rmtree(copydays / "strong")
    root = ["--root", str(copydays)]
    for options, message in (
        (root, "--root needs --weights"),
        ([*root, "--weights", weights, "--copydays", "x"], "leave out --copydays"),
        (["--copydays", "x", "--weights", weights], "--weights and --descriptors require --root"),
        (["--distractors", "x"], "give --copydays, or --root and --weights"),
        ([*root, "--weights", "nowhere"], "no images of the block strong"),
    ):
        with pytest.raises(SystemExit):
            run_copydays(*options)
        assert message in capsys.readouterr().err
    shutil.copytree(copydays / "jpegqual" / "3", copydays / "strong")
    with pytest.raises(SystemExit):
        run_copydays(*root, "--weights", weights, "--distractors", str(tmp_path / "absent"))
    assert "absent: no such folder or file" in capsys.readouterr().err


@pytest.mark.slow
def test_disc(validation, weights, capsys):
    main(["evaluate", "disc", "--root", str(validation), "--weights", weights, "--preset", "skew_320"])
    said = capsys.readouterr()
    assert "global" in said.out
    assert all(f"embed val-{part}:" in said.err for part in PARTS), "each bar says what is embedded"
    rows = json.loads((validation / "descriptors" / "val.disc.json").read_text())
    assert {(row["score_norm"], row["candidates"]) for row in rows} == {
        (norm, rule) for norm in (None, "1.0[0,2]") for rule in ("per_query", "global")
    }
    assert rows[0]["accuracy_at_1"] == 1.0, "copies of quality 90 are found by any network"
    queries = Descriptors.read(validation / "descriptors" / "val-queries")
    assert list(queries.ids) == [f"Q{i:05d}" for i in range(10)]

    # Again: nothing is embedded twice, and the result is the same as from the descriptors.
    (vectors,) = (validation / "descriptors" / "val-references").glob("vectors-00000-*.npy")
    before = vectors.stat().st_mtime_ns
    main(["evaluate", "disc", "--root", str(validation), "--weights", weights, "--preset", "skew_320"])
    assert vectors.stat().st_mtime_ns == before
    folders = [f for part in PARTS for f in (f"--{part}", str(validation / "descriptors" / f"val-{part}"))]
    truth = ["--ground-truth", str(validation / "val_groundtruth_matches.csv"), "--out", str(validation / "again.json")]
    main(["evaluate", "disc", *folders, *truth])
    assert json.loads((validation / "again.json").read_text()) == [r for r in rows if r["candidates"] == "per_query"]


@pytest.mark.slow
def test_released_files_of_disc_in_parts(released, weights, tmp_path, capsys):
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


@pytest.mark.slow
def test_disc_without_training_images(validation, weights):
    shutil.rmtree(validation / "training")
    main(["evaluate", "disc", "--root", str(validation), "--weights", weights, "--preset", "skew_320"])
    rows = json.loads((validation / "descriptors" / "val.disc.json").read_text())
    assert [(row["codec"], row["score_norm"]) for row in rows] == [("Flat", None)] * 2


@pytest.mark.slow
def test_a_query_that_cannot_be_read_is_left_out(validation, weights, capsys):
    (validation / "val_query" / "Q00003.jpg").write_bytes(b"no image")
    main(["evaluate", "disc", "--root", str(validation), "--weights", weights, "--preset", "skew_320"])
    said = capsys.readouterr().err
    assert "1 pairs of the ground truth are left out, such as Q00003,R00000" in said
    rows = json.loads((validation / "descriptors" / "val.disc.json").read_text())
    assert rows[0]["accuracy_at_1"] == 1.0


def test_options_for_disc_that_do_not_go_together(released, weights, capsys):
    for options, message in (
        (["--root", str(released)], "--root needs --weights"),
        (["--root", str(released), "--weights", weights, "--queries", "x"], "leave out --queries"),
        (["--queries", "x"], "give --queries, --references and --ground-truth, or --root and --weights"),
    ):
        with pytest.raises(SystemExit):
            main(["evaluate", "disc", *options])
        assert message in capsys.readouterr().err
