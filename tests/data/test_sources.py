"""Folders, lists and archives as sources, on disk and in stores."""

import errno
import io
import os
import shutil
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from PIL import Image

from sscd_jax.data.image_source import check_unique_ids
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches


def contents(source) -> list[bytes]:
    return [source.read(tf.constant(i, tf.int64)).numpy() for i in range(len(source))]


def files(images):
    return sorted(images.iterdir())


def test_folder(images, tmp_path):
    (tmp_path / "b" / "c").mkdir(parents=True)
    for path, name in zip(files(images), ["z.jpg", "b/a.JPEG", "b/c/d.jpg"], strict=False):
        (tmp_path / name).write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").write_text("not an image")
    source = open_source(str(tmp_path))
    assert source.ids == ["b/a", "b/c/d", "z"]
    assert contents(source) == [(tmp_path / name).read_bytes() for name in ("b/a.JPEG", "b/c/d.jpg", "z.jpg")]


def test_list(images, tmp_path):
    names = [path.name for path in files(images)[:3]]
    listing = images / "list.txt"
    listing.write_text("\n".join(reversed(names)) + "\n\n")
    source = open_source(str(listing))
    listing.unlink()
    assert source.ids == [name.removesuffix(".jpg") for name in reversed(names)]
    assert contents(source)[0] == (images / names[2]).read_bytes()


@pytest.mark.parametrize("spelling", ["photos", "./photos", "photos/", "photos//", "../here/photos"])
def test_ids_do_not_depend_on_how_a_folder_is_spelt(images, tmp_path, monkeypatch, spelling):
    (tmp_path / "here" / "photos" / "b").mkdir(parents=True)
    (tmp_path / "here" / "photos" / "b" / "a.jpg").write_bytes(files(images)[0].read_bytes())
    monkeypatch.chdir(tmp_path / "here")
    assert open_source(spelling).ids == ["b/a"]


def test_folders_that_cannot_be_searched_are_named(images, tmp_path, monkeypatch, capsys):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.jpg").write_bytes(files(images)[0].read_bytes())
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert open_source(str(tmp_path)).ids == ["a"]
    assert f"cannot search {tmp_path / 'closed'}" in capsys.readouterr().err


def test_lists_with_odd_names(images, tmp_path):
    data = files(images)[0].read_bytes()
    (tmp_path / "a\u2028b.jpg").write_bytes(data)
    (tmp_path / "list.txt").write_text(
        f"a\u2028b.jpg\r\n{tmp_path}/a\u2028b.jpg\ngs://bucket/c.jpg\n", encoding="utf-8"
    )
    source = open_source(str(tmp_path / "list.txt"))
    assert source.paths == [f"{tmp_path}/a\u2028b.jpg"] * 2 + ["gs://bucket/c.jpg"]
    assert source.load(0) == data


def test_what_is_no_file_or_too_large_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with (tmp_path / "b.jpg").open("wb") as file:
        file.truncate(1 << 40)
    source = open_source(str(tmp_path))
    for index, reason in enumerate(["not a regular file", "1099511627776 bytes, more than"]):
        with pytest.raises(OSError, match=reason):
            source.load(index)


def test_links_to_folders_are_followed_and_loops_end(images, tmp_path):
    (tmp_path / "photos" / "a").mkdir(parents=True)
    shutil.copy(min(images.iterdir()), tmp_path / "photos" / "a" / "1.jpg")
    os.symlink(images, tmp_path / "photos" / "b")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "a" / "up")
    os.symlink(tmp_path / "photos" / "a", tmp_path / "photos" / "a" / "self")
    assert open_source(str(tmp_path / "photos")).ids == ["a/1", *(f"b/{i:03d}" for i in range(40))]


def test_paths_of_stores_that_cannot_be_read_are_errors_of_one_image(images, tmp_path):
    names = ["https://host/a.jpg", "foo://b.jpg", "s3://bucket/c.tar", str(min(images.iterdir()))]
    (tmp_path / "list.txt").write_text("\ufeff" + "\n".join(names), encoding="utf-8")
    source = open_source(str(tmp_path / "list.txt"))
    assert len(source) == 4
    for index in range(3):
        with pytest.raises(OSError, match=r"."):
            source.load(index)
    assert source.load(3) == min(images.iterdir()).read_bytes()
    (tmp_path / "x.tar.gz").write_bytes(b"")
    with pytest.raises(ValueError, match="compressed tar files cannot be read at random: decompress it"):
        open_source(str(tmp_path / "x.tar.gz"))


def test_sample_is_photographs():
    source = open_source("sample")
    assert len(source) > 10
    assert all(Image.open(io.BytesIO(data)).size[0] > 100 for data in contents(source))


def test_refused(tmp_path, images):
    with pytest.raises(ValueError, match="no such folder or file"):
        open_source(str(tmp_path / "absent"))
    with pytest.raises(ValueError, match=r"looked in it and below for the extensions \.jpg"):
        open_source(str(tmp_path))
    for name in ("a.jpg", "a.png"):
        (tmp_path / name).write_bytes(files(images)[0].read_bytes())
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png have the same id a"):
        check_unique_ids(open_source(str(tmp_path)))
    with pytest.raises(ValueError, match=r"a\.jpg is not a text file of paths"):
        open_source(str(tmp_path / "a.jpg"))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(ValueError, match="no paths in"):
        open_source(str(tmp_path / "empty.txt"))


def batches(source, start, count):
    options = {"batch_size": 8, "image_size": 32, "augmentation": "SIMCLR", "seed": 0}
    return list(train_batches(source, start_step=start, **options).take(count).as_numpy_iterator())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["ram://{0.name}", "file://{0}"])
def test_stores_that_tensorflow_knows(images, tmp_path, scheme):
    """Folders, lists, tar files and Parquet files at paths with a scheme, as gs:// has one."""
    (tmp_path / "b" / "c").mkdir(parents=True)
    for number, path in enumerate(files(images)):
        shutil.copy(path, tmp_path / ("b/c" if number % 2 else "b"))
    (tmp_path / "b" / "notes").write_text("not an image")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(images, "p")
    pq.write_table(pa.table({"image": [path.read_bytes() for path in files(images)]}), tmp_path / "y.parquet")
    store = scheme.format(tmp_path)
    if not tf.io.gfile.exists(store):
        for parent, _, names in os.walk(tmp_path):
            there = os.path.join(store, os.path.relpath(parent, tmp_path)).removesuffix("/.")
            tf.io.gfile.makedirs(there)
            for name in names:
                tf.io.gfile.copy(os.path.join(parent, name), f"{there}/{name}")
    with tf.io.gfile.GFile(f"{store}/list.txt", "w") as listing:
        listing.write(f"b/000.jpg\r\n{store}/x.tar\nlost.jpg\ny.parquet\n")
    listed = open_source(f"{store}/list.txt")
    assert (listed.ids[0], listed.ids[1], listed.ids[41], len(listed)) == ("b/000", f"{store}/x/p/000", "lost", 82)
    assert listed.load(1) == files(images)[0].read_bytes()
    with pytest.raises(OSError, match=r"."):
        listed.load(41)
    for name in ("b", "b/", "x.tar", "y.parquet", ""):
        there, here = open_source(f"{store}/{name}"), open_source(str(tmp_path / name))
        assert there.ids == here.ids
        assert [there.load(k) for k in range(len(there))] == contents(there) == contents(here)
    (ours,), (theirs,) = (batches(open_source(f"{root}/b"), 3, 1) for root in (store, tmp_path))
    for key in ours:
        np.testing.assert_array_equal(ours[key], theirs[key])
    with pytest.raises(ValueError, match="no such folder or file"):
        open_source(f"{store}/absent")
