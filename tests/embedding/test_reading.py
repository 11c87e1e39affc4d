"""A failed disk or network is told from bad bytes, wherever images are."""

import contextlib
import errno
import io
import tarfile
from pathlib import Path

import pytest

from sscd_jax.data import failed_reads, storage
from sscd_jax.data.image_source import Source
from sscd_jax.data.pack_writer import pack
from sscd_jax.data.sources import open_source
from sscd_jax.data.storage import DamagedError
from sscd_jax.embedding.reading import Reader


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(failed_reads, "LONGEST_WAIT", 0.0)


def kind(source: Source, index: int = 0) -> str:
    reader = Reader(source)
    with pytest.raises(OSError, match=r".") as found:
        reader.source.load(index)
    return reader.error(index, str(found.value))["kind"]


@pytest.mark.parametrize(
    ("error", "path", "expected", "attempts"),
    [
        (OSError("Unavailable: try again"), "gs://b/x.tar/1", "read", failed_reads.ATTEMPTS),
        (OSError(errno.EIO, "Input/output error"), "/x.tar/1", "read", failed_reads.ATTEMPTS),
        (FileNotFoundError("there is no such file"), "/x.jpg", "read", 1),
        (DamagedError("the archive is truncated"), "gs://b/x.tar/1", "image", 1),
        (DamagedError("the archive is truncated"), "/x.tar/1", "image", 1),
        (ValueError("no image"), "gs://b/1.jpg", "image", 1),
    ],
)
def test_what_an_error_means(error, path, expected, attempts):
    calls = []

    def load(index: int) -> bytes:
        calls.append(index)
        raise error

    source = Source("s", ["1"], [path], load)
    reader = Reader(source)
    with pytest.raises(type(error)):
        reader.source.load(0)
    assert reader.error(0, "")["kind"] == expected
    assert len(calls) == attempts


def archive_of(images: Path, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        for image in sorted(images.iterdir())[:3]:
            archive.add(image, image.name)
    return path


def failing(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Files on a disk that fails after some bytes."""

    class Failing(io.FileIO):
        def readinto(self, buffer):
            if self.tell() >= after:
                raise OSError(errno.EIO, "Input/output error")
            return super().readinto(memoryview(buffer)[: max(after - self.tell(), 1)])

    @contextlib.contextmanager
    def open_file(path):
        with io.BufferedReader(Failing(path)) as file:
            yield file

    monkeypatch.setattr(storage, "open_file", open_file)


def test_an_archive_on_a_disk_that_fails_is_not_taken_for_a_short_one(images, tmp_path, monkeypatch):
    path = archive_of(images, tmp_path / "a.tar")
    with monkeypatch.context() as patch:
        failing(patch, 4000)
        with pytest.raises(OSError, match=r"a\.tar cannot be listed: .*Input/output error.*rerun"):
            open_source(str(path))
    assert len(open_source(str(path))) == 3


@pytest.mark.parametrize("where", ["", "file://"])  # on a disk, and in a store
def test_damaged_archives_hold_bad_images(where, images, tmp_path):
    path = archive_of(images, tmp_path / "a.tar")
    path.write_bytes(path.read_bytes()[:4000])
    source = open_source(f"{where}{path}")
    assert len(source) > 1, "the first is whole"
    assert {kind(source, index) for index in range(1, len(source))} == {"image"}
    (tmp_path / "b.parquet").write_bytes(b"PAR1 and no more")
    assert kind(open_source(f"{where}{tmp_path}"), len(source)) == "image"


def test_an_archive_that_is_gone_was_not_read(tmp_path):
    (tmp_path / "list.txt").write_text("gone.tar\n")
    assert kind(open_source(str(tmp_path / "list.txt"))) == "read"


@pytest.mark.parametrize("where", ["", "file://"])
def test_packs(where, images, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.mkdir()
    (tmp_path / "list.txt").write_text(f"{bad}\n{sorted(images.iterdir())[0]}\n")
    pack(open_source(str(tmp_path / "list.txt")), str(tmp_path / "pack"), shard_bytes=1 << 20)
    source = open_source(f"{where}{tmp_path}/pack")
    assert kind(source) == "image", "another attempt does not change what was packed"
    (tar,) = (tmp_path / "pack").glob("*.tar")
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    assert kind(source, 1) == "image"


def test_rows_of_a_parquet_file(images, tmp_path, monkeypatch):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    some = [path.read_bytes() for path in sorted(images.iterdir())[:3]]
    pq.write_table(pa.table({"image": [*some, None]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path / "a.parquet"))
    assert kind(source, 3) == "image"
    source = open_source(str(tmp_path / "a.parquet"))
    failing(monkeypatch, 100)
    assert kind(source) == "read"
