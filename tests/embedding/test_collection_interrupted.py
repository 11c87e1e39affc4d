"""An embedding that is interrupted, killed or shared ends with the same files, and loses little work."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.small_collection import MODEL, files, make_folder, write

from sscd_jax.data import image_source
from sscd_jax.embedding import compute
from sscd_jax.weights.native import write_safetensors

MAIN = "from sscd_jax.cli.main import main; main()"
EIGHT = "import jax; jax.config.update('jax_num_cpu_devices', 8)"

SAVES = f"from sscd_jax.embedding import compute; compute.SAVE_SECONDS = 0; {MAIN}"

# The command, which stops after four batches and unreadable images, as if the next took for ever.
STOPS = f"""
{EIGHT}
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs of a shell ignore it
from pathlib import Path
from sscd_jax.embedding import compute
embed, ready = compute.embed, Path(sys.argv.pop(1))
compute.SAVE_SECONDS = float(sys.argv.pop(1))
def stopping(*args, **kwargs):
    for number, item in enumerate(embed(*args, **kwargs)):
        if number == 4:
            ready.touch()
            time.sleep(600)
        yield item
compute.embed = stopping
{MAIN}
"""


@pytest.fixture(scope="module")
def folder(images, tmp_path_factory) -> Path:
    return make_folder(images, tmp_path_factory.mktemp("collection") / "photos")


@pytest.fixture(scope="module")
def undisturbed(folder, variables, tmp_path_factory) -> dict[str, bytes]:
    """The files of a run without an interruption."""
    out = tmp_path_factory.mktemp("undisturbed")
    write(variables, folder, out)
    return files(out)


@pytest.fixture
def arguments(folder, variables, tmp_path) -> list[str]:
    """The command line for what `write` does, but for the size of shards."""
    write_safetensors(tmp_path / "w.safetensors", MODEL, variables, {})
    preset = ["--preset", "custom", "--custom.size", "48", "--batch-size", "8"]
    return ["embed", str(folder), "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out"), *preset]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("by", "save_seconds"),
    [
        pytest.param(signal.SIGINT, 60, id="interrupted", marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, 0, id="killed"),
    ],
)
def test_what_was_computed_of_a_shard_is_not_computed_again(
    folder, variables, arguments, tmp_path, monkeypatch, by, save_seconds
):
    """An interruption saves at once what was computed; for a kill it has been saved every SAVE_SECONDS."""
    assert compute.SAVE_SECONDS <= 60
    ready = tmp_path / "ready"
    command = [sys.executable, "-c", STOPS, str(ready), str(save_seconds), *arguments, "--shard-size", "40"]
    with subprocess.Popen(command) as process:
        while not ready.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(by)
    assert process.returncode == (130 if by == signal.SIGINT else -by)
    assert list((tmp_path / "out").glob("saved-00000-*"))
    assert not list((tmp_path / "out").glob("vectors-*")), "it was killed in the middle of the first shard"

    read: list[str] = []
    load = image_source.read_file
    monkeypatch.setattr(image_source, "read_file", lambda path: read.append(path) or load(path))
    summary = write(variables, folder, tmp_path / "out", shard_size=40)
    assert len(read) == len(set(read)) == summary["embedded"] + 2
    assert {str(folder / "b" / f"{n}.jpg") for n in ("013", "029")} <= {*read}, "what cannot be read is tried again"
    assert len(read) <= 40 - 8, "at least one batch of 8 images was computed"
    monkeypatch.undo()
    write(variables, folder, tmp_path / "undisturbed", shard_size=40)
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")


def test_an_interrupted_run_is_resumed(folder, undisturbed, variables, tmp_path, monkeypatch):
    embed = compute.embed

    def until(last: int):
        def stopping(*args, **kwargs):
            for number, item in enumerate(embed(*args, **kwargs)):
                if number == last:
                    raise KeyboardInterrupt
                yield item

        return stopping

    for last in (0, 5, 3, 2):
        monkeypatch.setattr(compute, "embed", until(last))
        with pytest.raises(KeyboardInterrupt):
            write(variables, folder, tmp_path / "out")
        assert not (tmp_path / "out" / "manifest.json").exists()
    monkeypatch.setattr(compute, "embed", embed)
    summary = write(variables, folder, tmp_path / "out")
    assert 0 < summary["embedded"] < 38, "what was computed is not computed again"
    assert files(tmp_path / "out") == undisturbed


def test_shares(folder, undisturbed, variables, tmp_path):
    summaries = [write(variables, folder, tmp_path / "out", shard=(part, 3)) for part in (2, 0, 1)]
    assert [s["total_embedded"] for s in summaries] == [None, None, 38], "the last one finishes"
    assert sum(s["embedded"] for s in summaries) == 38
    assert files(tmp_path / "out") == undisturbed
    with pytest.raises(ValueError, match="there is no shard 3/3: they are 0/3 to 2/3"):
        write(variables, folder, tmp_path / "out", shard=(3, 3))


@pytest.mark.slow
def test_processes_of_a_job_share_the_work_by_themselves(undisturbed, arguments, tmp_path):
    """Two processes that JAX joins as it joins those of a Slurm job."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    job = {"SLURM_JOB_ID": "1", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_NODES": "1"}
    job["JAX_COORDINATOR_ADDRESS"] = f"localhost:{port}"
    running = [
        subprocess.Popen(
            [sys.executable, "-c", f"{EIGHT}; {MAIN}", *arguments, "--shard-size", "12"],
            env=os.environ | job | {"SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        for i in range(2)
    ]
    said = [json.loads(b"{" + process.communicate()[0].split(b"{", 1)[1]) for process in running]  # gloo prints too
    assert [process.returncode for process in running] == [0, 0]
    assert {one["embedded"] for one in said} == {23, 15}, "shards 0 and 2, 1 and 3, less what is broken"
    assert files(tmp_path / "out") == undisturbed


@pytest.mark.parametrize(("seed", "shard_size"), [(0, 4), (1, 12)])
@pytest.mark.slow
def test_killed_at_any_moment(images, variables, tmp_path, seed, shard_size):
    """Two processes that share the work, killed and started again until it is done."""
    write_safetensors(tmp_path / "w.safetensors", MODEL, variables, {})
    rng = np.random.default_rng(seed)

    def command(out: str, share: str) -> list[str]:
        options = ["--preset", "custom", "--custom.size", "224", "--batch-size", "4", "--shard-size", f"{shard_size}"]
        arguments = [str(images), "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / out)]
        return [sys.executable, "-c", SAVES, "embed", *arguments, *options, "--shard", share]

    subprocess.run(command("undisturbed", "0/1"), check=True, capture_output=True)
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
    assert files(tmp_path / "out") == files(tmp_path / "undisturbed")
