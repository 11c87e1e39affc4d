"""Packs: what is read from one is what is read from the images that it was made of, and damage is said."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.data import storage
from sscd_jax.data.image_source import Source
from sscd_jax.data.names import escape
from sscd_jax.data.pack_reader import INDEX, MADE_BY, read_index, to_bytes
from sscd_jax.data.pack_writer import pack
from sscd_jax.data.sources import list_files, open_source
from sscd_jax.data.train_pipeline import train_batches
from sscd_jax.files import is_temporary

KIB = 1024


@pytest.fixture
def photos(images, tmp_path) -> Path:
    """A folder of 40 images in three folders, one of them truncated, one empty, one too odd for ASCII."""
    for number, path in enumerate(sorted(images.iterdir())):
        folder = tmp_path / "photos" / f"of {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder / path.name)
    cut = tmp_path / "photos" / "of 0" / "003.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    (tmp_path / "photos" / "of 1" / "004.jpg").write_bytes(b"")
    (tmp_path / "photos" / "of 2" / "005.jpg").rename(tmp_path / "photos" / "of 2" / ("é\u2028" + 120 * "x" + ".JPG"))
    return tmp_path / "photos"


def packed(source, out, kib=20) -> Source:
    pack(open_source(str(source)), str(out), shard_bytes=kib * KIB)
    return open_source(str(out))


def contents(source) -> list[tuple[str, bytes | str]]:
    found: list[tuple[str, bytes | str]] = []
    for index, one in enumerate(source.ids):
        try:
            found.append((one, source.load(index)))
        except OSError as error:
            found.append((one, str(error)))
    return found


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def batches(source, count=3, **options):
    options = {"batch_size": 8, "image_size": 32, "augmentation": "SIMCLR", "seed": 0} | options
    return list(train_batches(source, **options).take(count).as_numpy_iterator())


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_order_ids_and_bytes_are_those_of_the_folder(photos, tmp_path):
    folder, pack_ = open_source(str(photos)), packed(photos, tmp_path / "pack")
    assert contents(pack_) == contents(folder)
    assert len(list((tmp_path / "pack").glob("*.tar"))) > 3
    assert max(path.stat().st_size for path in (tmp_path / "pack").glob("*.tar")) <= 20 * KIB
    assert pack_.read(tf.constant(17, tf.int64)).numpy() == folder.load(17)
    with pytest.raises(ValueError, match="is a pack, which is not read as a folder of tar files"):
        open_source(str(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize(("start", "hosts", "host"), [(0, 1, 0), (7, 2, 1), (2, 4, 3)])
def test_batches_are_those_of_the_folder(photos, tmp_path, start, hosts, host):
    options = {"start_step": start, "host_count": hosts, "host_index": host}
    ours = batches(packed(photos, tmp_path / "pack"), **options)
    assert_same(ours, batches(open_source(str(photos)), **options))


@pytest.mark.slow
def test_unreadable_images_keep_their_place(photos, tmp_path):
    for name in ("000.jpg", "zzz.jpg"):
        (photos / "of 1" / name).symlink_to("nowhere")
    folder, pack_ = open_source(str(photos)), packed(photos, tmp_path / "pack")
    assert pack_.ids == folder.ids
    lost = {one: why for one, why in contents(pack_) if isinstance(why, str)}
    assert lost == {
        f"of 1/{name}": "could not be read when it was packed: No such file or directory" for name in ("000", "zzz")
    }
    errors = [json.loads(line) for line in (tmp_path / "pack" / "errors.jsonl").read_text().splitlines()]
    assert [error["path"] for error in errors] == [str(photos / "of 1" / name) for name in ("000.jpg", "zzz.jpg")]
    assert_same(batches(pack_, 12), batches(folder, 12))
    used = np.concatenate([batch["used"] != batch["requested"] for batch in batches(pack_, 12)])
    assert used.any()


def test_two_packs_are_the_same_files(photos, tmp_path, monkeypatch):
    packed(photos, tmp_path / "one")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    packed(photos, tmp_path / "other")
    assert files(tmp_path / "one") == files(tmp_path / "other")
    with tarfile.open(tmp_path / "one" / "00000.tar") as archive:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in archive} == {(0, 0, 0, "", "", 0o644)}


def test_tarfile_and_webdataset_read_the_shards(photos, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    folder = open_source(str(photos))
    packed(photos, tmp_path / "pack")
    shards = sorted(map(str, (tmp_path / "pack").glob("*.tar")))
    by_tarfile = []
    for shard in shards:
        assert os.path.getsize(shard) % tarfile.BLOCKSIZE == 0
        with tarfile.open(shard) as archive:
            by_tarfile += [(member.name, archive.extractfile(member).read()) for member in archive]
    expected = [(escape(os.path.relpath(path, photos)), folder.load(k)) for k, path in enumerate(folder.paths)]
    assert by_tarfile == expected
    samples = list(webdataset.WebDataset(shards, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == folder.ids
    assert [sample["jpg"] for sample in samples] == [data for _, data in expected]


def test_packs_of_lists_archives_data_sets_and_packs(photos, images, tmp_path):
    encoded = [path.read_bytes() for path in sorted(images.iterdir())]
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    pq.write_table(pa.table({"image": [*encoded[:3], b"no image"]}), mixed / "a.parquet")
    shutil.copy(min(images.iterdir()), mixed / "z.png")
    with tarfile.open(mixed / "b.tar", "w") as archive:
        archive.add(images, "x")
    (tmp_path / "list.txt").write_text(f"{photos}/of 1/001.jpg\nphotos/../photos/of 1/001.jpg\nlost.jpg\nmixed/b.tar\n")
    for number, source in enumerate([mixed, tmp_path / "list.txt", "sample"]):
        before, after = open_source(str(source)), packed(source, tmp_path / f"pack{number}")
        lost = {"lost": "could not be read when it was packed: No such file or directory"}
        assert contents(after) == [(one, lost.get(one, data)) for one, data in contents(before)]
        again = packed(tmp_path / f"pack{number}", tmp_path / f"pack{number}-again", 50)
        assert again.ids == before.ids
        for path in (tmp_path / f"pack{number}").glob("*.tar"):
            with tarfile.open(path) as archive:
                for name in archive.getnames():
                    assert not name.startswith("/")
                    assert ".." not in name.split("/")
    with tarfile.open(tmp_path / "pack0" / "00000.tar") as archive:
        assert archive.getnames()[:4] == ["a/00000000.jpeg", "a/00000001.jpeg", "a/00000002.jpeg", "a/00000003.bin"]


KILLED = """
import os, signal, sys
from contextlib import contextmanager
from sscd_jax.data import pack_writer
from sscd_jax.data import storage
from sscd_jax.data.sources import open_source
atomic_writer = storage.atomic_writer
@contextmanager
def write_and_die(path):
    with atomic_writer(path) as file:
        if path.endswith("00003.tar"):
            file.write(bytes(1000))
            file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        yield file
storage.atomic_writer = write_and_die
pack_writer.pack(open_source(sys.argv[1]), sys.argv[2], shard_bytes=20 << 10)
"""


def test_resumes_where_it_was_killed(photos, tmp_path, monkeypatch):
    out = tmp_path / "pack"
    (out / "parts").mkdir(parents=True)  # as one leaves it that was killed at its start
    done = subprocess.run([sys.executable, "-c", KILLED, photos, out], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in sorted(out.glob("*.tar"))] == ["00000.tar", "00001.tar", "00002.tar"]
    assert [is_temporary(path.name) for path in out.glob(".00003.tar.*")] == [True]
    with pytest.raises(ValueError, match="is an incomplete pack: run the same sscd-jax pack again to resume it"):
        open_source(str(out))
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    read: list[int] = []
    load = Source.load
    monkeypatch.setattr(Source, "load", lambda self, index: (read.append(index), load(self, index))[1])
    assert contents(packed(photos, out)) == contents(open_source(str(photos)))
    first = sum(read_index(str(out / "parts" / f"{k:05d}.npz")).counts[0] for k in range(3))
    assert min(read[: 40 - first]) == first, "complete shards are not read again"
    assert before.items() <= {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}.items()
    packed(photos, tmp_path / "unbroken")
    assert files(out) == files(tmp_path / "unbroken")
    read.clear()
    packed(photos, out)
    assert not read


def test_other_images_are_refused(photos, images, tmp_path):
    out = tmp_path / "pack"
    packed(photos, out)
    with pytest.raises(
        ValueError, match=r"shards of 0\.01953125 MiB, not 0\.029296875: .*or pass --shard-mib 0\.01953125"
    ):
        packed(photos, out, 30)
    one = photos / "of 1" / "001.jpg"
    os.utime(one, (1, 1))
    with pytest.raises(ValueError, match=r"of other images than .*photos has now \(names, sizes or times differ\)"):
        packed(photos, out)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "letter.txt").write_text("")
    with pytest.raises(ValueError, match=r"there holds letter\.txt, which sscd-jax pack did not write"):
        packed(photos, tmp_path / "there")
    (out / MADE_BY).write_text("[]")
    with pytest.raises(ValueError, match=r"sscd_pack\.json is damaged: .*; name another folder"):
        packed(photos, out)
    with pytest.raises(ValueError, match="must be positive"):
        packed(photos, tmp_path / "new", 0)
    with pytest.raises(ValueError, match="zero byte"):
        pack(Source("x", ["a\0"], ["a"]), str(tmp_path / "new"), shard_bytes=1)
    for inside in (photos / "pack", photos):
        with pytest.raises(ValueError, match="is in the folder that is packed: name a folder outside"):
            packed(photos, inside)
    with pytest.raises(ValueError, match="is a pack"):
        list_files(str(out))


def test_damage_is_reported_and_repaired(photos, tmp_path):
    out = tmp_path / "pack"
    packed(photos, out)
    whole, expected = files(out), contents(open_source(str(photos)))
    shard, index = out / "00001.tar", out / INDEX
    remedy = rf"; remove .*{INDEX} and run the same sscd-jax pack again"

    shard.unlink()
    with pytest.raises(ValueError, match=rf"00001\.tar cannot be read: No such file or directory{remedy}"):
        open_source(str(out))
    index.unlink()
    assert contents(packed(photos, out)) == expected
    assert files(out) == whole

    shard.write_bytes(whole["00001.tar"][:-1000])
    with pytest.raises(ValueError, match=rf"00001\.tar has \d+ bytes and should have \d+{remedy}"):
        open_source(str(out))
    shard.write_bytes(whole["00001.tar"][:600] + b"?" + whole["00001.tar"][601:])
    wrong = [
        data for (_, data), (_, right) in zip(contents(open_source(str(out))), expected, strict=True) if data != right
    ]
    assert len(wrong) == 1
    assert "00001.tar is damaged at byte 512: remove it and index.npz, and run the same" in str(wrong[0])

    shard.unlink()
    index.unlink()
    (out / "parts" / "00002.npz").write_bytes(b"")
    packed(photos, out)
    assert files(out) == whole


def test_a_damaged_index_is_refused(photos, tmp_path):
    out = tmp_path / "pack"
    packed(photos, out)
    path, whole = out / INDEX, (out / INDEX).read_bytes()
    rng = np.random.default_rng(0)
    expected = contents(open_source(str(photos)))
    for case in range(300):
        data = bytearray(whole)
        if case % 3:
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        else:
            del data[rng.integers(len(data)) :]
        path.write_bytes(data)
        found = expected  # of what nothing looks at, in the headers of the zip file
        with contextlib.suppress(ValueError):
            found = contents(open_source(str(out)))
        assert found == expected
    path.write_bytes(whole)
    index = read_index(str(path))
    cases = {"offsets": 1 << 40, "lengths": 1 << 31, "counts": 41, "checksums": -1}
    for name, value in cases.items():
        array = getattr(index, name).astype("i8")
        array[1] = value
        changed = type(index)(**{**vars(index), name: array})
        path.write_bytes(to_bytes(changed))
        with pytest.raises(ValueError, match="damaged"):
            open_source(str(out))
    np.savez(path, ids=np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="damaged"):
        open_source(str(out))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["ram://pack-of-{0.parent.name}", "file://{0}/there"])
def test_packs_in_a_store(photos, tmp_path, scheme):
    out = scheme.format(tmp_path)
    pack_ = packed(photos, out)
    assert contents(pack_) == contents(open_source(str(photos)))
    assert pack_.read(tf.constant(17, tf.int64)).numpy() == pack_.load(17)
    assert_same(batches(pack_, 1, start_step=3), batches(open_source(str(photos)), 1, start_step=3))
    assert sorted(storage.list_folder(out)) == sorted({INDEX, MADE_BY, "parts", *map(os.path.basename, pack_.files)})
    packed(photos, tmp_path / "pack")
    assert all(storage.read_bytes(f"{out}/{name}") == data for name, data in files(tmp_path / "pack").items())
    storage.remove(f"{out}/00001.tar")
    with pytest.raises(ValueError, match=r"00001\.tar cannot be read: .*remove .* and run the same sscd-jax pack"):
        open_source(out)
    storage.remove(f"{out}/{INDEX}")
    packed(photos, out)


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=300),
            st.binary(max_size=2000) | st.none(),
        ),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 6000),
)
def test_any_names_and_sizes(tmp_path_factory, rows, shard_bytes):
    def record(index):
        if rows[index][1] is None:
            raise OSError("gone")
        return rows[index][1]

    ids = [one for one, _ in rows]
    out = tmp_path_factory.mktemp("any") / "pack"
    pack(Source("any", ids, ids, record), str(out), shard_bytes=shard_bytes)
    gone = "could not be read when it was packed: gone"
    assert contents(open_source(str(out))) == [(one, gone if data is None else data) for one, data in rows]
    there = []
    for path in sorted(out.glob("*.tar")):
        with tarfile.open(path) as archive:
            there += [archive.extractfile(member).read() for member in archive]
    assert there == [data for _, data in rows if data is not None]
