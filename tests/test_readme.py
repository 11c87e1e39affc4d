"""The README's commands do what it says. (Its two first commands are run by .ci/run.)"""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sscd_jax.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


COMMANDS = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
# As little training as shows that the command works.
REDUCED = ["--steps", "2", "--optimizer.warmup-steps", "1", "--data.batch-size", "16"]


def test_the_first_commands_are_those_of_ci():
    first, second = (" ".join(command) for command in COMMANDS[:2])
    ci = (ROOT / ".ci" / "run").read_text()
    install, demo = first.split(" && ")
    assert f"{install.replace('install', 'install -q')}\n{demo} " in ci
    install, pytest_ = second.split(" && ")
    assert install.replace("install", "install -q").replace(".[test]", "'.[test]'") in ci
    assert f"\n{pytest_} " in ci


def test_your_own_pictures(pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    shutil.copytree(pictures, "photos")
    Path("queries").mkdir()
    pairs = ["query_id,reference_id"]
    for path in sorted(Path("photos").iterdir())[:5]:
        shutil.copy(path, f"queries/Q{path.name}")
        pairs.append(f"Q{path.stem},{path.stem}")
    Path("ground_truth.csv").write_text("\n".join(pairs))

    ours = [command[1:] for command in COMMANDS[2:] if command[0] == "sscd-jax"]
    assert [command[0] for command in ours] == ["train", "embed", "embed", "evaluate"]
    for command in ours:
        main([*command, *(REDUCED if command[0] == "train" else [])])
    assert "1.0000" in capsys.readouterr().out, "the uAP of pictures that are their own copies"
    (code,) = blocks("python")
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert [line.split() for line in found.splitlines()] == [[*pair.split(","), "1.00"] for pair in pairs[1:]]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(--[a-z]+\.[a-z-]+)`", README))))
def test_every_option_that_is_named_exists(name, capsys):
    helps = []
    for command in (["train", str(ROOT / "configs" / "demo.py")], ["embed"], ["evaluate", "disc"], ["demo"]):
        with pytest.raises(SystemExit):
            main([*command, "--help"])
        helps.append(capsys.readouterr().out)
    assert re.search(rf"{name}\b", " ".join(helps))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"[\w/]+\.(?:py|jpg)\b", README))))
def test_every_file_that_is_named_exists(path):
    assert any((folder / path).exists() for folder in (ROOT, ROOT / "sscd_jax")), path
