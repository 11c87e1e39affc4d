"""The blocks of docs/serving.md and docs/embedding.md do what they say, without the packages that they do not name.

A block of text is what the Python before it prints. Pictures have 64 pixels a side here, not 320: it takes seconds.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import needs_torch, seeded
from PIL import Image

from sscd_jax.cache import cache_folder
from sscd_jax.cli import main
from sscd_jax.data.pictures import apply_preset, open_picture
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.models import normalize
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.weights.files import write_safetensors

DOCS = Path(__file__).parents[1] / "docs"
PAGES = {name: (DOCS / f"{name}.md").read_text() for name in ("serving", "embedding")}
SECTIONS = {
    title: text
    for page in PAGES.values()
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
}
SERVER = ("tensorflow_model_server", "curl")  # are not run
# The modules of packages that an example may need.
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


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """An empty working directory, where sscd_disc_mixup is fetched: a narrow network with seeded weights."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(PRESETS, "skew_320", Preset("skew", 64))
    fetch(width=8)
    return tmp_path


def fetch(*, width: int) -> None:
    cache_folder("weights").mkdir(parents=True, exist_ok=True)
    write_safetensors(
        cache_folder("weights") / "sscd_disc_mixup.safetensors", *seeded("resnet50", 512, width=width), {}
    )


def run_section(title: str) -> str:
    """Runs a section's blocks in order; returns what its Python printed."""
    section, printed = SECTIONS[title], ""
    for language, block in re.findall(r"```(\w+)\n(.*?)```", section, re.DOTALL):
        if language == "bash":
            for line in block.splitlines():
                command = shlex.split(line)
                if command[0] == "sscd-jax":
                    main(command[1:])
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
    """What the code prints where only these packages are installed; in a process of its own."""
    absent = sorted({module for name in MODULES.keys() - set(packages) for module in MODULES[name]})
    hide = f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"  # their import is an ImportError
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}  # as mesh.start left them
    done = subprocess.run([sys.executable, "-c", hide + code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_section_is_tested():
    assert list(SECTIONS) == [
        "Bundles",
        "Pictures",
        "ONNX Runtime",
        "TensorFlow Serving",
        "PyTorch",
        "JAX",
        "Search with faiss",
        "What is read",
        "Presets",
        "Going on, sharing, adding",
        "Other tools",
    ]


@pytest.mark.parametrize("title", ["ONNX Runtime", "TensorFlow Serving", "PyTorch"])
def test_other_runtimes_need_no_jax(title):
    named = re.findall(r"Needs `pip install (.+)`", SECTIONS[title])[0].split()
    assert set(named) <= MODULES.keys() - {"jax", "sscd_jax"}


def test_bundles_and_onnxruntime(folder):
    pytest.importorskip("onnxruntime")
    run_section("Bundles")
    bundle = Path("bundles/onnx")
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    table = SECTIONS["Bundles"].split("| File |")[1]
    assert {re.sub(r"\d+\.png", "*.png", file) for file in files} == set(
        re.findall(r"^\| `(.+?)`", table, re.MULTILINE)
    )
    assert len(files) == 12, "eight pictures"
    assert run_section("ONNX Runtime")

    (verify,) = re.findall(r"^\(cd .*", SECTIONS["Bundles"], re.MULTILINE)
    (bundle / "golden" / "0.png").write_bytes(b"another picture")
    done = subprocess.run(["bash", "-c", verify], capture_output=True, text=True)
    assert done.returncode
    assert "golden/0.png: FAILED" in done.stdout


def test_pictures(folder, pictures):
    Path("photos").mkdir()
    Image.open(min(pictures.iterdir())).resize((480, 400)).save("photo.jpg")
    shutil.copy("photo.jpg", "photos")
    code = re.findall(r"```python\n(.*?)```", SECTIONS["Pictures"], re.DOTALL)[0]
    run_section("Pictures")
    python(f"{code}\nnp.savez('prepared.npz', pixels=pixels, images=images)", ["numpy", "pillow"])
    prepared = np.load("prepared.npz")
    source = open_source("photos")
    picture = np.asarray(apply_preset(open_picture(source.load(0)), Preset("skew", 320)))
    difference = np.abs(prepared["pixels"].astype(int) - picture)
    assert difference.max() <= 1, "Pillow's fixed point"
    assert difference.mean() < 0.01
    np.testing.assert_allclose(prepared["images"], normalize(prepared["pixels"]), atol=1e-6)


def test_embedding(folder, pictures):
    """The page's blocks in order; pictures and canvases are small."""
    shutil.copytree(pictures, "photos")
    first = re.findall(r"```bash\n(.*?)```", PAGES["embedding"], re.DOTALL)[0]
    main(shlex.split(first)[1:])
    run_section("Going on, sharing, adding")
    one, other = Descriptors.read("descriptors"), Descriptors.read("shared")
    assert (one.ids, len(one.ids)) == (other.ids, 40)
    np.testing.assert_array_equal(one.vectors, other.vectors)
    table = set(re.findall(r"^\| `(.+?)`", SECTIONS["Going on, sharing, adding"], re.MULTILINE))
    there = {path.name + ("/" if path.is_dir() else "") for path in Path("descriptors").iterdir()}
    assert there == table - {"errors-00000.jsonl"}
    assert run_section("Other tools") == "True\n"
    names = set(re.findall(r"^\| `(.+?)`", SECTIONS["Presets"], re.MULTILINE))
    assert names == {"--preset", *PRESETS, "custom"}


def test_tensorflow_serving(folder):
    run_section("TensorFlow Serving")
    (command,) = re.findall(r"^tensorflow_model_server .*", SECTIONS["TensorFlow Serving"], re.MULTILINE)
    (versions,) = re.findall(r'--model_base_path="\$PWD/(.+?)"', command)
    assert (folder / versions / "1" / "saved_model.pb").is_file()
    body = json.loads(Path("request.json").read_text())
    np.testing.assert_array_equal(body["instances"], [np.asarray(Image.open("bundles/saved_model/golden/0.png"))])


def test_pytorch(folder):
    needs_torch()
    fetch(width=64)  # the one width that torchvision has
    assert run_section("PyTorch")


def test_jax(folder):
    assert run_section("JAX")


def test_search_with_faiss(folder, pictures):
    shutil.copytree(pictures, "photos")
    Path("queries").mkdir()
    names = sorted(path.stem for path in Path("photos").iterdir())[:5]
    for name in names:
        shutil.copy(f"photos/{name}.jpg", f"queries/Q{name}.jpg")
    printed = run_section("Search with faiss")
    assert [line.split() for line in printed.splitlines()] == [[f"Q{name}", name, "1.00"] for name in names]


def test_the_estimate_of_the_pipelines_page():
    page = (DOCS / "beam.md").read_text()
    ((command, said),) = re.findall(r"```bash\n(python scripts/.*?)\n```\n\n```text\n(.*?)```", page, re.DOTALL)
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], capture_output=True, text=True, cwd=DOCS.parent)
    assert done.stdout == said
