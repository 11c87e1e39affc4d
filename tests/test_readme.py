"""The README's code does what it says. (.ci/run runs its two first commands.)"""

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.networks import seeded
from PIL import Image

from sscd_jax import Descriptors
from sscd_jax.cli.main import main
from sscd_jax.files import cache_folder
from sscd_jax.weights.fetch import PUBLISHED
from sscd_jax.weights.native import write_safetensors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
START = "sscd_jax"  # the section above the first heading
# As little training as shows that the command works.
REDUCED = ["--steps", "2", "--optimizer.warmup-steps", "1", "--data.batch-size", "16", "--data.image-size", "32"]
REDUCED += ["--model.backbone", "resnet18", "--model.width", "8", "--model.dims", "24"]


def section(title: str) -> str:
    """Returns a section of the README."""
    return README.split(f"# {title}\n")[1].split("\n## ")[0]


def commands(title: str) -> list[list[str]]:
    """Returns the shell commands in a section of the README."""
    blocks = re.findall(r"```bash\n(.*?)```", section(title), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


def test_the_readme_has_at_most_200_lines():
    assert len(README.splitlines()) <= 200


def test_the_first_commands_are_those_of_ci():
    first, second = (" ".join(command) for command in commands("Two commands"))
    ci = (ROOT / ".ci" / "run").read_text().replace("install -q", "install").replace("'", "")
    install, demo = first.split(" && ")
    assert ci.index(f'stage "install" {install}\n') < ci.index('stage "demo" demo\n') < ci.index("[test]")
    assert f"\n    {demo} " in ci
    install, pytest_ = second.split(" && ")
    assert ci.index(f" {install}\n") < ci.index(f'stage "default tier" {pytest_} ')
    (torch,) = re.findall(r"`(pip install torch.*?)`", (ROOT / "CONTRIBUTING.md").read_text())
    assert f" {torch}\n" in ci


def test_the_table_lists_the_published_weights():
    names = {"resnet50": "ResNet-50", "resnext101_32x4d": "ResNeXt-101 32x4d"}
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (\d+) \|", section("Published weights"), re.MULTILINE)
    assert sorted(rows) == sorted((name, names[backbone], str(dims)) for name, (backbone, dims) in PUBLISHED.items())


@pytest.fixture
def folder(images, tmp_path, monkeypatch) -> Path:
    """The working folder: it has photos, and a narrow network where sscd_disc_mixup is downloaded."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    cache_folder("weights").mkdir(parents=True)
    write_safetensors(cache_folder("weights") / "sscd_disc_mixup.safetensors", *seeded("resnet18", 24, width=8), {})
    shutil.copytree(images, "photos")
    return tmp_path


def test_the_first_example(folder):
    shutil.copy("photos/000.jpg", "a.jpg")
    Image.open("photos/001.jpg").save("b.png")
    (code,) = re.findall(r"```python\n(.*?)```", section(START), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["found"].vectors.shape == (42, 24)
    assert len(set(names["found"].ids)) == 42
    np.testing.assert_allclose(np.diag(names["similarities"]), 1, atol=1e-5)
    assert names["similarities"][0, 1] > 0.999, "a.jpg is photos/000.jpg"


@pytest.mark.slow
def test_search_and_evaluate(folder, capsys):
    Path("queries").mkdir()
    pairs = ["query_id,reference_id"]
    for path in sorted(Path("photos").iterdir())[:5]:
        shutil.copy(path, f"queries/Q{path.name}")
        pairs.append(f"Q{path.stem},{path.stem}")
    Path("ground_truth.csv").write_text("\n".join(pairs))

    ours = [command[1:] for command in commands("What you can do with it") if command[1] in ("embed", "evaluate")]
    assert [command[0] for command in ours] == ["embed", "embed", "evaluate"]
    for command in ours:
        main(command)
    assert "1.0000" in capsys.readouterr().out, "the uAP of images that are their own copies"
    assert len(Descriptors.read("descriptors/photos").ids) == 40


@pytest.mark.slow
def test_find_duplicates(folder):
    """The photographs are cuts of few images, which random weights find all alike, so only equal files are certain."""
    shutil.copy("photos/000.jpg", "photos/copy.jpg")
    (command,) = commands("Find duplicates")
    main([*command[1:], "--threshold", "1"])
    assert Path("duplicates/remove.txt").read_text() == f"{folder}/photos/copy.jpg\n"
    assert Path("duplicates/duplicates.html").exists()


@pytest.mark.slow
def test_train(folder):
    ours = [command[1:] for command in commands("What you can do with it") if command[1] in ("train", "preview")]
    assert [command[0] for command in ours] == ["train", "train", "preview"]
    for command in ours:
        main([*command, *(REDUCED if command[0] == "train" else [])])
    assert all(Path(path).exists() for path in ("runs/mine/checkpoints/2", "runs/fine/checkpoints/2", "sheet.png"))
