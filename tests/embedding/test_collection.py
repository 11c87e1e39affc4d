"""A collection embedded in one go, interrupted, shared, grown: the same files."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.small_collection import MODEL, OPTIONS, PRESET, files, make_folder, make_variables, write
from PIL import Image

from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding import collection
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.models import build_model
from sscd_jax.weights.native import write_safetensors

MAIN = "from sscd_jax.cli.main import main; main()"


@pytest.fixture(scope="module")
def variables():
    return make_variables()


@pytest.fixture
def folder(images, tmp_path) -> Path:
    return make_folder(images, tmp_path / "photos")


def test_what_is_written(folder, variables, tmp_path):
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["embedded"], summary["unreadable"], summary["total_embedded"]) == (38, 2, 38)
    read = Descriptors.read(tmp_path / "out")
    assert list(read.ids) == [f"b/{i:03d}" for i in range(40) if i not in (13, 29)]
    assert read.provenance.preset == "short_48"
    assert read.provenance.details["preset"]["mean"] == [0.485, 0.456, 0.406]
    assert {"sscd_jax", "jax", "flax", "pillow"} <= set(read.provenance.details["versions"])
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert [Path(error["path"]).name for error in errors] == ["013.jpg", "029.jpg"]
    assert "not an image" in errors[0]["reason"]
    assert "truncated" in errors[1]["reason"].lower()
    assert sorted(p.name for p in (tmp_path / "out").glob("vectors-*")) == [f"vectors-{i:05d}.npy" for i in range(4)]

    before = files(tmp_path / "out")
    again = write(variables, folder, tmp_path / "out")
    assert (again["embedded"], again["unreadable"], again["total_embedded"]) == (0, 0, 38), "nothing is left to do"
    assert files(tmp_path / "out") == before


def test_an_interrupted_run_goes_on(folder, variables, tmp_path, monkeypatch):
    write(variables, folder, tmp_path / "whole")
    embed = collection.embed

    def until(last: int):
        def stopping(*args, **kwargs):
            for number, item in enumerate(embed(*args, **kwargs)):
                if number == last:
                    raise KeyboardInterrupt
                yield item

        return stopping

    for last in (0, 5, 3, 2):
        monkeypatch.setattr(collection, "embed", until(last))
        with pytest.raises(KeyboardInterrupt):
            write(variables, folder, tmp_path / "out")
        assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(collection, "embed", embed)
    summary = write(variables, folder, tmp_path / "out")
    assert 0 < summary["embedded"] < 38, "shards that were whole are not computed again"
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_shares(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "whole")
    summaries = [write(variables, folder, tmp_path / "out", shard=(part, 3)) for part in (2, 0, 1)]
    assert [s["total_embedded"] for s in summaries] == [None, None, 38], "the last one finishes"
    assert sum(s["embedded"] for s in summaries) == 38
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    with pytest.raises(ValueError, match="there is no shard 3/3: they are 0/3 to 2/3"):
        write(variables, folder, tmp_path / "out", shard=(3, 3))


def test_only_new_images_are_embedded(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    before = Descriptors.read(tmp_path / "out")
    image = (folder / "b" / "000.jpg").read_bytes()
    (folder / "a.jpg").write_bytes(image)
    (folder / "b" / "005.jpg").unlink()
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["embedded"], summary["total_embedded"]) == (1, 39)
    after = Descriptors.read(tmp_path / "out")
    assert list(after.ids) == [*before.ids, "a"]
    np.testing.assert_array_equal(after.vectors[:-1], before.vectors)
    np.testing.assert_allclose(after.vectors[-1], before.vectors[0], atol=2e-6)


def test_images_that_went_away_before_their_turn(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out", shard=(1, 2))
    (folder / "b" / "000.jpg").unlink()
    summary = write(variables, folder, tmp_path / "out")
    assert summary["total_embedded"] == 37
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert errors[0] == {"path": "b/000", "reason": f"it is no longer in {folder}"}


def test_strict(folder, variables, tmp_path):
    with pytest.raises(ValueError, match=r"013\.jpg: not an image of a known format"):
        write(variables, folder, tmp_path / "out", strict=True)
    assert not (tmp_path / "out" / "manifest.json").exists()
    (folder / "b" / "013.jpg").unlink()
    (folder / "b" / "029.jpg").unlink()
    write(variables, folder, tmp_path / "other", strict=True)
    assert len(Descriptors.read(tmp_path / "other").ids) == 38


def test_strict_over_what_was_not(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    with pytest.raises(ValueError, match=r"013\.jpg: not an image of a known format"):
        write(variables, folder, tmp_path / "out", strict=True)
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["unreadable"], summary["total_unreadable"]) == (0, 2)


def test_strict_about_what_went_away(folder, variables, tmp_path):
    for name in ("013", "029"):
        (folder / "b" / f"{name}.jpg").unlink()
    write(variables, folder, tmp_path / "out", shard=(1, 2))
    for path in sorted((folder / "b").iterdir())[:12]:
        path.unlink()
    for _ in range(2):
        with pytest.raises(ValueError, match="b/000: it is no longer in"):
            write(variables, folder, tmp_path / "out", strict=True)


def test_a_network_without_projection(folder, tmp_path):
    model = build_model("resnet18", 0, width=8)
    variables = jax.jit(model.init)(jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    write_descriptors(model, variables, open_source(str(folder)), PRESET, tmp_path / "out", **OPTIONS)
    assert Descriptors.read(tmp_path / "out").vectors.shape == (38, 64)


def test_weights_that_are_not_finite(folder, variables, tmp_path):
    broken = jax.tree.map(lambda leaf: leaf * np.nan, variables)
    with pytest.raises(ValueError, match=r"jpg a descriptor that is not finite: are its weights finite\?"):
        write(broken, folder, tmp_path / "out")


def test_limits(folder, variables, tmp_path):
    Image.new("RGB", (200, 200)).save(folder / "large.png")
    summary = write(variables, folder, tmp_path / "out", max_pixels=10_000)
    assert (summary["embedded"], summary["unreadable"]) == (38, 3)
    with pytest.raises(ValueError, match="--max-pixels is 0; it must be positive"):
        write(variables, folder, tmp_path / "other", max_pixels=0)
    assert "200 x 200 are too many pixels: over 10000" in (tmp_path / "out" / "errors.jsonl").read_text()


def test_names_that_cannot_be_a_line_are_reported(folder, variables, tmp_path):
    image = (folder / "b" / "000.jpg").read_bytes()
    (folder / "two\nlines.jpg").write_bytes(image)
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.jpg")).write_bytes(image)
    summary = write(variables, folder, tmp_path / "out")
    assert (summary["total_embedded"], summary["unreadable"]) == (38, 4)
    errors = [json.loads(line) for line in (tmp_path / "out" / "errors.jsonl").read_text().splitlines()]
    assert "its name has a line break or is not valid Unicode" in errors[0]["reason"]


def test_what_cannot_work_is_refused(folder, variables, tmp_path):
    with pytest.raises(ValueError, match=r"--batch-size 12 does not divide over 8 devices: take a multiple of 8, as 8"):
        write(variables, folder, tmp_path / "out", batch_size=12)
    (folder / "b" / "000.png").write_bytes((folder / "b" / "000.jpg").read_bytes())
    with pytest.raises(ValueError, match=r"000\.jpg and .*000\.png have the same id b/000"):
        write(variables, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (folder / "b" / "000.png").unlink()
    write(variables, folder, tmp_path / "out")
    changed = jax.tree.map(lambda leaf: leaf + 1e-6, variables)
    with pytest.raises(ValueError, match=r"holds descriptors of .*photos by weights"):
        write(changed, folder, tmp_path / "out")
    shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(ValueError, match=r"holds descriptors of .*photos by weights.*, not of .*other by weights"):
        write(variables, tmp_path / "other", tmp_path / "out")


def test_float16(folder, variables, tmp_path):
    write(variables, folder, tmp_path / "out")
    write(variables, folder, tmp_path / "half", dtype="float16")
    whole, half = (Descriptors.read(tmp_path / name) for name in ("out", "half"))
    np.testing.assert_array_equal(half.vectors, whole.vectors.astype(np.float16).astype(np.float32))


def test_hosts_of_a_job(folder, variables, tmp_path):
    """Two processes that JAX joins as it joins those of a SLURM job."""
    write(variables, folder, tmp_path / "whole")
    write_safetensors(tmp_path / "w.safetensors", MODEL, variables, {})
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    preset = ["--preset", "custom", "--custom.size", "48", "--batch-size", "8", "--shard-size", "12"]
    arguments = [str(folder), "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out"), *preset]
    main = f"import jax; jax.config.update('jax_num_cpu_devices', 8); {MAIN}"
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    job["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", main, "embed", *arguments, "--distributed"],
            env=os.environ | job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for i in range(2)
    ]
    said = [json.loads(b"{" + process.communicate()[0].split(b"{", 1)[1]) for process in running]  # gloo prints too
    assert [process.returncode for process in running] == [0, 0]
    assert {one["embedded"] for one in said} == {23, 15}, "shards 0 and 2, 1 and 3, less what is broken"
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("seed", range(2))
def test_killed_at_any_moment(images, variables, tmp_path, seed):
    """Two processes that share the work, killed and started again until it is done."""
    write_safetensors(tmp_path / "w.safetensors", MODEL, variables, {})
    rng = np.random.default_rng(seed)

    def command(out: str, share: str) -> list[str]:
        options = ["--preset", "custom", "--custom.size", "224", "--batch-size", "4", "--shard-size", "4"]
        arguments = [str(images), "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / out)]
        return [sys.executable, "-c", MAIN, "embed", *arguments, *options, "--shard", share]

    subprocess.run(command("whole", "0/1"), check=True, capture_output=True)
    killed = 0
    for attempt in range(40):
        running = [
            subprocess.Popen(command("out", f"{i}/2"), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            for i in (0, 1)
        ]
        if attempt < 4:
            started = time.monotonic()
            while not any((tmp_path / "out").glob("plan/*.txt")) and time.monotonic() - started < 60:
                time.sleep(0.02)
            time.sleep(float(rng.uniform(0, 1)))
            for process in running:
                killed += process.poll() is None
                process.send_signal(signal.SIGKILL)
        codes = [process.wait() for process in running]
        if codes == [0, 0]:
            break
    assert killed
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_memory_source(variables, tmp_path):
    """A source need not be files."""
    file = io.BytesIO()
    Image.new("RGB", (64, 50), "red").save(file, "PNG")
    source = Source("memory", ["one"], ["one"], lambda _: file.getvalue())
    write_descriptors(MODEL, variables, source, PRESET, tmp_path / "out", **OPTIONS)
    assert list(Descriptors.read(tmp_path / "out").ids) == ["one"]
