"""The Beam pipeline on the DirectRunner writes the descriptors that `embed` writes."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.networks import seeded
from helpers.pipelines import assert_close, by_id, command

from sscd_jax import weights
from sscd_jax.beam.plan import Files, Work, plan_files, read_plan
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.presets import Preset
from sscd_jax.weights.native import write_safetensors


@pytest.fixture
def folder(images, tmp_path) -> Path:
    """Thirteen images one by one, of which one is broken, and two tar files of fourteen each.

    Two of the images differ in their extension only, and are in different shards of five.
    """
    out = tmp_path / "photos"
    (out / "b").mkdir(parents=True)
    paths = sorted(images.iterdir())
    for path in paths[:12]:
        shutil.copy(path, out / "b")
    (out / "b" / "003.jpg").write_bytes(b"text")
    shutil.copy(paths[20], out / "b" / "004.png")
    for number, part in enumerate((paths[12:26], paths[26:])):
        with tarfile.open(out / f"{number}.tar", "w") as archive:
            for path in part:
                archive.add(path, path.name)
    return out


@pytest.fixture
def work(folder, tmp_path) -> Work:
    write_safetensors(tmp_path / "w.safetensors", *seeded("resnet18", 16), {})
    return Work(str(folder), str(tmp_path / "w.safetensors"), str(tmp_path / "beam"), Preset("short", 48))


@pytest.mark.slow
def test_the_command_writes_what_embed_writes(work, folder, tmp_path):
    said = command(work, "--", "--runner=DirectRunner")
    assert said == {"count": 40, "errors": 1, "not_read": 0, "out": work.out}
    network = weights.load(work.weights)
    write_descriptors(*network, open_source(str(folder)), work.preset, tmp_path / "embed", batch_size=8)
    assert_close(work.out, tmp_path / "embed")
    assert {"b/004.jpg", "b/004.png"} < {*Descriptors.read(work.out).ids}
    beam = by_id(work.out)
    provenance = Descriptors.read(work.out).provenance
    assert provenance == Descriptors.read(tmp_path / "embed").provenance
    (line,) = map(json.loads, (Path(work.out) / "errors.jsonl").open())
    assert line["path"].endswith("003.jpg")

    # Again with a new archive and a new image: only these are computed.
    before = {path: path.stat().st_mtime_ns for path in Path(work.out).glob("vectors-*")}
    assert len(before) == 5
    shutil.copy(folder / "0.tar", folder / "2.tar")
    shutil.copy(folder / "b" / "000.jpg", folder / "a.jpg")
    assert command(work)["count"] == 40 + 14 + 1
    assert {path: path.stat().st_mtime_ns for path in before} == before
    after = by_id(Path(work.out))
    np.testing.assert_allclose(after["2/012"], beam["0/012"], atol=2e-6)
    np.testing.assert_allclose(after["a"], beam["b/000"], atol=2e-6)

    # And `embed` resumes where the pipeline ended.
    shutil.copy(folder / "b" / "001.jpg", folder / "c.jpg")
    options = {"shard_size": 5, "batch_size": 8}
    summary = write_descriptors(*network, open_source(str(folder)), work.preset, Path(work.out), **options)
    assert (summary["embedded"], summary["total_embedded"]) == (1, 56)
    shutil.copy(folder / "0.tar", folder / "3.tar")
    plan = [files.number for files in read_plan(plan_files(work, 5))]
    assert plan == [0, 1, 2, 3, 4, 5, 6, 8], "7 is c.jpg, which embed added"


@pytest.mark.slow
def test_the_plan(work, folder):
    plan = read_plan(plan_files(work, 5))
    assert [files.number for files in plan] == list(range(5))
    assert [files.names for files in plan[:3]] == [["0.tar"], ["1.tar"], [f"b/{i:03d}.jpg" for i in range(5)]]
    shutil.copy(folder / "0.tar", folder / "00.tar")
    again = read_plan(plan_files(work, 5))
    assert again[:5] == plan
    assert again[5:] == [Files(5, ["00.tar"], [str(folder / "00.tar")], [])]

    # An image whose id changes, because it gets a sibling, is a new one; so no id ever stands for two images.
    shutil.copy(folder / "b" / "011.jpg", folder / "b" / "011.png")
    more = read_plan(plan_files(work, 5))
    assert [(files.names, files.ids) for files in more[6:]] == [(["b/011.jpg", "b/011.png"],) * 2]


@pytest.mark.slow
def test_odd_archives_and_names_are_errors_of_their_own(work, folder, images):
    data = min(images.iterdir()).read_bytes()
    with tarfile.open(folder / "odd.tar", "w") as archive:
        for name in ("x.jpg", "x.jpeg", "two\nlines.jpg", "y.jpg", "y.jpg"):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    tarfile.open(folder / "empty.tar", "w").close()
    pq.write_table(pa.table({"caption": ["a cat"]}), folder / "captions.parquet")
    assert command(work) == {"count": 40 + 4, "errors": 3, "not_read": 0, "out": work.out}
    found = by_id(Path(work.out))
    for one in ("odd.tar/x.jpg", "odd.tar/x.jpeg", r"odd/two\x0alines"):
        np.testing.assert_array_equal(found[one], found["odd.tar/y.jpg"])
    reasons = [json.loads(line)["reason"] for line in (Path(work.out) / "errors.jsonl").open()]
    assert "another image has the same id" in reasons


def test_archives_that_give_the_same_ids_are_refused(work, folder):
    shutil.copy(folder / "0.tar", folder / "b.tar")
    with pytest.raises(ValueError, match=r"b\.tar and a folder of that name in .* give the same ids"):
        plan_files(work, 5)
    (folder / "b.tar").unlink()
    shutil.copy(folder / "0.tar", folder / "0.parquet")
    with pytest.raises(ValueError, match=r"0\.tar and 0\.parquet in .* give the same ids"):
        plan_files(work, 5)
    (folder / "0.parquet").unlink()
    (folder / "list.txt").write_text("b/000.jpg\nb/001.jpg\nb/000.jpg\n")
    with pytest.raises(ValueError, match=r"has b/000\.jpg twice"):
        plan_files(replace(work, images=str(folder / "list.txt")), 5)


@pytest.mark.slow
def test_new_files_beside_what_embed_did(work, folder):
    shutil.rmtree(folder / "b")
    (folder / "2020").mkdir()
    data = next(Path(work.images).glob("*.tar"))
    with tarfile.open(data) as archive:
        image = archive.extractfile(archive.getmembers()[0]).read()
    (folder / "2020" / "x.jpg").write_bytes(image)
    for path in folder.glob("*.tar"):
        path.unlink()
    network = weights.load(work.weights)
    write_descriptors(*network, open_source(str(folder)), work.preset, Path(work.out), batch_size=8)
    (folder / "2021.jpg").write_bytes(image)
    assert [files.names for files in read_plan(plan_files(work, 5))] == [["2021.jpg"]]


@pytest.mark.slow
def test_what_cannot_work_ends_in_one_line(work, tmp_path):
    pytest.importorskip("apache_beam")
    bad = [
        sys.executable,
        "-m",
        "sscd_jax.beam",
        str(tmp_path / "absent"),
        "--weights",
        work.weights,
        "--out",
        work.out,
    ]
    for options, message in (([], "absent: no such folder or file"), (["--shard-size", "0"], "must be positive")):
        done = subprocess.run([*bad, *options], capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
