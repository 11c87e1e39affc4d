"""Archives in a store: each is read once, in few requests, and what is said of them names the store."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.gcs import serve
from helpers.networks import seeded
from helpers.pipelines import assert_close, command
from PIL import Image

from sscd_jax import weights
from sscd_jax.beam.plan import Work
from sscd_jax.data.sources import open_source
from sscd_jax.embedding.collection import write_descriptors
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


@pytest.mark.slow
def test_each_archive_is_read_once(shards, tmp_path):
    write_safetensors(tmp_path / "w.safetensors", *seeded("resnet18", 16), {})
    work = Work("gs://bucket/shards", str(tmp_path / "w.safetensors"), str(tmp_path / "beam"), Preset("short", 48))
    (tmp_path / "temporary").mkdir()
    with serve(tmp_path) as (bucket, environment):
        for path in shards.iterdir():
            bucket.objects[f"bucket/shards/{path.name}"] = path.read_bytes()
        said = command(work, env={**os.environ, **environment, "TMPDIR": str(tmp_path / "temporary")})
        for path in shards.iterdir():
            reads = bucket.reads(f"bucket/shards/{path.name}")
            assert sum(reads) <= 1.05 * path.stat().st_size, path.name
            assert len(reads) == 1, path.name
    assert said == {"count": 59, "errors": 3, "not_read": 0, "out": work.out}
    assert not [path for path in (tmp_path / "temporary").rglob("*") if path.suffix in (".tar", ".parquet")]
    options = {"batch_size": 8}
    write_descriptors(*weights.load(work.weights), open_source(str(shards)), work.preset, tmp_path / "embed", **options)
    assert_close(work.out, tmp_path / "embed")
    errors = {error["path"]: error for error in map(json.loads, (Path(work.out) / "errors.jsonl").open())}
    assert errors["gs://bucket/shards/1.tar/019"]["reason"] == "the archive is truncated"
    assert errors["gs://bucket/shards/captions.parquet/?"]["reason"].startswith("captions.parquet needs a column")
    assert {error["kind"] for error in errors.values()} == {"image"}, "no fault of the network"
