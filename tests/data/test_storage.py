"""Files on disk and in stores. A server on this machine takes the place of gs:// and counts the requests."""

import io
import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from helpers.gcs import serve

from sscd_jax.data import storage

# In a process of its own, as TensorFlow reads the environment when it is imported.
READ = """
import sys
from concurrent.futures import ThreadPoolExecutor
from sscd_jax.cli.main import main
from sscd_jax.data.sources import open_source
photos, store = sys.argv[1:]
here = open_source(photos)
assert open_source("gs://bucket/photos").ids == here.ids
main(["pack", "gs://bucket/photos", "--out", "gs://bucket/a/pack", "--shard-mib", "0.0625"])
there = open_source("gs://bucket/a/pack")
print("reads", flush=True)
sys.stdin.readline()
with ThreadPoolExecutor(8) as pool:
    assert list(pool.map(there.load, range(40))) == [here.load(k) for k in range(40)]
    assert there.ids == here.ids
print("done", flush=True)
sys.stdin.readline()
import tensorflow as tf
read = tf.data.Dataset.range(40).map(there.read, num_parallel_calls=8)
assert list(read.as_numpy_iterator()) == [here.load(k) for k in range(40)]
"""


@pytest.mark.parametrize("scheme", ["{0}/a", "ram://storage-{0.name}"])
def test_a_file_is_there_completely_or_not_at_all(tmp_path, scheme):
    folder = scheme.format(tmp_path)
    path = f"{folder}/file"
    storage.make_folder(folder)
    storage.write_bytes(path, b"old")

    def fail() -> None:
        with storage.atomic_writer(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert storage.read_bytes(path) == b"old"
    with storage.atomic_writer(path) as file:
        file.write(memoryview(b"of a buffer, "))
        np.savez(file, rows=np.arange(3))
    read = storage.read_bytes(path)
    assert read.startswith(b"of a buffer, ")
    assert np.load(io.BytesIO(read[13:]))["rows"].tolist() == [0, 1, 2]
    storage.write_bytes(path, b"content")
    assert storage.list_folder(folder) == ["file"]
    assert storage.status(path)[0] == 7
    assert storage.read_part(path, 3, 100) == b"tent"
    with storage.open_file(path) as file:
        file.seek(-3, 2)
        assert file.read() == b"ent"
    with pytest.raises(OSError, match="absent/file"):
        storage.write_bytes("/proc/absent/file", b"")


def test_a_copy_of_a_file_in_a_store(tmp_path, monkeypatch):
    monkeypatch.setattr(storage, "PART_BYTES", 1000)
    monkeypatch.setenv("GCS_READAHEAD_BUFFER_SIZE_BYTES", "1")
    path, local = f"ram://copy-{tmp_path.name}/file", tmp_path / "file"
    content = os.urandom(9500)
    storage.write_bytes(path, content)
    storage.copy_to_disk(path, str(local))
    assert local.read_bytes() == content
    assert local.stat().st_mtime_ns == storage.status(path)[1]
    storage.write_bytes(path, b"")
    storage.copy_to_disk(path, str(local))
    assert local.read_bytes() == b""
    with pytest.raises(FileNotFoundError):
        storage.copy_to_disk(f"{path}2", str(tmp_path / "2"))

    storage.write_bytes(path, content)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**4, 10**3, 9000))
        with pytest.raises(
            OSError, match=rf"{path} cannot be copied to {tmp_path}: it has 9500 bytes and 9000 are free"
        ):
            storage.copy_to_disk(path, str(local))
    read = storage.read_part

    def shorter(path: str, offset: int, length: int) -> bytes:
        if offset == 3000:
            storage.write_bytes(path, content[:3500])
        return read(path, offset, length)

    monkeypatch.setattr(storage, "read_part", shorter)
    with pytest.raises(OSError, match="was it replaced meanwhile"):
        storage.copy_to_disk(path, str(local))


def test_reads_that_return_less_than_was_asked_for(tmp_path, monkeypatch):
    """As the system allows, and network file systems do."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with path.open("rb", buffering=0) as file:

        class Short:
            def __enter__(self):
                return self

            def __exit__(self, *_):
                pass

            def seek(self, *position):
                file.seek(*position)

            def read(self, size):
                return file.read(min(size, 7))

        monkeypatch.setattr(storage, "open", lambda *_, **__: Short(), raising=False)
        assert storage.read_part(str(path), 10, 50) == bytes(range(10, 60))
        assert storage.read_part(str(path), 90, 50) == bytes(range(90, 100))


@pytest.fixture
def store(tmp_path):
    with serve(tmp_path) as (bucket, environment):
        others = {name: value for name, value in os.environ.items() if not name.startswith("GCS_")}
        yield bucket, others | environment


@pytest.mark.slow
def test_a_folder_and_its_pack_in_a_bucket(store, images, tmp_path):
    bucket, environment = store
    (tmp_path / "photos" / "b").mkdir(parents=True)
    for number, path in enumerate(sorted(images.iterdir())):
        shutil.copy(path, tmp_path / "photos" / ("b" if number % 2 else ""))
    for path in (tmp_path / "photos").rglob("*.jpg"):
        bucket.objects[f"bucket/photos/{path.relative_to(tmp_path / 'photos')}"] = path.read_bytes()
    command = [sys.executable, "-c", READ, str(tmp_path / "photos"), ""]
    errors = tmp_path / "errors.log"  # a pipe that nobody reads would fill, and the process wait
    with (
        errors.open("w") as log,
        subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        ) as run,
    ):
        try:
            assert wait_for(run, "reads"), errors.read_text()
            listing = [path for _, path, _ in bucket.requests if re.search(r"/o\?fields=items.*delimiter", path)]
            assert len(listing) < 20, "not one for each image"
            assert sorted(name for name in bucket.objects if "pack" in name and name.endswith(".tar"))
            assert not [name for name in bucket.objects if ".tmp" in name]
            bucket.requests.clear()
            run.stdin.write("\n")
            run.stdin.flush()
            assert wait_for(run, "done"), errors.read_text()
            ranges = [part for method, path, part in bucket.requests if "/a/pack/" in path or "pack%2F" in path]
            assert len(ranges) == 40, bucket.requests
            assert all(re.fullmatch(r"bytes=\d+-\d+", part) for part in ranges)
            run.stdin.write("\n")
            run.stdin.flush()
            assert run.wait() == 0, errors.read_text()
        finally:
            run.kill()


@pytest.mark.slow
def test_a_copy_reads_every_byte_once_and_again_after_faults(store, tmp_path):
    bucket, environment = store
    bucket.objects["bucket/large"] = content = os.urandom(20_000_000)
    code = "import sys; from sscd_jax.data import storage; storage.limit_readahead(storage.PART_BYTES)"
    code += "; storage.copy_to_disk('gs://bucket/large', sys.argv[1])"
    command = [sys.executable, "-c", code, str(tmp_path / "copy")]
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "copy").read_bytes() == content
    assert sum(bucket.reads("bucket/large")) <= len(content) + 3, "parts overlap by a byte"
    assert len(bucket.reads("bucket/large")) == 3
    bucket.faults += ["503", "cut"]
    bucket.requests.clear()
    (tmp_path / "copy").unlink()
    subprocess.run(command, env=environment, check=True)
    assert (tmp_path / "copy").read_bytes() == content
    assert len(bucket.reads("bucket/large")) == 5


def wait_for(run: subprocess.Popen, line: str) -> bool:
    return any(said.strip() == line for said in iter(run.stdout.readline, ""))
