"""Copydays in the layouts that people have, from folders to a table."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import seeded
from PIL import Image

from sscd_jax import Descriptors
from sscd_jax.cli.main import main
from sscd_jax.data.sources import open_source
from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS
from sscd_jax.datasets.copydays import find, open_images
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.evaluation.copydays import evaluate
from sscd_jax.presets import choose
from sscd_jax.weights.native import write_npz

ORIGINALS, STRONG = 4, 6


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
def official(paths, tmp_path) -> Path:
    """Four originals, a copy of each in every block, and of three of them two strong ones, turned and very small."""
    root = tmp_path / "official"
    for number, path in enumerate(paths[:ORIGINALS]):
        photograph = Image.open(path)
        for block in COPYDAYS_BLOCKS:
            (root / block).mkdir(parents=True, exist_ok=True)
            kind, _, degree = block.partition("/")
            file = root / block / f"{200000 + 100 * number + (kind != 'original')}.jpg"
            if kind == "original":
                shutil.copy(path, file)
            elif kind == "jpegqual":
                photograph.save(file, quality=int(degree))
            elif kind == "crops":
                cut = int(degree) // 3
                photograph.crop((cut, cut, photograph.width, photograph.height)).save(file)
            elif number < 3:
                photograph.rotate(90).save(file)
                photograph.resize((32, 32)).save(file.with_name(f"{200002 + 100 * number}.jpg"), quality=10)
    return root


def unpacked(official: Path, root: Path, *, together: bool) -> Path:
    """The same images as tar leaves the archives, each in a folder of its name or all in one."""
    archives = {"original": ("original", ""), "strong": ("strong", "")} | {
        "jpeg": ("jpegqual", "jpegqual"),
        "crop": ("crops", "crops"),
    }
    for archive, (kind, inside) in archives.items():
        shutil.copytree(
            official / kind, (root if together else root / f"copydays_{archive}") / inside, dirs_exist_ok=True
        )
    return root


def run(*options: str) -> None:
    main(["evaluate", "copydays", "--preset", "skew_320", *options])


def test_the_official_layout(official, paths, weights, network, tmp_path, capsys):
    """The table is that of descriptors made block by block, and nothing is embedded twice."""
    distractors, training = tmp_path / "distractors", tmp_path / "training"
    for folder, some in ((distractors, paths[10:20]), (training, paths[20:])):
        folder.mkdir()
        for path in some:
            shutil.copy(path, folder)
    training_list = tmp_path / "training.txt"
    training_list.write_text("".join(f"training/{path.name}\n" for path in paths[20:]))
    given = ["--root", str(official), "--weights", weights, "--distractors", str(distractors)]
    codecs = ["--codecs", "Flat", "PCA4,L2norm,Flat"]
    run(*given, "--training", str(training_list), *codecs)
    said = capsys.readouterr()
    assert said.out.splitlines()[0].split() == ["codec", "strong_mAP", "overall_uAP", "k"]
    assert "has 82 images; Copydays has 3212\n" in said.err
    folder = official / "descriptors"
    rows = json.loads((folder / "copydays.copydays.json").read_text())
    assert [row["codec"] for row in rows] == ["Flat", "PCA4,L2norm,Flat"]

    def described(source, name: str) -> Descriptors:
        write_descriptors(*network, source, choose("skew_320"), tmp_path / "alone" / name)
        return Descriptors.read(tmp_path / "alone" / name)

    blocks = {
        block: described(open_source(str(official / block)), block.replace("/", "-")) for block in COPYDAYS_BLOCKS
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
    files = sorted(folder.glob("*/vectors-00000.npy"))
    assert [file.parent.name for file in files] == ["copydays", "distractors", "training"]
    before = [file.stat().st_mtime_ns for file in files]
    given[-1] = str(folder / "distractors")
    run(*given, "--training", str(training_list), *codecs, "--out", str(tmp_path / "again.json"))
    assert [file.stat().st_mtime_ns for file in files] == before
    assert json.loads((tmp_path / "again.json").read_text()) == rows
    parts = [f for name in ("copydays", "distractors", "training") for f in (f"--{name}", str(folder / name))]
    main(["evaluate", "copydays", *parts, *codecs, "--out", str(tmp_path / "parts.json")])
    assert json.loads((tmp_path / "parts.json").read_text()) == rows

    # Other distractors do not mix with those that are there.
    given[-1] = str(training)
    with pytest.raises(SystemExit):
        run(*given)
    assert "descriptors/distractors holds descriptors of" in capsys.readouterr().err


@pytest.mark.parametrize("together", [True, False])
def test_as_the_archives_unpack(official, tmp_path, together):
    root = unpacked(official, tmp_path / "inria", together=together)
    (root / "._200000.jpg").write_bytes(b"of a Mac")
    (root / "200001.jpg.part").write_bytes(b"")
    found, expected = (open_images(one, find(one)) for one in (root, official))
    assert list(found.ids) == list(expected.ids)
    assert [found.load(i) for i in range(len(found))] == [expected.load(i) for i in range(len(expected))]


def test_one_level_down(official, tmp_path):
    for kind, folder in (("original", "a"), ("strong", "a"), ("jpegqual", "jpeg"), ("crops", "crop")):
        (tmp_path / "down" / folder).mkdir(parents=True, exist_ok=True)
        shutil.move(official / kind, tmp_path / "down" / folder / kind)
    assert list(find(tmp_path / "down")) == list(COPYDAYS_BLOCKS)
    shutil.copytree(tmp_path / "down" / "a", tmp_path / "down" / "b")
    with pytest.raises(ValueError, match=r"a/original and .*b/original are both the block original of Copydays"):
        find(tmp_path / "down")


def test_originals_and_strong_alone(official, weights, tmp_path, capsys):
    """What Meta's mirror still has."""
    shutil.rmtree(official / "jpegqual")
    shutil.rmtree(official / "crops")
    run("--root", str(official), "--weights", weights, "--descriptors", str(tmp_path / "d"))
    assert "has 10 images; Copydays has 3212; without jpegqual/3, jpegqual/5" in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "d" / "copydays.copydays.json").read_text())
    assert list(row["block_mAP"]) == ["original", "strong"]
    assert not (official / "descriptors").exists()


def test_what_is_missing_is_named(official, weights, tmp_path, capsys):
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(
            ValueError, match=r"no Copydays in .*: looked for images as 200000\.jpg .* original, strong"
        ):
            find(root / "x")
    shutil.rmtree(official / "strong")
    with pytest.raises(ValueError, match=r"no images of the block strong in .* strong, \*/strong, copydays_strong$"):
        find(official)
    root = ["--root", str(official)]
    for options, message in (
        (root, "--root needs --weights"),
        ([*root, "--weights", weights, "--copydays", "x"], "leave out --copydays"),
        (["--copydays", "x", "--weights", weights], "--weights and --descriptors require --root"),
        (["--distractors", "x"], "give --copydays, or --root and --weights"),
        ([*root, "--weights", "nowhere"], "no images of the block strong"),
    ):
        with pytest.raises(SystemExit):
            run(*options)
        assert message in capsys.readouterr().err
    shutil.copytree(official / "jpegqual" / "3", official / "strong")
    with pytest.raises(SystemExit):
        run(*root, "--weights", weights, "--distractors", str(tmp_path / "absent"))
    assert "absent: no such folder or file" in capsys.readouterr().err
