"""The wheel in a new environment, from an empty folder: all that a user needs is in it."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from helpers.networks import seeded
from PIL import Image

from sscd_jax.data.sample import photograph_paths
from sscd_jax.weights.native import write_safetensors

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROGRAMS = "Scripts" if os.name == "nt" else "bin"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy of the sources, as a build leaves files in its folder, and takes up those of earlier builds."""
    out, sources = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("sources")
    shutil.copytree(ROOT / "sscd_jax", sources / "sscd_jax", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", str(out)]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *options, str(sources)], check=True)
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel; the other packages are those of the running one, nothing is downloaded."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    names = {"base": str(folder), "platbase": str(folder)}
    packages = Path(sysconfig.get_path("purelib", "venv", vars=names))
    options = ["--no-deps", "--no-index", "--quiet", "--prefix", str(folder), "--ignore-installed"]
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True)
    running = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "running.pth").write_text("".join(f"{path}\n" for path in running))
    return folder


def run(environment: Path, folder: Path, program: str, *arguments: str) -> str:
    """What a program of the environment prints, started in a folder without the variables that point to the sources."""
    variables = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XLA_FLAGS")}
    command = [str(environment / PROGRAMS / program), *arguments]
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_what_is_not_python(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in ("py.typed", "duplicates/page.html.jinja", "evaluation/report/page.html.jinja", "api.py"):
        assert f"sscd_jax/{path}" in names
    assert any(name.startswith("sscd_jax/recipes/") for name in names), "recipes are part of the package"
    assert not [name for name in names if name.startswith(("tests/", "configs/", "scripts/"))]


def test_load_and_embed(environment, tmp_path):
    write_safetensors(tmp_path / "narrow.safetensors", *seeded("resnet18"), {})
    for name in ("coffee", "chelsea"):
        Image.open(photograph_paths()[name]).resize((96, 80)).save(tmp_path / f"{name}.jpg")
    code = """
import json, sscd_jax
found = sscd_jax.load("narrow.safetensors").embed(["coffee.jpg", "chelsea.jpg"])
print(json.dumps({"file": sscd_jax.__file__, "ids": found.ids, "shape": found.vectors.shape}))
"""
    told = json.loads(run(environment, tmp_path, "python", "-c", code))
    assert Path(told["file"]).is_relative_to(environment)
    assert (told["ids"], told["shape"]) == (["coffee", "chelsea"], [2, 24])


def test_the_command_and_two_steps_of_the_demo(environment, tmp_path):
    run(environment, tmp_path, "sscd-jax", "demo", "--steps", "2")
    assert (tmp_path / "sscd-demo" / "report.html").is_file()
