"""The pages of docs/, and what runs their blocks."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.networks import seeded
from sscd_jax.cli.main import main
from sscd_jax.files import cache_folder
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.weights.native import write_safetensors

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {path.relative_to(DOCS).with_suffix("").as_posix(): path.read_text() for path in DOCS.rglob("*.md")}
RUN = ("serving", "embedding", "evaluation", "generative", "training", "weights")  # the pages whose sections are run
SECTIONS = {
    title: text
    for page in RUN
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGES[page], re.DOTALL | re.MULTILINE)
}
SERVER = ("tensorflow_model_server", "curl")  # these commands are not run
# The modules of the packages that an example may need.
MODULES = {
    "faiss-cpu": ["faiss"],
    "h5py": ["h5py"],
    "pandas": ["pandas"],
    "pyarrow": ["pyarrow"],
    "flatbuffers": [],  # of TensorFlow and onnxruntime too
    "jax": ["jax", "jaxlib"],
    "numpy": [],
    "onnxruntime": ["onnxruntime"],
    "pillow": ["PIL"],
    "safetensors": ["safetensors"],
    "sscd_jax": ["sscd_jax", "flax"],
    "tensorflow": ["tensorflow", "keras"],
    "torch": ["torch"],
    "torchvision": ["torchvision"],
}


def fetch(*, width: int) -> None:
    cache_folder("weights").mkdir(parents=True, exist_ok=True)
    write_safetensors(
        cache_folder("weights") / "sscd_disc_mixup.safetensors", *seeded("resnet50", 512, width=width), {}
    )


def run_section(title: str, *, train: str = "") -> str:
    """Runs a section's blocks in order and returns what its Python printed; `train` has more options for `train`."""
    section, printed = SECTIONS[title], ""
    for language, block in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
        if language == "bash":
            for line in block.splitlines():
                command = shlex.split(line)
                if command[0] == "sscd-jax":
                    main([*command[1:], *(train.split() if command[1] == "train" else [])])
                elif command[0] not in SERVER:
                    subprocess.run(["bash", "-c", line], check=True, capture_output=True)
        elif language == "python":
            (named,) = re.findall(r"^Needs `pip install (.+)`\.$", section, re.MULTILINE)
            printed = python(block, named.split())
        else:
            assert language == "text"
            assert printed == block
    return printed


def python(code: str, packages: list[str]) -> str:
    """Returns what the code prints in a process in which only these packages can be imported."""
    absent = sorted({module for name in MODULES.keys() - set(packages) for module in MODULES[name]})
    hide = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"  # their import is an ImportError
    ours = ("XLA_FLAGS", "TF_USE_LEGACY_KERAS")  # which a user has not set
    env = {name: value for name, value in os.environ.items() if name not in ours}
    done = subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a narrow network with seeded weights in the place of sscd_disc_mixup."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PRESETS, "skew_320", Preset("skew", 64))
    fetch(width=8)
    return tmp_path
