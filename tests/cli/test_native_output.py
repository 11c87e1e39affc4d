"""What reaches the terminal: our own lines, and what native code says only where it ends the process."""

import os
import re
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from PIL import Image

MAIN = "from sscd_jax.cli.main import main; main()"
# A bar of tqdm, and what train says of its run; each is a line of ours.
BAR = re.compile(r"^[\w ]*:? *\d+%\|.*\| \d+/\d+ \[.*\]$")


def command(*arguments: str, code: str = MAIN, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a command in a process of its own, where nothing is set that silences a library."""
    quiet = ("TF_CPP_MIN_LOG_LEVEL", "TF_ENABLE_ONEDNN_OPTS")
    environment = {name: value for name, value in os.environ.items() if name not in quiet} | variables
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, env=environment)


def strange_lines(stderr: str) -> list[str]:
    """Returns the lines that are neither a bar nor our own, where each carriage return begins a line again."""
    lines = [line.strip() for line in re.split(r"[\r\n]", stderr)]
    ours = re.compile(r"compiled the training step in [\d.]+ s")
    return [line for line in lines if line and not BAR.match(line) and not ours.fullmatch(line)]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    done = command("train", "debug", "--workdir", str(workdir), "--steps", "1", "--optimizer.warmup-steps", "0")
    assert done.returncode == 0, done.stderr
    (workdir / "stderr.txt").write_text(done.stderr)
    return workdir


@pytest.mark.slow
def test_training_says_nothing_but_its_own_lines(run):
    text = (run / "stderr.txt").read_text()
    assert strange_lines(text) == [], text


@pytest.mark.slow
def test_a_broken_color_profile_is_no_affair_of_the_user(run, tmp_path):
    """libpng, within TensorFlow, warns of it on file descriptor 2."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.linear_gradient("L").convert("RGB").save(folder / "a.png")
    data = (folder / "a.png").read_bytes()
    profile = b"ICC profile\0\0" + zlib.compress(b"\0\0\0\x80" + b"none" * 31)
    chunk = len(profile).to_bytes(4, "big") + b"iCCP" + profile + zlib.crc32(b"iCCP" + profile).to_bytes(4, "big")
    (folder / "a.png").write_bytes(data[:33] + chunk + data[33:])  # behind the header
    out = ["--out", str(tmp_path / "out"), "--batch-size", "1"]
    done = command("embed", str(folder), "--weights", str(run), *out)
    assert done.returncode == 0, done.stderr
    assert '"embedded": 1' in done.stdout
    assert strange_lines(done.stderr) == []


NATIVE = """
import os, signal, sys
from sscd_jax.cli.main import main
from sscd_jax.weights import fetch

def native(*_, **__):
    os.write(2, b"F0000 a check failed in native code\\n")
    print("our own line", file=sys.stderr)
    {what}

fetch.fetch = native
main(["weights", "fetch", "sscd_disc_mixup"])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "status", "shown"),
    [
        ("return", 0, False),
        ("raise ValueError('no')", 1, False),
        ("raise KeyboardInterrupt", 130, False),
        ("raise RuntimeError('a bug')", 1, True),
        ("os.abort()", -signal.SIGABRT, True),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL, True),
    ],
)
def test_the_log_is_named_where_it_may_explain_the_end(what, status, shown, tmp_path):
    done = command(code=NATIVE.format(what=what), TMPDIR=str(tmp_path))
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith("our own line\n")
    logs = list(tmp_path.glob("sscd-jax-*.log"))
    assert len(logs) == shown
    for log in logs:
        assert str(log) in done.stderr
        assert log.read_text() == "F0000 a check failed in native code\n"
    died = status < 0
    assert ("F0000 a check failed in native code" in done.stderr) == died, "its last lines are shown"
    if "ValueError" in what:
        assert done.stderr == "our own line\nsscd-jax weights fetch: no\n"


@pytest.mark.slow
def test_a_process_without_stderr_still_runs():
    done = subprocess.run(["sh", "-c", f'"{sys.executable}" -c "{MAIN}" weights fetch nothing 2>&-'], check=False)
    assert done.returncode == 1


@pytest.mark.slow
def test_no_import_changes_the_environment():
    """Ours does not; TensorFlow, JAX and h5py set variables of their own when they are imported."""
    ours = {"GCS_READAHEAD_BUFFER_SIZE_BYTES", "TF_NUM_INTRAOP_THREADS", "TF_USE_LEGACY_KERAS", "XLA_FLAGS"}
    code = f"""
import os
for name in {ours}:
    os.environ.pop(name, None)
before = dict(os.environ)
import sscd_jax.cli.main, sscd_jax.data.storage, sscd_jax.recipes
assert os.environ == before, {{*os.environ}} - {{*before}}
import sscd_jax.training.train, sscd_jax.demo
assert not ({ours} & {{*os.environ}} - {{*before}})
"""
    done = command(code=code)
    assert done.returncode == 0, done.stderr
