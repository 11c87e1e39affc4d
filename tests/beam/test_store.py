"""Archives and packs in a store: each is read once, in few requests, and what is said of them names the store."""

import io
import json
import os
import tarfile
import tempfile
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.gcs import serve
from helpers.networks import seeded
from helpers.pipelines import assert_close, command
from PIL import Image

pytest.importorskip("apache_beam")
from sscd_jax import weights
from sscd_jax.beam.embed import EmbedShard
from sscd_jax.beam.opening import open_shard
from sscd_jax.beam.plan import Work, plan_files, read_plan
from sscd_jax.data import storage
from sscd_jax.data.pack_writer import pack
from sscd_jax.data.sources import open_source
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.embedding.shards import Shards
from sscd_jax.presets import Preset
from sscd_jax.weights.native import write_safetensors


def encode(number: int) -> bytes:
    """A photograph's size in bytes: about 100 KB."""
    file = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (256, 256, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture
def shards(tmp_path) -> Path:
    """Two tar files and a Parquet file of 20 images each; the second tar file is cut off in its last image."""
    encoded = [encode(number) for number in range(60)]
    out = tmp_path / "shards"
    out.mkdir()
    for number in range(2):
        with tarfile.open(out / f"{number}.tar", "w") as archive:
            for k, data in enumerate(encoded[number * 20 : number * 20 + 20]):
                info = tarfile.TarInfo(f"{k:03d}.jpg")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
                end = archive.offset
    os.truncate(out / "1.tar", end - 5000)
    pq.write_table(pa.table({"image": encoded[40:]}), out / "2.parquet", row_group_size=7)
    pq.write_table(pa.table({"caption": ["a cat"]}), out / "captions.parquet")
    return out


@pytest.fixture
def work(tmp_path, monkeypatch) -> Work:
    write_safetensors(tmp_path / "w.safetensors", *seeded("resnet18", 16), {})
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.delenv("GCS_READAHEAD_BUFFER_SIZE_BYTES", raising=False)  # another test may have set it
    return Work("gs://bucket/shards", str(tmp_path / "w.safetensors"), str(tmp_path / "beam"), Preset("short", 48))


def temporary_files(tmp_path) -> list[Path]:
    return [*(tmp_path / "temporary").glob("sscd_jax-*")]


def embed(work: Work, source: Path, out: Path) -> dict:
    network = weights.load(work.weights)
    return write_descriptors(*network, open_source(str(source)), work.preset, out, batch_size=8)


@pytest.mark.slow
def test_each_archive_is_read_once(work, shards, tmp_path):
    work = replace(work, out="gs://bucket/out")
    with serve(tmp_path) as (bucket, environment):
        for path in shards.iterdir():
            bucket.objects[f"bucket/shards/{path.name}"] = path.read_bytes()
        said = command(work, env={**os.environ, **environment})
        for path in shards.iterdir():
            reads = bucket.reads(f"bucket/shards/{path.name}")
            assert sum(reads) <= 1.05 * path.stat().st_size, path.name
            assert len(reads) == 1, path.name
        assert said == {"count": 59, "errors": 3, "not_read": 0, "out": work.out}
        for name, data in bucket.objects.items():
            if name.startswith("bucket/out/") and not name.endswith("/"):
                path = tmp_path / name.removeprefix("bucket/")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
    assert not temporary_files(tmp_path)
    embed(work, shards, tmp_path / "embed")
    assert_close(tmp_path / "out", tmp_path / "embed")
    found = {error["path"]: error for error in errors(tmp_path / "out")}
    assert found["gs://bucket/shards/1.tar/019"]["reason"] == "the archive is truncated"
    assert found["gs://bucket/shards/captions.parquet/?"]["reason"].startswith("captions.parquet needs a column")
    assert {error["kind"] for error in found.values()} == {"image"}, "no fault of the network"


@pytest.mark.slow
def test_a_pack(work, shards, tmp_path):
    (shards / "lost.jpg").symlink_to("nowhere")
    folder = tmp_path / "pack"
    pack(open_source(str(shards)), str(folder), shard_bytes=2 << 20)
    with (folder / "00001.tar").open("r+b") as file:
        file.seek(1000)
        file.write(b"damage")
    work = replace(work, images="gs://bucket/a/pack")
    with serve(tmp_path) as (bucket, environment):
        for path in folder.rglob("*.*"):
            bucket.objects[f"bucket/a/pack/{path.relative_to(folder)}"] = path.read_bytes()
        said = command(work, env={**os.environ, **environment})
        assert len([*folder.glob("*.tar")]) == 3
        for path in folder.glob("*.tar"):
            (read,) = bucket.reads(f"bucket/a/pack/{path.name}")
            assert read == path.stat().st_size
    assert not temporary_files(tmp_path)
    summary = embed(work, folder, tmp_path / "embed")
    assert said == {"count": 58, "errors": 5, "not_read": 1, "out": work.out}
    assert [summary[f"total_{name}"] for name in ("embedded", "unreadable", "not_read")] == [58, 4, 1]
    assert_close(work.out, tmp_path / "embed")
    ours, theirs = (
        {error["path"].removeprefix(place): error["reason"].removeprefix(place) for error in errors(out)}
        for out, place in ((work.out, "gs://bucket/a/pack"), (tmp_path / "embed", str(folder)))
    )
    assert ours == theirs
    assert ours["/lost"] == "could not be read when it was packed: No such file or directory"
    assert ours["/1/006"].startswith("/00001.tar is damaged at byte 512")

    # From the disk, beside what `embed` has done, and to be continued by it.
    work = replace(work, images=str(folder), out=str(tmp_path / "embed"))
    assert Path(plan_files(work, 5)).read_text() == ""
    work = replace(work, out=str(tmp_path / "local"))
    assert command(work) == said | {"out": work.out}
    assert_close(work.out, tmp_path / "embed")
    files = read_plan(plan_files(work, 5))[1]
    again = embed(work, folder, tmp_path / "local")
    assert (again["embedded"], again["total_embedded"]) == (0, 58)
    (folder / "parts" / "00001.npz").unlink()
    with pytest.raises(ValueError, match="needs all files of the pack"), open_shard(str(folder), files, pack=True):
        pass
    (folder / "index.npz").unlink()
    with pytest.raises(ValueError, match="is an incomplete pack"):
        plan_files(work, 5)


@pytest.mark.slow
def test_the_next_archive_is_copied_while_one_is_embedded(work, shards, tmp_path, monkeypatch):
    work = replace(work, images=f"ram://{tmp_path.name}")
    for name in ("0.tar", "1.tar", "2.parquet"):
        storage.write_bytes(f"{work.images}/{name}", (shards / name).read_bytes())
    storage.write_bytes(f"{work.images}/3.tar", b"")
    files = read_plan(plan_files(work, 5))
    storage.remove(f"{work.images}/3.tar")
    is_copied = [threading.Event() for _ in files]
    copy, write = storage.copy_to_disk, Shards.write
    most = 0

    def copying(path: str, local: str) -> None:
        nonlocal most
        copy(path, local)
        most = max(most, len(temporary_files(tmp_path)))
        is_copied[int(path.split("/")[-1][0])].set()

    def writing(self: Shards, number: int, *args: Any, **options: Any) -> None:
        if number < 2:
            assert is_copied[number + 1].wait(60), "the next archive is there before this shard is written"
        write(self, number, *args, **options)

    monkeypatch.setattr(storage, "copy_to_disk", copying)
    monkeypatch.setattr(Shards, "write", writing)
    worker = EmbedShard(work)
    worker.setup()

    def bundle() -> list[tuple[int, int, int]]:
        return [one for some in files for one in worker.process(some)] + [one.value for one in worker.finish_bundle()]

    done = bundle()
    assert done == [(0, 20, 16), (1, 19, 16), (2, 20, 16), (3, 0, 16)]
    (lost,) = Shards(work.out, worker.provenance, "float32", work.images).errors(3)
    assert (lost["kind"], lost["path"]) == ("read", f"{work.images}/3.tar/?")
    assert most == 2, "copies at a time"
    assert not temporary_files(tmp_path)

    def fail(path: str, local: str) -> None:
        if path.endswith("1.tar"):
            raise OSError("the network is down")
        copy(path, local)

    monkeypatch.setattr(storage, "copy_to_disk", fail)
    assert bundle() == done, "what is complete is not read again"
    for number in (1, 2):
        Shards(work.out, worker.provenance, "float32", work.images).undo(number)
    with pytest.raises(OSError, match="the network is down"):
        bundle()
    worker.teardown()
    assert not temporary_files(tmp_path)


def errors(out: Path | str) -> list[dict]:
    return [json.loads(line) for line in (Path(out) / "errors.jsonl").open()]
