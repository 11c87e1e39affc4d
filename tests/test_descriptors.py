"""Descriptors on disk: read as written, or an error that names the file."""

import json
import re

import numpy as np
import pytest
from etils import epath

from sscd_jax.descriptors import Descriptors, check_same_provenance, load_npy
from sscd_jax.provenance import Provenance

MADE_BY = Provenance("f" * 64, "skew_320", {"size": 320})


def some(count: int = 10) -> Descriptors:
    vectors = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    return Descriptors([f"folder/ä {i}" for i in range(count)], vectors, MADE_BY)


def assert_same(one: Descriptors, other: Descriptors) -> None:
    assert list(one.ids) == list(other.ids)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    assert one.provenance == other.provenance
    assert one.provenance.details == other.provenance.details


def test_round_trip(tmp_path):
    some().write(tmp_path / "d")
    read = Descriptors.read(tmp_path / "d")
    assert_same(read, some())
    assert isinstance(read.vectors, np.memmap)
    assert read.vectors.dtype == np.float32


def test_writing_replaces_descriptors_and_nothing_else(tmp_path):
    some(3).write(tmp_path / "d")
    some(5).write(tmp_path / "d")
    assert len(Descriptors.read(tmp_path / "d").ids) == 5
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"not a folder of sscd_jax descriptors: it holds a\.jpg"):
        some().write(tmp_path / "photos")
    assert (tmp_path / "photos" / "a.jpg").exists()
    (tmp_path / "d" / "src").mkdir()
    (tmp_path / "d" / "src" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"src/thesis\.txt is in the way: this package did not write it"):
        some().write(tmp_path / "d")
    assert (tmp_path / "d" / "src" / "thesis.txt").read_text() == "mine"
    assert len(Descriptors.read(tmp_path / "d").ids) == 5
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "manifest.json").write_text('{"name": "a web application"}')
    with pytest.raises(ValueError, match="not a folder of sscd_jax descriptors"):
        some().write(tmp_path / "app")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file, not a folder"):
        some().write(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    some(3).write(tmp_path / "d")

    def full(*_, **__):
        raise OSError("the disk is full")

    monkeypatch.setattr("sscd_jax.descriptors.write_npy", full)
    with pytest.raises(OSError, match="full"):
        some(5).write(tmp_path / "d")
    assert len(Descriptors.read(tmp_path / "d").ids) == 3
    with pytest.raises(ValueError, match="no descriptors to write"):
        Descriptors([], np.zeros((0, 4), np.float32), MADE_BY).write(tmp_path / "e")


def test_what_is_no_folder_of_descriptors(tmp_path):
    (tmp_path / "r.npy").touch()
    with pytest.raises(ValueError, match=r"r\.npy is a file: give the folder of descriptors"):
        Descriptors.read(tmp_path / "r.npy")
    (tmp_path / "vectors.npy").write_bytes(b"not numpy's" * 20)
    with pytest.raises(ValueError, match=r"it does not begin like an \.npy file"):
        load_npy(epath.Path(tmp_path / "vectors.npy"))


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("vectors-00000-*.npy", lambda p: p.unlink()),
        ("vectors-00000-*.npy", lambda p: p.write_bytes(p.read_bytes()[:-20])),
        ("vectors-00000-*.npy", lambda p: p.write_bytes(p.read_bytes()[:-20] + b"x" * 20)),
        ("vectors-00000-*.npy", lambda p: np.save(p, np.array([{}], object), allow_pickle=True)),
        ("ids-00000-*.txt", lambda p: p.unlink()),
        ("ids-00000-*.txt", lambda p: p.write_bytes(p.read_bytes()[::-1])),
        ("manifest.json", lambda p: p.unlink()),
        ("manifest.json", lambda p: p.write_text("{")),
        ("manifest.json", lambda p: p.write_text("{}")),
    ],
)
def test_damaged_files_are_named(tmp_path, file, damage):
    some().write(tmp_path / "d")
    (path,) = (tmp_path / "d").glob(file)
    damage(path)
    with pytest.raises(ValueError, match=re.escape(path.name)):
        Descriptors.read(tmp_path / "d")


def test_counts_that_differ_from_the_manifest_are_an_error(tmp_path):
    some().write(tmp_path / "d")
    manifest = json.loads((tmp_path / "d" / "manifest.json").read_text())
    for change, message in [
        ({"count": 11}, "it contradicts itself"),
        ({"count": 11, "shards": [manifest["shards"][0] | {"count": 11}]}, "has 10 ids"),
        ({"dims": 5}, r"manifest says float32 \[10, 5\]"),
        ({"dtype": "float16"}, "manifest says float16"),
    ]:
        (tmp_path / "d" / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(ValueError, match=message):
            Descriptors.read(tmp_path / "d")


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a"], np.zeros((2, 3), np.float32), "1 ids for 2"),
        (["a", "a"], np.zeros((2, 3), np.float32), "the id a occurs more than once"),
        (["a"], np.zeros((1, 3)), "float32"),
        (["a", "b"], np.array([[0], [np.nan]], np.float32), "vector of b is not finite"),
    ],
)
def test_what_does_not_belong_together_is_refused(ids, vectors, message):
    with pytest.raises(ValueError, match=message):
        Descriptors(ids, vectors, MADE_BY)


def test_line_breaks_in_ids_are_refused(tmp_path):
    with pytest.raises(ValueError, match="line break"):
        Descriptors(["a\nb"], np.zeros((1, 3), np.float32), MADE_BY).write(tmp_path / "d")


def test_provenance():
    other = Descriptors(["a"], np.zeros((1, 4), np.float32), Provenance("e" * 64, "skew_320"))
    check_same_provenance(queries=some(), references=some())
    with pytest.raises(ValueError, match=r"queries are of weights f{12}.*references are of weights e{12}"):
        check_same_provenance(queries=some(), references=other)


def test_files_that_the_manifest_may_not_name(tmp_path):
    some().write(tmp_path / "d")
    made = json.loads((tmp_path / "d" / "manifest.json").read_text())
    made["shards"][0]["ids"]["file"] = "../secret.txt"
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(made))
    with pytest.raises(ValueError, match="it names files that are not those of descriptors"):
        Descriptors.read(tmp_path / "d")


def test_another_version_is_said(tmp_path):
    some().write(tmp_path / "d")
    made = json.loads((tmp_path / "d" / "manifest.json").read_text())
    (tmp_path / "d" / "manifest.json").write_text(json.dumps(made | {"version": 4}))
    with pytest.raises(ValueError, match="version 4, not 3"):
        Descriptors.read(tmp_path / "d")
    with pytest.raises(ValueError, match="version 4, which this version of the package does not write"):
        some().write(tmp_path / "d")
