"""The blocks of docs/duplicates.md do what they say, with a network of random weights."""

import re
import shlex
import shutil
import subprocess
import sys

import pytest
from helpers.pages import PAGES, empty_folder, fetch
from PIL import Image

from sscd_jax.cli.main import main
from sscd_jax.data.sample import photograph_paths

pytestmark = pytest.mark.slow

BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGES["duplicates"], re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of two photographs and a copy of the bytes of one; the weights are in the cache."""
    folder = empty_folder(tmp_path, monkeypatch)
    fetch(width=8)
    (folder / "photos").mkdir()
    (folder / "backup").mkdir()
    for number, path in enumerate(list(photograph_paths().values())[:2]):
        image = Image.open(path).convert("RGB").resize((96, 80))
        image.save(folder / "photos" / f"{number}.jpg")
    shutil.copy(folder / "photos" / "1.jpg", folder / "photos" / "copy.jpg")
    shutil.copy(folder / "photos" / "0.jpg", folder / "backup")
    return folder


def run(block: str) -> None:
    for line in block.splitlines():
        command = shlex.split(line)
        assert command[0] == "sscd-jax"
        main(command[1:])


def test_commands(folder, capsys):
    bash = [block for language, block in BLOCKS if language == "bash"]
    assert len(bash) == 4
    threshold = " --threshold 0.99999 --score similarity"  # random weights find all images alike
    for block in bash:
        run("\n".join(line + threshold * (" --out dup" in line) for line in block.splitlines()))
    printed = capsys.readouterr().out
    assert "1 file of" in printed
    assert "would be moved to removed." in printed
    assert "was brought back." in printed
    assert sorted(path.name for path in (folder / "photos").iterdir()) == ["0.jpg", "1.jpg", "copy.jpg"]
    assert (folder / "duplicates" / "remove.txt").read_text() == f"{folder}/photos/copy.jpg\n"
    assert (folder / "duplicates_of_both" / "remove.txt").read_text().splitlines() == [
        f"{folder}/photos/copy.jpg",
        f"{folder}/backup/0.jpg",
    ]
    table = PAGES["duplicates"].split("## What is written")[1].split("\n## ")[0]
    named = set(re.findall(r"`([a-z]+\.[a-z]+|descriptors/)`", table))
    there = {path.name + "/" * path.is_dir() for path in (folder / "duplicates").iterdir()}
    assert named - {"errors.jsonl"} <= there
    assert there - named <= {"dedup.json", "moves.jsonl", ".lock"}


def test_clean_a_training_set(folder, capsys):
    (folder / "photos").rename(folder / "train")
    (folder / "backup").rename(folder / "test")
    shutil.copy(folder / "train" / "1.jpg", folder / "query.jpg")
    plain = " --threshold 0.99999 --score similarity"
    for language, block in re.findall(r"```(\w+)\n(.*?)```", PAGES["clean"], re.DOTALL):
        assert language == "bash"
        run(block.strip() + plain * (" pack " not in block))
    assert "1 of 1 image" in capsys.readouterr().out
    assert (folder / "duplicates" / "keep.txt").read_text() == f"{folder}/train/0.jpg\n{folder}/train/1.jpg\n"
    assert (folder / "leaks" / "test_in_train.txt").read_text() == f"{folder}/test/0.jpg\n"
    assert (folder / "leaks" / "train_in_test.txt").read_text() == f"{folder}/train/0.jpg\n"
    kept = (folder / "without_test" / "keep.txt").read_text().splitlines()
    assert kept == [f"{folder}/train/1.jpg", f"{folder}/train/copy.jpg"]
    table = PAGES["clean"].split("## Find test images")[1].split("\n## ")[0]
    there = {path.name for path in (folder / "leaks").iterdir()}
    assert set(re.findall(r"`([a-z_]+\.(?:html|csv|parquet|txt|json))`", table)) - {"keep.txt"} <= there
    for name in ("matches.csv", "matches.jsonl", "matches.parquet", "matches.html"):
        assert name in PAGES["clean"]
        assert (folder / "found" / name).exists()


def test_python(folder):
    pytest.importorskip("cv2")
    sections = [PAGES["duplicates"].split(f"## {title}")[1] for title in ("Which part was copied", "In Python")]
    for section in sections:
        code, expected = (
            re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)[0] for language in ("python", "text")
        )
        if "verify_copy" in code:
            photograph = Image.open(photograph_paths()["astronaut"]).convert("RGB")
            photograph.save(folder / "photos" / "1.jpg")
            part = photograph.crop((160, 200, 480, 360))
            part.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "crop.jpg")
        else:
            shutil.copy(folder / "photos" / "1.jpg", folder / "photos" / "copy.jpg")
            code = code.replace('("photos")', '("photos", threshold=0.99999, score="similarity")')  # as above
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, expected), done.stderr
