"""DISC2021 and Copydays as TFDS data sets, built from small trees of the same layout and read as sources."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from helpers.networks import seeded

from sscd_jax import Descriptors
from sscd_jax.data.image_source import check_unique_ids
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.presets import choose

with tfds.core.registered.skip_registration():  # as for a reader, to whom TFDS knows of them by their files alone
    from sscd_jax.datasets.tfds_copydays import Copydays
    from sscd_jax.datasets.tfds_disc2021 import Disc2021

BROKEN = b"\xff\xd8\xff no image"


@pytest.fixture
def paths(images) -> list[Path]:
    return sorted(images.iterdir())


def copy(paths: list[Path], folder: Path, form: str, first: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths, first):
        shutil.copy(path, folder / f"{form % number}.jpg")


@pytest.fixture
def disc(paths, tmp_path) -> Path:
    """References and training images in parts, development and test queries of which one is no image."""
    root = tmp_path / "disc"
    for part in range(2):
        copy(paths[10 * part : 10 * part + 10], root / f"references_{part}", "R%06d", first=10 * part)
        copy(paths[20 + 8 * part : 28 + 8 * part], root / f"train_{part}", "T%06d", first=8 * part)
        (root / f"references_{part}.zip").write_bytes(b"as downloaded")
    copy(paths[:4], root / "dev_queries", "Q%05d")
    (root / "dev_queries" / "Q00004.jpg").write_bytes(BROKEN)
    (root / "dev_queries_groundtruth.csv").write_text("Q00000,R000000\nQ00001,R000001\nQ00000,R000012\nQ00003,\n")
    copy(paths[:2], root / "test_queries", "Q%05d", first=50000)
    (root / "test_queries_groundtruth.csv").write_text("Q50000,\nQ50001,R000001\n")
    return root


@pytest.fixture
def copydays(paths, tmp_path) -> Path:
    root = tmp_path / "copydays"
    for number, path in enumerate(paths[:3]):
        copy([path], root / "original", "%d", first=200000 + 100 * number)
        copy([path, path], root / "strong", "%d", first=200001 + 100 * number)
        copy([path], root / "jpegqual" / "3", "%d", first=200000 + 100 * number)
    return root


def build(builder: type, root: Path, out: Path, file_format: str = "array_record", shards: int = 2):
    made = builder(data_dir=str(out), file_format=file_format)
    made.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(root), num_shards=shards, try_download_gcs=False)
    )
    return made


def examples(builder, split: str) -> dict[str, dict]:
    """By the image_id; images are encoded."""
    found = builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
    return {one["image_id"].decode(): one for one in found}


def test_disc(disc, tmp_path):
    builder = build(Disc2021, disc, tmp_path / "out")
    counts = {name: split.num_examples for name, split in builder.info.splits.items()}
    assert counts == {"train": 16, "references": 20, "dev_queries": 5, "test_queries": 2}
    for split in counts:
        stem = {"dev_queries": "dev_queries", "test_queries": "test_queries"}.get(split, f"{split}_*[0-9]")
        files = {path.stem: path.read_bytes() for path in disc.glob(f"{stem}/*.jpg")}
        assert {name: one["image"] for name, one in examples(builder, split).items()} == files
    references = {name: list(one["reference_ids"]) for name, one in examples(builder, "dev_queries").items()}
    assert references == {
        "Q00000": [b"R000000", b"R000012"],
        "Q00001": [b"R000001"],
        **{name: [] for name in ("Q00002", "Q00003", "Q00004")},
    }
    assert not any(len(one["reference_ids"]) for one in examples(builder, "references").values())
    assert "2106.09672" in builder.info.citation
    assert builder.as_data_source("references")[0]["image"].shape == (80, 96, 3)


def test_disc_as_the_official_code_has_it(disc, tmp_path):
    official = tmp_path / "official"
    for mine, theirs in (("dev_queries", "val_query"), ("references_0", "val_ref"), ("train_0", "training")):
        shutil.copytree(disc / mine, official / theirs)
    truth = official / "val_groundtruth_matches.csv"
    truth.write_text("query_id,reference_id\nQ00002,R000002\n")
    builder = build(Disc2021, official, tmp_path / "out")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        **{"train": 8, "references": 10, "val_queries": 5}
    }
    assert examples(builder, "val_queries")["Q00002"]["reference_ids"] == [b"R000002"]
    truth.write_text("query_id,reference_id\nQ00002,R000002\nQ77777,R000002\n")
    with pytest.raises(ValueError, match=r"1 queries of .*matches\.csv are not in .*val_query, such as Q77777"):
        build(Disc2021, official, tmp_path / "other")
    shutil.copytree(disc / "references_1", official / "references")
    truth.write_text("query_id,reference_id\nQ00002,R000002\n")
    with pytest.raises(ValueError, match=r"val_ref and .*references are both references of DISC2021"):
        build(Disc2021, official, tmp_path / "other")


def test_what_disc_lacks_is_named(disc, tmp_path):
    with pytest.raises(AssertionError, match="absent does not exist or is empty"):
        build(Disc2021, tmp_path / "absent", tmp_path / "out")
    (tmp_path / "else" / "photos").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"no DISC2021 in .*else: looked for .*references, .*train, "):
        build(Disc2021, tmp_path / "else", tmp_path / "out")
    (disc / "test_queries_groundtruth.csv").unlink()
    with pytest.raises(ValueError, match="has no ground_truth of the split test: looked for test_queries_groundtruth"):
        build(Disc2021, disc, tmp_path / "out")
    shutil.rmtree(disc / "test_queries")
    for part in range(2):
        shutil.rmtree(disc / f"references_{part}")
    with pytest.raises(ValueError, match="has no references of the split dev"):
        build(Disc2021, disc, tmp_path / "out")
    shutil.copy(disc / "train_0" / "T000000.jpg", disc / "train_1")
    shutil.rmtree(disc / "dev_queries")
    (disc / "dev_queries_groundtruth.csv").unlink()
    with pytest.raises(ValueError, match=r"T000000\.jpg and .*T000000\.jpg have the same id"):
        build(Disc2021, disc, tmp_path / "out")
    (disc / "train_1" / "T000000.jpg").unlink()
    assert list(build(Disc2021, disc, tmp_path / "out").info.splits) == ["train"], "training images may be alone"


def test_copydays(copydays, tmp_path):
    builder = build(Copydays, copydays, tmp_path / "out")
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        **{"original": 3, "strong": 6, "jpegqual_3": 3}
    }
    for split, block in (("original", "original"), ("strong", "strong"), ("jpegqual_3", "jpegqual/3")):
        found = examples(builder, split)
        assert {name: one["image"] for name, one in found.items()} == {
            f"{block}/{path.stem}": path.read_bytes() for path in (copydays / block).iterdir()
        }
        for name, one in found.items():
            assert one["original_id"].decode() == f"original/{name.split('/')[-1][:4]}00"
    assert "CIVR" in builder.info.citation
    shutil.copy(copydays / "strong" / "200001.jpg", copydays / "strong" / "209901.jpg")
    with pytest.raises(ValueError, match=r"209901\.jpg has no original"):
        build(Copydays, copydays, tmp_path / "other")
    shutil.rmtree(copydays / "original")
    with pytest.raises(ValueError, match="no images of the block original in"):
        build(Copydays, copydays, tmp_path / "other")


@pytest.mark.slow
@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_as_a_source(disc, tmp_path, file_format, capsys):
    """Ids are the images' own; training does not read them."""
    folder = Path(build(Disc2021, disc, tmp_path / "out", file_format).data_dir) / "sscd_jax"

    def opened(split: str):
        return open_source("tfds:disc2021", split=split, data_dir=str(tmp_path / "out"))

    training = opened("train")
    options = {"batch_size": 8, "image_size": 32, "augmentation": "SIMCLR", "seed": 0, "start_step": 0}
    assert len(list(train_batches(training, **options).take(2))) == 2
    assert not list(folder.glob("*.txt"))
    assert sorted(training.ids) == [f"T{i:06d}" for i in range(16)]

    for split, parts in (("references", ["references_0", "references_1"]), ("references[:50%]", []), ("all", [])):
        source = opened(split)
        files = {path.stem: path.read_bytes() for path in disc.glob("*/*.jpg")}
        assert [source.load(i) for i in range(len(source))] == [files[one] for one in source.ids]
        if parts:
            assert set(source.ids) == {path.stem for part in parts for path in (disc / part).iterdir()}
        check_unique_ids(source)
    assert len(opened("all")) == 43
    assert len(opened("references[:50%]")) == 10
    before = list(opened("references").ids)
    assert "reading the image_id" in capsys.readouterr().err
    assert list(opened("references").ids) == before
    assert "reading the image_id" not in capsys.readouterr().err, "once"
    with pytest.raises(ValueError, match="has no split queries; it has "):
        opened("queries")


def test_in_a_read_only_folder_ids_are_read_again(disc, tmp_path, monkeypatch):
    build(Disc2021, disc, tmp_path / "out")

    def refuse(*_, **__):
        raise PermissionError("read only")

    source = open_source("tfds:disc2021", data_dir=str(tmp_path / "out"))
    monkeypatch.setattr(type(source.ids._file), "mkdir", refuse)
    assert sorted(source.ids)[0] == "T000000"
    assert not source.ids._file.exists()


class Repeated(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set whose image_id is not one image's."""

    VERSION = tfds.core.Version("1.0.0")
    PATH: Path

    def _info(self):
        features = {"image_id": tfds.features.Text(), "image": tfds.features.Image()}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": ((i, {"image_id": "twice", "image": str(self.PATH)}) for i in range(2))}

    def _generate_examples(self):
        raise AssertionError("not called")


def test_ids_that_are_not_unique_are_numbers(paths, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Repeated, "PATH", paths[0], raising=False)
    Repeated(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    source = open_source("tfds:repeated", data_dir=str(tmp_path))
    assert list(source.ids) == ["train/00000000", "train/00000001"]
    assert "image_id is not unique" in capsys.readouterr().err


def test_a_broken_image_is_reported_when_embedding(disc, tmp_path):
    build(Disc2021, disc, tmp_path / "out")
    source = open_source("tfds:disc2021", split="dev_queries", data_dir=str(tmp_path / "out"))
    network = seeded("resnet18")
    summary = write_descriptors(*network, source, choose("skew_320"), tmp_path / "d")
    assert (summary["embedded"], summary["unreadable"]) == (4, 1)
    write_descriptors(*network, open_source(str(disc / "dev_queries")), choose("skew_320"), tmp_path / "files")
    mine, theirs = Descriptors.read(tmp_path / "d"), Descriptors.read(tmp_path / "files")
    order = np.argsort(mine.ids)
    assert [mine.ids[i] for i in order] == list(theirs.ids) == [f"Q{i:05d}" for i in range(4)]
    np.testing.assert_allclose(mine.vectors[order], theirs.vectors, atol=1e-6)


RUN = """
import shlex, sys, simple_parsing
from tensorflow_datasets.scripts.cli import build  # the command itself needs mlcroissant
simple_parsing.parse(build.Args, args=sys.argv[1:]).execute()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "split", "count"), [("disc2021", "train", 16), ("copydays", "strong", 6)])
def test_what_is_not_prepared_says_how(request, tmp_path, name, split, count):
    """The command in the message prepares the data set."""
    root = request.getfixturevalue("disc" if name == "disc2021" else "copydays")
    with pytest.raises(
        ValueError, match=f"{name} is not prepared in {tmp_path}/out: tfds build {name} --file"
    ) as error:
        open_source(f"tfds:{name}", split=split, data_dir=f"{tmp_path}/out")
    command = str(error.value).split(": ", 1)[1].split("; ")[0].replace(" DIR", f" {root}")
    program, verb, *arguments = shlex.split(command)
    assert (program, verb) == ("tfds", "build")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", RUN, *arguments], check=True, env=environment, cwd=tmp_path)
    assert len(open_source(f"tfds:{name}", split=split, data_dir=f"{tmp_path}/out")) == count
