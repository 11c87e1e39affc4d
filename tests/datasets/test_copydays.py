"""Copydays is found in the layouts that people have."""

import shutil
from pathlib import Path

import pytest
from helpers.set_folders import make_copydays

from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS
from sscd_jax.datasets.copydays import find, open_images


@pytest.fixture
def official(images, tmp_path) -> Path:
    return make_copydays(sorted(images.iterdir()), tmp_path / "official")


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


def test_what_is_missing_is_named(official, tmp_path):
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(
            ValueError, match=r"no Copydays in .*: looked for images such as 200000\.jpg .* original, strong"
        ):
            find(root / "x")
    shutil.rmtree(official / "strong")
    with pytest.raises(ValueError, match=r"no images of the block strong in .* strong, \*/strong, copydays_strong$"):
        find(official)
