"""The demo's recipe on the demo's images. (.ci/run runs the demo itself, at reduced length.)"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.networks import seeded

pytest.importorskip("matplotlib")
from sscd_jax import config as configs
from sscd_jax import recipes
from sscd_jax.cli.main import main
from sscd_jax.demo import RECIPE, SETS, _embed, demo_config, run
from sscd_jax.presets import Preset


def test_it_is_the_recipe_in_configs_on_its_own_images(tmp_path):
    recipe, config = recipes.load_file(RECIPE), demo_config(tmp_path, seed=3, steps=None)
    assert config.seed == 3
    assert config.data.source == str(tmp_path / "images" / "training")
    same = {"data": recipe.data, "validation": recipe.validation, "seed": recipe.seed}
    assert dataclasses.replace(config, **same) == recipe


def test_it_can_be_shorter(tmp_path):
    config = demo_config(tmp_path, seed=0, steps=20)
    assert config.steps == 20
    assert configs.run_length(config, 500).total == 20


def test_a_folder_with_another_demo_is_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    saved = tmp_path / "run" / "config.json"
    saved.write_text(json.dumps(configs.to_dict(demo_config(tmp_path, seed=0, steps=20))))
    for seed, steps in ((1, 20), (0, 21)):
        with pytest.raises(ValueError, match="another seed or length: remove it, or name another --out"):
            run(tmp_path, seed=seed, steps=steps)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "config.json"]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.jpg").touch()
    with pytest.raises(ValueError, match="something else than a demo"):
        run(tmp_path / "mine", seed=0, steps=20)
    # A demo that was killed when its training began is one; here its training images are gone.
    (tmp_path / "killed" / "run").mkdir(parents=True)
    (tmp_path / "killed" / "images").mkdir()
    (tmp_path / "killed" / "images" / "queries.csv").touch()
    with pytest.raises(ValueError, match="training: no such folder"):
        run(tmp_path / "killed", seed=0, steps=20)
    with pytest.raises(ValueError, match="steps is 0"):
        run(tmp_path / "new", seed=0, steps=0)


@pytest.mark.slow
def test_a_folder_with_the_name_of_a_set_does_not_matter(tmp_path, images, monkeypatch):
    """The demo resumes in any current folder, wherever its own folder was moved to."""
    for name in SETS:
        (tmp_path / "images" / name).mkdir(parents=True)
        for path in sorted(images.iterdir())[:2]:
            shutil.copy(path, tmp_path / "images" / name)
    network = seeded("resnet18", 8)
    monkeypatch.chdir(tmp_path)
    _embed(*network, tmp_path / "images", Preset("skew", 32), tmp_path / "descriptors")
    (tmp_path / "queries").mkdir()
    (tmp_path / "images").rename(tmp_path / "moved")
    again = _embed(*network, tmp_path / "moved", Preset("skew", 32), tmp_path / "descriptors")
    assert [len(again[name].ids) for name in SETS] == [2, 2, 2]


@pytest.mark.slow
def test_it_runs_twice_and_without_pdqhash(tmp_path):
    """The second run, without PDQ, beside folders that are called as its sets are, gives the same figures."""
    pytest.importorskip("pdqhash")
    command = "from sscd_jax.cli.main import main; main(['demo', '--steps', '1'])"
    said = _python(command, tmp_path)
    assert "PDQ, a perceptual hash" in said.stdout
    assert {"report.html", "metrics.json", "references.faiss"} <= {p.name for p in (tmp_path / "sscd-demo").iterdir()}
    first = json.loads((tmp_path / "sscd-demo" / "metrics.json").read_text())
    for name in SETS:
        (tmp_path / name).mkdir()
    said = _python(f"import sys; sys.modules['pdqhash'] = None; {command}", tmp_path)
    assert "the demo leaves out PDQ: pdqhash is not installed: pip install 'sscd_jax[pdq]'" in said.stderr
    second = json.loads((tmp_path / "sscd-demo" / "metrics.json").read_text())
    assert second["rows"] == first["rows"][1:]


@pytest.mark.parametrize("hidden", ["skimage", "sklearn"])
def test_photographs_that_are_not_installed_are_named(hidden, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(SystemExit):
        main(["demo", "--out", str(tmp_path / "demo")])
    said = capsys.readouterr().err
    assert hidden in said
    assert "pip install 'sscd_jax[demo]'" in said
    assert not list(tmp_path.rglob("*.jpg"))


def _python(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs a command in a new process in a folder."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done
