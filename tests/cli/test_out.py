"""No command replaces or removes what this package did not write: --out at files and folders of others."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import seeded

from sscd_jax import Descriptors, Provenance
from sscd_jax.cli.main import main
from sscd_jax.weights.native import write_npz

TRUTH = "query_id,reference_id\n" + "".join(f"{n},{n}\n" for n in range(9))
FILES = {"manifest.json": '{"name": "a web application"}', "src/thesis.txt": "mine", "predictions.npz": "not ours"}


@pytest.fixture(scope="module")
def given(images, tmp_path_factory) -> dict[str, str]:
    """Paths for the command lines below."""
    folder = tmp_path_factory.mktemp("given")
    write_npz(folder / "weights.npz", *seeded("resnet18"), {})
    vectors = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)
    Descriptors([str(n) for n in range(40)], vectors, Provenance("w", "p")).write(folder / "set")
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    for name, some in (("some", slice(20)), ("others", slice(20, 40))):
        ids = [str(n) for n in range(20)]
        Descriptors(ids, (vectors / norms)[some], Provenance("w", "dcr_224")).write(folder / name)
    copydays = [f"{2000 + n // 2}0{n % 2}" for n in range(8)]
    Descriptors(copydays, vectors[:8], Provenance("w", "p")).write(folder / "copydays")
    (folder / "truth.csv").write_text(TRUTH)
    sets = ["--queries", str(folder / "set"), "--references", str(folder / "set")]
    main(["evaluate", "disc", *sets, "--ground-truth", str(folder / "truth.csv"), "--out", str(folder / "e.json")])
    return {"IMAGES": str(images)} | {
        name.upper(): str(folder / file)
        for name, file in (
            ("weights", "weights.npz"),
            ("set", "set"),
            ("some", "some"),
            ("others", "others"),
            ("truth", "truth.csv"),
            ("e", "e.json"),
        )
    }


# What writes a folder, and what writes a file of this extension.
INTO_FOLDERS = (
    "embed IMAGES --weights WEIGHTS --out OUT",
    "dedup IMAGES --weights WEIGHTS --out OUT",
    "weights export WEIGHTS --format npz --images IMAGES --out OUT",
    "benchmark make IMAGES --out OUT",
    "pack IMAGES --out OUT",
    "demo --steps 2 --out OUT",
    "dedup IMAGES --weights WEIGHTS --out OUT",
    "dedup IMAGES --against SET --weights WEIGHTS --out OUT",
    "search IMAGES IMAGES --weights WEIGHTS --out OUT",
    "search SET SET --out OUT",
    "overlap IMAGES IMAGES --weights WEIGHTS --out OUT",
)
INTO_FILES = (
    ("evaluate disc --queries SET --references SET --ground-truth TRUTH --bootstrap 0 --out OUT", ".json"),
    ("evaluate memorization --generated SOME --training OTHERS --bootstrap 0 --out OUT", ".json"),
    ("calibrate --training SET --false-positive-rate 0.1 --score-norm none --method none --out OUT", ".npz"),
    ("descriptors export SET --out OUT", ".npy"),
    ("descriptors export SET --out OUT", ".faiss"),
    ("descriptors export SET --out OUT", ".parquet"),
    ("descriptors export SET --out OUT", ".hdf5"),
    ("report E --out OUT", ".html"),
    ("weights convert WEIGHTS --out OUT", ".safetensors"),
    ("preview debug --rows 1 --pairs 1 --data.image-size 32 --out OUT", ".png"),
)


def refused(command: str, given: dict[str, str], out: Path, capsys) -> str:
    """Runs a command that must end with status 1 and one line, which is returned; skips without its extra."""
    if command.startswith(("demo ", "report ")):
        pytest.importorskip("matplotlib")
    arguments = [(given | {"OUT": str(out)}).get(word, word) for word in command.split()]
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 1
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("sscd-jax ")]
    return line


def everything(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("command", INTO_FOLDERS)
def test_a_folder_of_others(given, tmp_path, capsys, command):
    out = tmp_path / "out"
    for name, text in FILES.items():
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text(text)
    before = everything(tmp_path)
    assert str(out) in refused(command, given, out, capsys)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("command", [*INTO_FOLDERS, "train debug --data.source IMAGES --workdir OUT"])
def test_a_file_where_a_folder_goes(given, tmp_path, capsys, command):
    out = tmp_path / "out"
    out.write_text("mine")
    assert str(out) in refused(command, given, out, capsys)
    assert out.read_text() == "mine"


@pytest.mark.parametrize(
    ("command", "extension"),
    [
        pytest.param(c, e, id=f"{c.split()[0]}{e}", marks=[pytest.mark.slow] if c.startswith("preview") else [])
        for c, e in INTO_FILES
    ],
)
def test_a_file_of_others(given, tmp_path, capsys, command, extension):
    out = tmp_path / f"out{extension}"
    out.write_text('{"mine": true}')
    assert f"{out} exists already and is not what would be written there: move it or name another place" in refused(
        command, given, out, capsys
    )
    assert everything(tmp_path) == {str(out): hashlib.sha256(b'{"mine": true}').hexdigest()}
    (tmp_path / "folder").mkdir()
    assert "out" in refused(command, given, tmp_path / "folder", capsys)
    out.unlink()
    for _ in range(2):  # an earlier output of this kind is replaced
        main([(given | {"OUT": str(out)}).get(word, word) for word in command.split()])
        assert out.stat().st_size > 20


def test_a_folder_of_others_beside_the_file(given, tmp_path, capsys):
    """The charts of evaluations go to a folder of the name of the file."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.npz").write_text("mine")
    line = refused(INTO_FILES[0][0], given, tmp_path / "out.json", capsys)
    assert "out exists already and is not a folder of sscd_jax evaluation: it holds predictions.npz" in line
    assert not (tmp_path / "out.json").exists()


def test_pairs_of_others_beside_the_file(given, tmp_path, capsys):
    """The pairs of `evaluate memorization` go to a file beside its numbers."""
    (tmp_path / "out.pairs.csv").write_text("mine")
    line = refused(INTO_FILES[1][0], given, tmp_path / "out.json", capsys)
    assert "out.pairs.csv exists already and is not what would be written there" in line
    assert everything(tmp_path).keys() == {str(tmp_path / "out.pairs.csv")}


def test_a_config_of_others_in_the_folder_of_a_run(given, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"name": "a web application"}))
    line = refused("train debug --data.source IMAGES --workdir OUT", given, tmp_path / "run", capsys)
    assert "config.json exists already and is not what would be written there" in line


@pytest.mark.slow
@pytest.mark.parametrize("command", [*INTO_FOLDERS, "train debug --data.source IMAGES --workdir OUT"])
def test_a_folder_that_takes_no_files(given, capsys, command):
    """/proc refuses everyone, root included."""
    assert "/proc/sscd" in refused(command, given, Path("/proc/sscd/out"), capsys)
