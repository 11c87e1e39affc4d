"""The commands that find duplicates, move them away and bring them back, with a narrow network."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.networks import seeded

from sscd_jax.cli.main import main
from sscd_jax.descriptors import Descriptors
from sscd_jax.search.calibration import Calibration
from sscd_jax.weights.native import write_npz

PLAIN = ("--score", "similarity", "--threshold", "0.9999")  # the narrow network finds all photographs alike


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "weights.npz"
    write_npz(path, *seeded("resnet18"), {})
    return path


@pytest.fixture
def folder(images, tmp_path, monkeypatch) -> Path:
    """Here are `photos`, with a copy of the first one's bytes in a folder below, and `others`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos" / "copies").mkdir(parents=True)
    (tmp_path / "others").mkdir()
    for number, path in enumerate(sorted(images.iterdir())[:9]):
        shutil.copy(path, tmp_path / ("photos" if number < 3 else "others"))
    shutil.copy(tmp_path / "photos" / "000.jpg", tmp_path / "photos" / "copies" / "a b.jpg")
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def fails(capsys, *command: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(command))
    assert ended.value.code == 1
    return capsys.readouterr().err.splitlines()[-1]


def test_find_move_and_bring_back(folder, weights, capsys):
    main(["dedup", "photos", "--out", "out", "--weights", str(weights), *PLAIN])
    printed = capsys.readouterr().out
    summary = json.loads(printed[: printed.rindex("}") + 1])
    assert (summary["images"], summary["groups"], summary["duplicates"]) == (4, 1, 1)
    assert printed.endswith("Look at out/duplicates.html\n")
    before = files(folder / "photos")

    main(["dedup", "apply", "out", "--move-to", "gone"])
    printed = capsys.readouterr().out
    assert f"{folder}/photos/copies/a b.jpg -> {folder}/gone/copies/a b.jpg" in printed
    assert "1 file of" in printed
    assert printed.endswith("Nothing was done. Give --yes to do it.\n")
    assert files(folder / "photos") == before

    main(["dedup", "apply", "out", "--move-to", "gone", "--yes"])
    assert "To bring them back: sscd-jax dedup undo out" in capsys.readouterr().out
    assert files(folder / "photos") == ["000.jpg", "001.jpg", "002.jpg"]
    main(["dedup", "undo", "out"])
    assert "1 file of" in capsys.readouterr().out
    assert files(folder / "photos") == before

    main(["dedup", "apply", "out", "--hardlink", "--yes"])
    assert (folder / "photos" / "000.jpg").samefile(folder / "photos" / "copies" / "a b.jpg")
    main(["dedup", "undo", "out"])
    assert not (folder / "photos" / "000.jpg").samefile(folder / "photos" / "copies" / "a b.jpg")
    assert files(folder / "photos") == before


def test_what_is_skipped_is_said_and_is_an_error(folder, weights, capsys):
    main(["dedup", "photos", "--out", "out", "--weights", str(weights), *PLAIN])
    (folder / "photos" / "copies" / "a b.jpg").write_bytes(b"changed")
    error = fails(capsys, "dedup", "apply", "out", "--move-to", "gone", "--yes")
    assert "1 file was skipped, as the lines above say" in error
    assert (folder / "photos" / "copies" / "a b.jpg").read_bytes() == b"changed"


@pytest.mark.slow
def test_what_is_refused(folder, weights, capsys):
    assert "name at least one SOURCE" in fails(capsys, "dedup", "--out", "out")
    for option in (("--background", "others"), ("--calibration", "c.npz")):
        error = fails(capsys, "dedup", "photos", "--out", "out", "--score", "similarity", *option)
        assert "leaves out no background" in error
    error = fails(capsys, "dedup", "photos", "--out", "out", "--background", "others", "--calibration", "c.npz")
    assert "has a background of its own" in error
    assert "threshold is 2" in fails(capsys, "dedup", "photos", "--out", "out", "--threshold", "2")
    assert "give either --move-to FOLDER or --hardlink" in fails(capsys, "dedup", "apply", "out")
    assert "`sscd-jax dedup` has not written it" in fails(capsys, "dedup", "apply", "photos", "--hardlink")
    assert "is not a folder that `sscd-jax dedup` has written" in fails(capsys, "dedup", "undo", "photos")
    assert "name a folder for the duplicates" in fails(capsys, "dedup", "apply", "out", "--move-to", ".")
    assert "there is no folder nothing" in fails(capsys, "dedup", "undo", "nothing")
    main(["dedup", "photos", "--out", "out", "--weights", str(weights), *PLAIN])
    error = fails(capsys, "dedup", "apply", "out", "--move-to", "photos/gone", "--yes")
    assert "name a folder outside of" in error
    assert "photos is given twice" in fails(capsys, "dedup", "photos", "photos", "--out", "out")


@pytest.mark.slow
def test_a_folder_that_is_called_apply(folder, weights, capsys):
    (folder / "photos").rename(folder / "apply")
    main(["dedup", "./apply", "--out", "out", "--weights", str(weights), *PLAIN])
    assert '"duplicates": 1' in capsys.readouterr().out


@pytest.mark.slow
def test_background_and_calibration(folder, weights, capsys):
    base = ["dedup", "photos", "--out", "out", "--weights", str(weights), "--threshold", "-1"]
    main([*base, "--background", "others"])
    assert len(Descriptors.read(folder / "out" / "background").ids) == 6
    once = (folder / "out" / "pairs.csv").read_text()
    main([*base, "--background", "out/background"])  # descriptors that were computed before
    assert (folder / "out" / "pairs.csv").read_text() == once

    rng = np.random.default_rng(0)
    some = Descriptors.read(folder / "out" / "background")
    vectors = np.asarray(some.vectors).repeat(50, 0) + 0.02 * rng.standard_normal((300, some.vectors.shape[1]))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    Descriptors([str(n) for n in range(300)], vectors, some.provenance).write(folder / "training")
    main(["calibrate", "--training", "training", "--out", "c.npz", "--method", "none", "--false-positive-rate", "0.1"])
    main(["dedup", "photos", "--out", "out", "--weights", str(weights), "--calibration", "c.npz"])
    summary = json.loads((folder / "out" / "summary.json").read_text())
    assert summary["threshold"] == Calibration.read(Path("c.npz")).threshold
