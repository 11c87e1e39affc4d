"""Tar files and Parquet files as sources: every image, in its place, and a reason for each that is lost."""

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tensorflow as tf

from sscd_jax.data import archives
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches


@pytest.fixture
def encoded(images) -> list[bytes]:
    return [path.read_bytes() for path in sorted(images.iterdir())]


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def contents(source) -> dict[str, bytes | str]:
    """Bytes by id, or why there are none."""
    found: dict[str, bytes | str] = {}
    for index, one in enumerate(source.ids):
        assert one not in found
        try:
            found[one] = source.load(index)
        except OSError as error:
            found[one] = str(error)
    return found


@pytest.mark.slow
def test_shards_that_webdataset_wrote(encoded, tmp_path):
    webdataset = pytest.importorskip("webdataset")  # which imports PyTorch, where it is installed

    with webdataset.ShardWriter(str(tmp_path / "shard-%03d.tar"), maxcount=15, verbose=0) as writer:
        for number, data in enumerate(encoded):
            writer.write({"__key__": f"a/{number:05d}", "jpg": data, "json": {"number": number}, "txt": "a caption"})
    source = open_source(str(tmp_path))
    assert contents(source) == {f"shard-{n // 15:03d}/a/{n:05d}": data for n, data in enumerate(encoded)}
    assert source.paths[0] == str(tmp_path / "shard-000.tar/a/00000")
    one = open_source(str(tmp_path / "shard-001.tar"))
    assert list(contents(one)) == [f"shard-001/a/{n:05d}" for n in range(15, 30)]
    assert source.read(tf.constant(17, tf.int64)).numpy() == encoded[17]
    (batch,) = train_batches(source, batch_size=8, image_size=32, augmentation="SIMCLR", seed=0).take(1)
    assert batch["images"].shape == (16, 32, 32, 3)


def test_folders_and_lists_may_contain_archives(encoded, tmp_path):
    (tmp_path / "b").mkdir()
    write_tar(tmp_path / "b" / "x.tar", {"./1.jpg": encoded[1], "2.PNG": encoded[2], "notes.txt": b"no image"})
    write_tar(tmp_path / "c.tar", {})
    (tmp_path / "a.jpg").write_bytes(encoded[0])
    (tmp_path / "d.jpg").write_bytes(encoded[3])
    expected = dict(zip(["a", "b/x/1", "b/x/2", "d"], encoded, strict=False))
    assert contents(open_source(str(tmp_path))) == expected
    (tmp_path / "list.txt").write_text("b/x.tar\nd.jpg\n")
    assert list(contents(open_source(str(tmp_path / "list.txt")))) == ["b/x/1", "b/x/2", "d"]
    with pytest.raises(ValueError, match="no images in"):
        open_source(str(tmp_path / "c.tar"))


def test_members_that_a_tar_file_should_not_have(encoded, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_BYTES", max(map(len, encoded)))
    path = tmp_path / "x.tar"
    outside = {"../up.jpg": encoded[0], "/etc/root.jpg": encoded[1]}
    write_tar(path, outside | {"large.jpg": bytes(10**6), "ok.jpg": encoded[2]})
    special = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}
    with tarfile.open(path, "a") as archive:
        for name, kind in special.items():
            info = tarfile.TarInfo(f"{name}.jpg")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    found = contents(open_source(str(path)))
    assert found["x/../up"] == "its name leads out of the archive"
    assert "leads out" in str(found["x//etc/root"])
    assert "1000000 bytes, more than" in str(found["x/large"])
    assert {found[f"x/{name}"] for name in special} == {"it is a link or a special file in the archive"}
    assert found["x/ok"] == encoded[2]


def test_a_damaged_tar_file_gives_what_is_before_the_damage(encoded, tmp_path):
    path = tmp_path / "x.tar"
    write_tar(path, {f"{n}.jpg": data for n, data in enumerate(encoded[:4])})
    whole = path.read_bytes()
    with tarfile.open(path) as archive:
        third = archive.getmember("2.jpg")
    path.write_bytes(whole[: third.offset_data + 10])
    cut = contents(open_source(str(path)))
    assert cut["x/0"] == encoded[0]
    assert cut["x/1"] == encoded[1]
    assert "the archive is truncated" in map(str, cut.values()) or "damaged" in str(cut["x/?"])
    path.write_bytes(whole[: third.offset] + b"garbage" * 100 + whole[third.offset + 700 :])
    damaged = contents(open_source(str(path)))
    assert list(damaged) == ["x/0", "x/1", "x/?"]
    assert "the archive is damaged after 2 images" in str(damaged["x/?"])
    path.write_bytes(b"no tar file" * 100)
    assert "damaged after 0 images" in str(contents(open_source(str(path)))["x/?"])


@pytest.mark.parametrize("form", ["binary", "large_binary", "struct"])
def test_parquet(encoded, tmp_path, form):
    values = [None if n == 5 else data for n, data in enumerate(encoded)]
    if form == "struct":  # as Hugging Face's datasets write an Image
        column = pa.array([{"bytes": data, "path": f"{n}.jpg"} for n, data in enumerate(values)])
    else:
        column = pa.array(values, getattr(pa, form)())
    table = pa.table({"label": list(range(40)), "image": column, "caption": ["a"] * 40})
    pq.write_table(table, tmp_path / "train-00000.parquet", row_group_size=7)
    source = open_source(str(tmp_path))
    found = contents(source)
    assert list(found) == [f"train-00000/{n:08d}" for n in range(40)]
    assert found.pop("train-00000/00000005") == "the row has no bytes"
    assert list(found.values()) == [data for data in values if data]
    order = np.random.default_rng(0).permutation(40)
    assert all(source.load(i) == values[i] for i in order if values[i])


def test_many_parquet_files_keep_nothing_open(encoded, tmp_path):
    for number in range(30):
        pq.write_table(pa.table({"image": encoded[:2]}), tmp_path / f"{number:02d}.parquet")
    before = len(os.listdir("/proc/self/fd"))
    source = open_source(str(tmp_path))
    assert list(contents(source).values()) == encoded[:2] * 30
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_table_of_something_else_among_images(encoded, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded[0])
    pq.write_table(pa.table({"file_name": ["a.jpg"], "caption": ["a cat"]}), tmp_path / "metadata.parquet")
    found = contents(open_source(str(tmp_path)))
    assert found["a"] == encoded[0]
    assert "needs a column of encoded images" in str(found["metadata/?"])


def test_hostile_headers_of_a_tar_file(encoded, tmp_path):
    path = tmp_path / "x.tar"
    for headers in ({"GNU.sparse.map": "a,b", "GNU.sparse.size": "x"}, {"GNU.sparse.major": "1"}, {"size": "-1"}):
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as archive:
            for name, extra in (("0.jpg", {}), ("1.jpg", headers), ("2.jpg", {})):
                info = tarfile.TarInfo(name)
                info.size, info.pax_headers = len(encoded[0]), extra
                archive.addfile(info, io.BytesIO(encoded[0]))
        found = contents(open_source(str(path)))
        assert found["x/0"] == encoded[0]
        assert "x/2" in found or "x/?" in found, "what is lost is said"


def test_parquet_that_cannot_be_read(encoded, tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"label": [1]}), path)
    with pytest.raises(
        ValueError, match=r"a\.parquet needs a column of encoded images .*one named image, or only one; found none"
    ):
        open_source(str(path))
    pq.write_table(pa.table({"front": [b"a"], "back": [b"b"]}), path)
    with pytest.raises(ValueError, match="found front, back"):
        open_source(str(path))
    pq.write_table(pa.table({"mask": [b"b"], "image": [b"a"]}), tmp_path / "b.parquet")
    assert contents(open_source(str(tmp_path / "b.parquet"))) == {"b/00000000": b"a"}
    path.write_bytes(b"no parquet file")
    assert "the archive cannot be read" in str(contents(open_source(str(path)))["a/?"])
    pq.write_table(pa.table({"image": encoded}), path, row_group_size=10, compression="none")
    data = bytearray(path.read_bytes())
    data[4:3000] = bytes(2996)
    path.write_bytes(data)
    found = list(contents(open_source(str(path))).values())
    assert "row group 0 is damaged" in str(found[0])
    assert found[10:] == encoded[10:]
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r"Parquet needs the extra parquet: pip install 'sscd_jax\[parquet\]'"):
        open_source(str(path))
