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
from sscd_jax.data.train_pipeline import train_batches, why_unreadable


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
    (tmp_path / "list.txt").write_text("a.jpg\nb.jpg\n")
    source = open_source(str(tmp_path / "list.txt"))
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
    names = ["https://host.invalid/a.jpg", "foo://b.jpg", "s3://bucket/c.tar", str(min(images.iterdir()))]
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
    (tmp_path / "a.jpg").write_bytes(files(images)[0].read_bytes())
    (tmp_path / "list.txt").write_text("a.jpg\na.jpg\n")
    with pytest.raises(ValueError, match=r"a\.jpg is given twice: remove one of the two"):
        check_unique_ids(open_source(str(tmp_path / "list.txt")))
    (tmp_path / "b.npz").write_bytes(b"\xff\0\0" * 100)
    with pytest.raises(ValueError, match=r"b\.npz is not a text file of paths"):
        open_source(str(tmp_path / "b.npz"))
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


def test_siblings_keep_their_extensions(images, tmp_path):
    data = files(images)[0].read_bytes()
    for name in ("IMG_1.jpg", "IMG_2.jpg"):
        (tmp_path / name).write_bytes(data)
    assert open_source(str(tmp_path)).ids == ["IMG_1", "IMG_2"]
    (tmp_path / "IMG_1.heic").write_bytes(data)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("b/1.jpg", "b/1.png", "b/2.jpg"):
            archive.add(files(images)[0], name)
    source = open_source(str(tmp_path))
    check_unique_ids(source)
    assert source.ids == ["IMG_1.heic", "IMG_1.jpg", "IMG_2", "a.tar/b/1.jpg", "a.tar/b/1.png", "a/b/2"]
    by_path = ["IMG_1.heic", "IMG_1.jpg", "IMG_2.jpg", "a.tar/b/1.jpg", "a.tar/b/1.png", "a.tar/b/2.jpg"]
    assert open_source(str(tmp_path), ids="path").ids == by_path


NAMES = [b"a\nb.jpg", b"-rf.jpg", b"\x1b[31mred.jpg", "abc\u202egpj.jpg".encode(), b"\xff\xfe.jpg", b"$\\frac$.jpg"]


@pytest.mark.slow
def test_odd_names_are_read_by_printable_ids(images, tmp_path):
    data = [path.read_bytes() for path in files(images)]
    for name, one in zip(NAMES, data, strict=False):
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
            file.write(one)
    source = open_source(str(tmp_path))
    expected = [r"a\x0ab", "-rf", r"\x1b[31mred", r"abc\u202egpj", r"\udcff\udcfe", r"$\frac$"]
    assert dict(zip(source.ids, contents(source), strict=True)) == dict(zip(expected, data, strict=False))
    (batch,) = batches_of(source, 6)
    assert sorted(batch["used"]) == sorted(batch["requested"]) == list(range(6))
    (tmp_path / "list").write_bytes(b"\0".join(NAMES))
    assert open_source(str(tmp_path / "list")).ids == expected
    (tmp_path / "list").write_bytes(b"\n".join(NAMES[1:]))
    assert open_source(str(tmp_path / "list")).ids == expected[1:]


def batches_of(source, size):
    options = {"batch_size": size, "image_size": 32, "augmentation": "SIMCLR", "seed": 0}
    return list(train_batches(source, **options).take(1).as_numpy_iterator())


@pytest.mark.slow
def test_training_skips_pipes_and_devices(images, tmp_path):
    """In a folder they are left out. In a list they are images that cannot be read, and others take their places."""
    for path in files(images)[:3]:
        shutil.copy(path, tmp_path)
    os.mkfifo(tmp_path / "pipe.jpg")
    os.symlink("/dev/zero", tmp_path / "zero.jpg")
    assert open_source(str(tmp_path)).ids == ["000", "001", "002"]
    (tmp_path / "list.txt").write_text("000.jpg\npipe.jpg\nzero.jpg\n001.jpg\n")
    source = open_source(str(tmp_path / "list.txt"))
    (batch,) = batches_of(source, 4)
    replaced = {int(r): int(u) for r, u in zip(batch["requested"], batch["used"], strict=True) if r != u}
    assert replaced == {1: 3, 2: 3}
    assert {why_unreadable(source, index) for index in (1, 2)} == {"it is not a regular file"}


def test_a_single_image(images, tmp_path, capsys):
    path = files(images)[3]
    source = open_source(str(path))
    assert (source.ids, source.paths, contents(source)) == (["003"], [str(path)], [path.read_bytes()])
    shutil.copy(path, tmp_path / "without")
    assert open_source(str(tmp_path / "without")).ids == ["without"]
    assert open_source(f"file://{path}").ids == ["003"]
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ValueError, match=r"/dev/zero is a device; for a list of paths on standard input, give -"):
        open_source("/dev/zero")
    with pytest.raises(ValueError, match=r"pipe\.jpg is not a regular file"):
        open_source(str(tmp_path / "pipe.jpg"))


def test_a_list_on_standard_input(images, tmp_path, monkeypatch):
    read, write = os.pipe()
    names = [path.name for path in files(images)[:2]]
    os.write(write, "\n".join(names).encode())
    os.close(write)
    monkeypatch.chdir(images)
    with open(read) as stdin:
        monkeypatch.setattr("sys.stdin", stdin)
        source = open_source("-")
    assert (source.ids, source.paths) == (["000", "001"], names)


def test_a_list_from_a_pipe(images):
    """As `embed <(find photos)` has it in a shell."""
    read, write = os.pipe()
    os.write(write, f"{files(images)[0]}\n".encode())
    os.close(write)
    assert open_source(f"/dev/fd/{read}").paths == [str(files(images)[0])]
    os.close(read)


def test_a_folder_called_sample_is_a_folder(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert open_source("sample").name == "sample"
    assert capsys.readouterr().err == ""
    (tmp_path / "sample").mkdir()
    shutil.copy(files(images)[0], tmp_path / "sample")
    assert open_source("sample").ids == ["000"]
    assert "sample is what has this name in the current folder" in capsys.readouterr().err
