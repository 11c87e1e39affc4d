"""The README's commands do what it says. (Its two first commands are run by .ci/run.)"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.networks import seeded

from sscd_jax import Descriptors
from sscd_jax.cli.main import COMMANDS, main
from sscd_jax.presets import Preset
from sscd_jax.weights.export_onnx import write_onnx
from sscd_jax.weights.native import write_safetensors

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str, section: str) -> list[str]:
    """The code in a section of the README."""
    text = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def commands(section: str) -> list[list[str]]:
    return [shlex.split(line) for block in blocks("bash", section) for line in block.splitlines()]


# As little training as shows that the command works.
REDUCED = ["--steps", "2", "--optimizer.warmup-steps", "1", "--data.batch-size", "16"]


def test_the_first_commands_are_those_of_ci():
    first, second, third = (" ".join(command) for command in commands("Two commands"))
    ci = (ROOT / ".ci" / "run").read_text()
    install, demo = first.split(" && ")
    assert f"{install.replace('install', 'install -q')}\n{demo} " in ci
    install, pytest_ = second.split(" && ")
    assert install.replace("install", "install -q").replace(".[test]", "'.[test]'") in ci
    assert f"\n{pytest_} " in ci
    assert f"\n{third.replace('install', 'install -q')}\n" in ci


@pytest.fixture
def folder(images, tmp_path, monkeypatch) -> Path:
    """The working folder of the README's commands, with photos in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(images, "photos")
    return tmp_path


def test_your_own_images(folder, capsys):
    Path("queries").mkdir()
    pairs = ["query_id,reference_id"]
    for path in sorted(Path("photos").iterdir())[:5]:
        shutil.copy(path, f"queries/Q{path.name}")
        pairs.append(f"Q{path.stem},{path.stem}")
    Path("ground_truth.csv").write_text("\n".join(pairs))

    ours = [command[1:] for command in commands("Your own images")]
    assert [command[0] for command in ours] == ["train", "preview", "embed", "embed", "evaluate"]
    for command in ours:
        main([*command, *(REDUCED if command[0] == "train" else [])])
    assert "1.0000" in capsys.readouterr().out, "the uAP of images that are their own copies"
    (code,) = blocks("python", "Your own images")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [line.split() for line in found.splitlines()] == [[*pair.split(","), "1.00"] for pair in pairs[1:]]


def test_weights(folder, capsys, monkeypatch):
    """With a file in the cache as `weights fetch` would leave it, and a run of the section before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    (folder / "sscd_jax" / "weights").mkdir(parents=True)
    write_safetensors(folder / "sscd_jax" / "weights" / "sscd_disc_mixup.safetensors", *seeded("resnet18"), {})
    narrow = [*REDUCED, "--data.image-size", "32", "--model.width", "8", "--model.dims", "24"]
    narrow += ["--model.backbone", "resnet18"]
    write_onnx(folder / "model.onnx", *seeded("resnet18"), uint8=True, preset=Preset("skew", 320))
    main(["train", "configs/debug.py", "--workdir", "runs/mine", *REDUCED])
    ours = [command[1:] for command in commands("Weights")]
    assert [command[0] for command in ours] == ["weights", "embed", "weights", "weights", "train"]
    for command in ours:
        main([*command, *(narrow if command[0] == "train" else [])])
    assert len(Descriptors.read("descriptors/published").ids) == 40
    assert Path("bundle/sscd.onnx").exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(--[a-z]+[.-][a-z-]+)", README))))
def test_every_option_that_is_named_exists(name, capsys):
    helps = []
    for command in (name.split() for name in COMMANDS):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        helps.append(capsys.readouterr().out)
    assert re.search(rf"{name}\b", " ".join(helps))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"[\w/]+\.(?:py|jpg)\b", README))))
def test_every_file_that_is_named_exists(path):
    assert (ROOT / path).exists() or any((ROOT / "sscd_jax").rglob(path)), path
