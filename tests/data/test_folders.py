"""What is in folders: images by their extensions or first bytes, each once, and a line about what is left out."""

import os
import re
import shutil

import pytest
from helpers.mutations import KINDS, MUTABLE, PHOTOGRAPH, encoded

from sscd_jax.data.folders import is_image, list_folder
from sscd_jax.data.sources import open_source


@pytest.fixture
def jpeg(images) -> bytes:
    return min(images.iterdir()).read_bytes()


@pytest.mark.parametrize("name", KINDS)
def test_images_are_known_by_their_first_bytes(name):
    assert is_image(MUTABLE[name][:32])


@pytest.mark.parametrize("fmt", ["JPEG2000", "PPM", "DIB", "MPO"])
def test_other_formats(fmt):
    assert is_image(encoded(PHOTOGRAPH, fmt)[:32]) == (fmt != "DIB"), "a DIB begins with a small number only"


@pytest.mark.parametrize("head", [b"", b"BMW cars", b"P2P networks", b"\0" * 32, b"<svg>", b"%PDF", b"RIFF____WAVE"])
def test_other_files_are_not_images(head):
    assert not is_image(head)


def test_files_with_unknown_extensions_are_looked_at_and_what_is_left_out_is_said_once(jpeg, tmp_path, capsys):
    for name in ("a.jpg", "b", "c.2019", "d.jpg_large", "e.JPG~", ".f.jpg", ".hidden", "g.nef", "h.dat"):
        (tmp_path / name).write_bytes(b"data" if name == "h.dat" else jpeg)
    for name in ("notes.txt", "captions.json", "movie.mp4"):
        (tmp_path / name).write_text("text")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe")
    os.symlink("absent", tmp_path / "broken")
    os.symlink("absent.jpg", tmp_path / "gone.jpg")
    source = open_source(str(tmp_path))
    assert source.ids == [".f", "a", "b", "c.2019", "d.jpg_large", "e.JPG~", "gone"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path}: 9 files are left out: not an image by its extension (3, such as ")
    for part in (
        r"not a regular file \(2, such as pipe",
        r"hidden, without an extension of an image \(1, such as \.hidden\)",
        r"a raw file of a camera, which must be converted first \(1, such as g\.nef\)",
        r"not an image by its first bytes \(1, such as h\.dat\)",
        r"without an extension of an image, and cannot be opened \(1, such as broken\)",
    ):
        assert re.search(part, line), line
    with pytest.raises(FileNotFoundError):
        source.load(6)


def test_stores_are_searched_by_extension(jpeg, tmp_path, capsys):
    for name in ("a.jpg", "b", "c.txt"):
        (tmp_path / name).write_bytes(jpeg)
    assert open_source(f"file://{tmp_path}").ids == ["a"]
    assert "2 files are left out: without an extension of an image, and files in a store" in capsys.readouterr().err


def test_each_folder_is_entered_once(jpeg, tmp_path):
    """Two links each way, as in issue 22: each way around gave new paths, without end."""
    for side, other in (("left", "right"), ("right", "left")):
        (tmp_path / side).mkdir()
        (tmp_path / side / "1.jpg").write_bytes(jpeg)
        for number in range(2):
            os.symlink(tmp_path / other, tmp_path / side / f"to-{number}")
    assert open_source(str(tmp_path)).ids == ["left/1", "right/1"]
    assert open_source(str(tmp_path / "left")).ids == ["1", "to-0/1"]


def test_paths_without_links_come_first(jpeg, tmp_path):
    (tmp_path / "photos" / "z" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    for folder in ("photos/z/deep", "elsewhere"):
        (tmp_path / folder / "1.jpg").write_bytes(jpeg)
    os.symlink(tmp_path / "photos" / "z" / "deep", tmp_path / "photos" / "a")
    os.symlink(tmp_path / "elsewhere", tmp_path / "photos" / "b")
    os.symlink("self", tmp_path / "photos" / "self")
    assert open_source(str(tmp_path / "photos")).ids == ["b/1", "z/deep/1"]


def test_order_is_that_of_the_paths(jpeg, tmp_path):
    for name in ("b/2.jpg", "b.jpg", "a/1.jpg", "b-.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg)
    assert list_folder(str(tmp_path)) == sorted(str(path) for path in tmp_path.rglob("*.jpg"))
    shutil.rmtree(tmp_path / "b")
    assert open_source(str(tmp_path)).ids == ["a/1", "b-", "b"]
