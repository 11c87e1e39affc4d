"""Descriptors in a store: written, resumed, read, evaluated and exported there, or refused in one line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.gcs import serve
from helpers.small_collection import MODEL, files

from sscd_jax.cli.main import main
from sscd_jax.weights.native import write_safetensors


def test_what_cannot_be_in_a_store_says_so(tmp_path, monkeypatch, capsys, variables):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["demo", "--out", "gs://bucket/demo"],
        ["benchmark", "make", "sample", "--out", "gs://bucket/b"],
        ["calibrate", "--training", "t", "--out", "gs://bucket/c.npz"],
        ["descriptors", "export", "d", "--out", "gs://bucket/all.npy"],
        ["evaluate", "disc", "--queries", "q", "--references", "r", "--ground-truth", "gs://bucket/truth.csv"],
        ["report", "gs://bucket/e.json"],
        ["preview", "demo", "--out", "gs://bucket/sheet.png"],
        ["weights", "convert", "w.pt", "--out", "gs://bucket/w.safetensors"],
        ["weights", "export", "w.pt", "--format", "npz", "--out", "gs://bucket/bundle"],
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 1
        assert "here, give a path on this machine, not in gs://" in capsys.readouterr().err, arguments
    write_safetensors(tmp_path / "w.safetensors", MODEL, variables, {})
    for out in ("gs:/bucket/x", "gs://", "gs:///x", "GS://bucket/x", "s3://bucket/x", "file:///x", "http://host/x"):
        for command in (["embed", "sample", "--weights", "w.safetensors"], ["pack", "sample"]):
            if command[0] == "pack" and out == "file:///x":
                continue
            with pytest.raises(SystemExit) as ended:
                main([*command, "--out", out])
            assert ended.value.code == 1
            assert f"{out}: give a folder on this machine, or one in a bucket" in capsys.readouterr().err
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(SystemExit):
        main(["embed", "sample", "--weights", "gs://bucket/w.pt", "--out", "d"])
    assert "gs://bucket/w.pt: copy them to this machine first" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["train", "demo", "--data.source", "sample", "--workdir", "gs://bucket/run"])
    assert "a run's folder must be on a disk; mount a bucket" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


# After the first batch, which is saved, the run is interrupted.
STOPS = """
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.embedding import compute
def stopping(*args, embed=compute.embed, **kwargs):
    for item in embed(*args, **kwargs):
        yield item
        if not isinstance(item, Unreadable):
            raise KeyboardInterrupt
compute.embed, compute.SAVE_SECONDS = stopping, 0.0
"""


@pytest.mark.slow
def test_a_bucket(folder, variables, tmp_path):
    """The commands on gs://, with a server on this machine in the place of Google's."""
    write_safetensors(tmp_path / "w.safetensors", MODEL, variables, {})
    for path in folder.rglob("*.jpg"):
        path.rename(folder / path.name)  # for ids that are short
    truth = "query_id,reference_id\n" + "".join(f"{path.stem},{path.stem}\n" for path in folder.glob("00*.jpg"))
    (tmp_path / "truth.csv").write_text(truth)
    eight = "import jax; jax.config.update('jax_num_cpu_devices', 8); from sscd_jax.cli.main import main; main()"
    options = ["--preset", "custom", "--custom.size", "48", "--batch-size", "8", "--shard-size", "12"]
    embed = ["embed", str(folder), "--weights", str(tmp_path / "w.safetensors"), *options, "--out"]

    def run(*arguments: str, status: int = 0, code: str = eight) -> str:
        command = [sys.executable, "-c", code, *arguments]
        with (tmp_path / "errors.log").open("w+") as errors:
            done = subprocess.run(
                command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=tmp_path
            )
            errors.seek(0)
            assert done.returncode == status, errors.read()
            return done.stdout or errors.read()

    with serve(tmp_path) as (bucket, more):
        environment = {**os.environ, **more}
        run(*embed, "gs://bucket/a/out", status=130, code=f"{STOPS}\n{eight}")
        assert not any("manifest" in name for name in bucket.objects)
        assert any("/saved-" in name for name in bucket.objects), "of a shard that is not complete"
        summary = json.loads(run(*embed, "gs://bucket/a/out"))
        assert 0 < summary["embedded"] < 38, "it is resumed"
        assert (summary["total_embedded"], summary["out"]) == (38, "gs://bucket/a/out")
        run(*embed, str(tmp_path / "out"))
        there = {name.removeprefix("bucket/a/out/"): data for name, data in bucket.objects.items()}
        assert {name: data for name, data in there.items() if name and not name.endswith("/")} == files(
            tmp_path / "out"
        )
        assert json.loads(run(*embed, "gs://bucket/a/out"))["embedded"] == 0
        sets = ["--queries", "gs://bucket/a/out", "--references", "gs://bucket/a/out"]
        run("evaluate", "disc", *sets, "--ground-truth", str(tmp_path / "truth.csv"), "--out", str(tmp_path / "e.json"))
        assert Path(tmp_path / "e.json").is_file()
        run("descriptors", "export", "gs://bucket/a/out", "--out", str(tmp_path / "all.npy"))
        assert np.load(tmp_path / "all.npy").shape == (38, 16)
        bucket.objects["bucket/a/out/notes.txt"] = b"mine"
        assert "a/out/notes.txt is in the way" in run(*embed, "gs://bucket/a/out", status=1)
        assert bucket.objects["bucket/a/out/notes.txt"] == b"mine"
    assert not [name for name in os.listdir(tmp_path) if ":" in name], "nothing is written beside"
