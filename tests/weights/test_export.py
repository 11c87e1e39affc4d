"""Bundles: every format, for every backbone, loaded by its own runtime; and what must not become a bundle."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.extras import marked, needs_onnx
from helpers.networks import NARROW, assert_same, needs_torch, seeded
from jax import export as jax_export
from PIL import Image

from sscd_jax import weights
from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import open_source
from sscd_jax.models import normalize
from sscd_jax.models.folding import fold
from sscd_jax.presets import Preset
from sscd_jax.weights import export as module
from sscd_jax.weights.export import PROGRAMS, export
from sscd_jax.weights.export_xla import STABLEHLO
from sscd_jax.weights.native import BUNDLES, hash_file, write_safetensors

PRESET = Preset("skew", 64)


@pytest.fixture(scope="module")
def source(images) -> Source:
    return open_source(str(images))


def saved(folder: Path, backbone: str, dims: int = 24, **options) -> tuple:
    model, variables = seeded(backbone, dims, **options)
    write_safetensors(folder / "in.safetensors", model, variables, {"name": "a test", "license": "CC0"})
    return model, variables, folder / "in.safetensors"


def golden(bundle: Path) -> tuple[np.ndarray, np.ndarray]:
    """The golden pairs as a user reads them."""
    files = sorted((bundle / "golden").glob("*.png"), key=lambda path: int(path.stem))
    return np.stack([np.asarray(Image.open(path)) for path in files]), np.load(bundle / "golden" / "descriptors.npy")


@pytest.mark.slow
@pytest.mark.parametrize("backbone", NARROW)
@pytest.mark.parametrize("format_", marked(name for name in BUNDLES if name != "torchvision"))
def test_a_bundle(format_, backbone, source, tmp_path):
    model, variables, path = saved(tmp_path, backbone)
    options = {"input": "uint8"} if format_ in PROGRAMS else {}
    card = export(path, tmp_path / "out", format=format_, images=source, preset=PRESET, **options)
    assert json.loads(json.dumps(card)) == json.loads((tmp_path / "out" / "model_card.json").read_text())
    assert card["network"] == {"backbone": backbone, "dims": 24, "width": NARROW[backbone], "pool_param": 3.0}
    assert (card["license"], card["origin"]["name"]) == ("CC0", "a test")
    assert card["preset"]["name"] == "skew_64"
    assert card["check"]["lowest_cosine"] >= 1 - 1e-5
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path / "out", check=True)
    listed = {line.split("  ")[1] for line in (tmp_path / "out" / "SHA256SUMS").read_text().splitlines()}
    there = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert listed == there - {"SHA256SUMS"}

    pixels, descriptors = golden(tmp_path / "out")
    assert (pixels.shape, pixels.dtype) == ((8, 64, 64, 3), np.uint8)
    np.testing.assert_allclose(descriptors, model.apply(variables, normalize(pixels)), atol=1e-5)

    loaded = weights.read(tmp_path / "out")  # every export is read again
    assert (loaded.model, loaded.format) == (model, f"bundle, {format_}")
    assert loaded.origin["license"] == "CC0"
    if format_ not in ("saved_model", "stablehlo"):
        assert weights.read(tmp_path / "out" / card["file"]).preset == PRESET, "its file, too, is read with the preset"
    if format_ in PROGRAMS:
        assert_same(fold(loaded.model, loaded.variables)[1], fold(model, variables)[1])
    else:
        assert_same(loaded.variables, variables)
    assert sorted(os.listdir(tmp_path)) == ["in.safetensors", "out"]


@pytest.mark.slow
@pytest.mark.parametrize(("backbone", "dims"), [*((backbone, 24) for backbone in NARROW), ("resnet18", 0)])
def test_the_state_dict_loads_into_torchvisions_resnet(backbone, dims, source, tmp_path):
    needs_torch()
    model, variables, path = saved(tmp_path, backbone, dims, width=64)
    card = export(path, tmp_path / "out", format="torchvision", images=source, preset=PRESET)
    assert card["check"]["runtime"].startswith("torch ")
    loaded = weights.read(tmp_path / "out")
    assert loaded.model == model
    assert_same(loaded.variables, variables)


@pytest.mark.slow
@pytest.mark.parametrize("head", ["l2", "raw"])
@pytest.mark.parametrize("input_", ["float32", "uint8"])
@pytest.mark.parametrize("format_", marked(PROGRAMS))
def test_inputs_heads_and_open_sizes(format_, input_, head, source, tmp_path):
    model, variables, path = saved(tmp_path, "resnet18")
    export(path, tmp_path / "out", format=format_, images=source, preset=PRESET, input=input_, head=head)
    file = tmp_path / "out" / BUNDLES[format_]
    for shape in [(1, 33, 80, 3), (3, 96, 47, 3)]:
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        images = pixels if input_ == "uint8" else np.asarray(normalize(pixels))
        if format_ == "onnx":
            import onnxruntime

            session = onnxruntime.InferenceSession(file)
            images = images if input_ == "uint8" else images.transpose(0, 3, 1, 2)
            (found,) = session.run(["descriptors"], {"images": images})
        elif format_ == "stablehlo":
            from safetensors.numpy import load_file

            program = jax_export.deserialize(bytearray(file.read_bytes()))
            assert set(program.platforms) == {"cpu", "cuda", "tpu"}
            found = program.call(load_file(tmp_path / "out" / "weights.safetensors"), images)
        else:
            import tensorflow as tf

            signature = tf.saved_model.load(str(file)).signatures["serving_default"]
            found = signature(images=tf.constant(images))["descriptors"].numpy()
        expected = model.clone(normalized=head == "l2").apply(variables, normalize(pixels))
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        norms = np.linalg.norm(found, axis=1)
        assert (np.abs(norms - 1) < 1e-5).all() == (head == "l2")


@pytest.mark.slow
def test_a_saved_model_is_served_without_jax(source, tmp_path):
    _, _, path = saved(tmp_path, "resnet18")
    export(path, tmp_path / "out", format="saved_model", images=source, preset=PRESET, input="uint8")
    graph = (tmp_path / "out" / BUNDLES["saved_model"] / "saved_model.pb").read_bytes()
    assert f"StableHLO_v{STABLEHLO}".encode() in graph, (
        "TensorFlow reads no newer form, as later versions of JAX write it"
    )
    code = f"""
import sys
sys.modules["jax"] = sys.modules["jaxlib"] = None  # importing them fails
import numpy as np, tensorflow as tf
from PIL import Image
images = np.stack([np.asarray(Image.open("golden/%d.png" % i)) for i in range(8)])
served = tf.saved_model.load("{BUNDLES["saved_model"]}").signatures["serving_default"](images=tf.constant(images))
print(np.abs(served["descriptors"].numpy() - np.load("golden/descriptors.npy")).max() < 1e-5)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "out", capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"


@pytest.mark.slow
@needs_onnx
def test_a_run_in_half_precision_is_exported_in_float32(source, tmp_path, monkeypatch):
    model, variables = seeded("resnet18", dtype=jax.numpy.bfloat16)
    monkeypatch.setattr(module, "read", lambda path: weights.Weights(model, variables, "training run"))
    export("run", tmp_path / "out", format="onnx", images=source, preset=PRESET)
    pixels, descriptors = golden(tmp_path / "out")
    exact, _ = seeded("resnet18")
    np.testing.assert_allclose(descriptors, exact.apply(variables, normalize(pixels)), atol=1e-5)


@needs_onnx
def test_what_computes_something_else_does_not_become_a_bundle(source, tmp_path, monkeypatch):
    _, _, path = saved(tmp_path, "resnet18")
    from sscd_jax.weights import export_onnx

    def slightly_wrong(model, variables):
        model, variables = fold(model, variables)
        changed = np.array([1.05, 1.05, *[1] * 22], np.float32)
        variables["params"]["embeddings"]["kernel"] = variables["params"]["embeddings"]["kernel"] * changed
        return model, variables

    monkeypatch.setattr(export_onnx, "fold", slightly_wrong)
    with pytest.raises(ValueError, match=r"does not compute our descriptors: lowest cosine 0\.99"):
        export(path, tmp_path / "out", format="onnx", images=source, preset=PRESET)
    assert sorted(os.listdir(tmp_path)) == ["in.safetensors"]


@pytest.mark.slow
def test_pytorch_is_started_once_for_images_of_all_sizes(tmp_path, monkeypatch):
    model, variables = seeded("resnet18", 8, width=64)
    write_safetensors(tmp_path / "in.safetensors", model, variables, {})
    shapes, started = [(32, 48), (32, 32), (32, 48)], []
    for number, shape in enumerate(shapes):
        Image.effect_noise(shape[::-1], 60).convert("RGB").save(tmp_path / f"{number}.png")

    def run_torch(file, model, images):
        started.append([one.shape for one in images])
        return [np.asarray(model.apply(variables, one.transpose(0, 2, 3, 1))) for one in images]

    monkeypatch.setattr(module, "_run_torch", run_torch)
    monkeypatch.setattr(module, "_write", lambda file, *_: file.write_bytes(b"weights"))
    monkeypatch.setattr(module, "_version", lambda _: "1")
    options = {"images": open_source(str(tmp_path)), "preset": Preset("short", 32)}
    card = export(tmp_path / "in.safetensors", tmp_path / "out", format="torchvision", **options)
    assert started == [[(2, 3, 32, 48), (1, 3, 32, 32)]]
    assert card["check"]["lowest_cosine"] > 1 - 1e-6


@needs_onnx
def test_the_preset_of_a_file_that_leaves_its_bundle(source, tmp_path):
    """A graph of ONNX holds it. Of other files it is that of the card beside them, if they are those of the card."""
    import onnx

    _, _, path = saved(tmp_path, "resnet18")
    export(path, tmp_path / "onnx", format="onnx", images=source, preset=PRESET)
    file = shutil.copy(tmp_path / "onnx" / BUNDLES["onnx"], tmp_path / "alone.onnx")
    assert weights.read(file).preset == PRESET
    graph = onnx.load(file)
    del graph.metadata_props[:]
    inside = tmp_path / "onnx" / BUNDLES["onnx"]
    onnx.save(graph, inside)
    assert weights.read(inside).preset is None, "its SHA-256 is not that of the bundle"
    sums, card = inside.with_name("SHA256SUMS"), inside.with_name("model_card.json")
    sums.write_text(f"{hash_file(inside)}  {inside.name}\n")
    assert weights.read(inside).preset == PRESET, "by the card, as of a state dict, which cannot hold it"
    card.write_text("{}")
    with pytest.raises(ValueError, match=r"model_card\.json is damaged .*: export sscd\.onnx again"):
        weights.read(inside)
    onnx.helper.set_model_props(graph, {"sscd_jax": "[]"})
    onnx.save(graph, file)
    with pytest.raises(ValueError, match=r"alone\.onnx: its metadata were not written by this package: \[\]"):
        weights.read(file)


@pytest.mark.slow
def test_a_bundle_that_was_changed_is_refused(source, tmp_path):
    _, _, path = saved(tmp_path, "resnet18")
    for format_ in ("npz", "saved_model"):
        card = export(path, tmp_path / "out", format=format_, images=source, preset=PRESET)
        file = tmp_path / "out" / card["file"]
        file = file if file.is_file() else next(file.rglob("variables.data*"))
        data = bytearray(file.read_bytes())
        data[-100] ^= 1
        file.write_bytes(data)
        with pytest.raises(ValueError, match="is not what was exported"):
            weights.load(tmp_path / "out")


def test_a_bundle_that_lacks_a_file_is_refused(source, tmp_path):
    _, _, path = saved(tmp_path, "resnet18")
    export(path, tmp_path / "out", format="npz", images=source, preset=PRESET)
    (tmp_path / "out" / "golden" / "3.png").unlink()
    with pytest.raises(ValueError, match=r"lacks golden/3\.png: export it again"):
        weights.load(tmp_path / "out")


@pytest.mark.slow
def test_an_earlier_bundle_is_replaced_and_anything_else_is_not(source, tmp_path):
    _, _, path = saved(tmp_path, "resnet18")
    for format_ in ("npz", "safetensors"):
        export(path, tmp_path / "out", format=format_, images=source, preset=PRESET, license="mine")
    assert not (tmp_path / "out" / BUNDLES["npz"]).exists()
    assert json.loads((tmp_path / "out" / "model_card.json").read_text())["license"] == "mine"
    (tmp_path / "photos").mkdir()
    shutil.copy(path, tmp_path / "photos")
    (tmp_path / "carded").mkdir()
    (tmp_path / "carded" / "model_card.json").write_text("{}")
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    (tmp_path / "link").symlink_to("out")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for out in ("photos", "carded", "out", "link", "in.safetensors"):
        with pytest.raises(ValueError, match="exists and is not a bundle"):
            export(path, tmp_path / out, format="npz", images=source, preset=PRESET)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    export(path, tmp_path / "new" / "out", format="npz", images=source, preset=PRESET)
    assert (tmp_path / "new" / "out" / "model_card.json").exists()


def test_options_that_would_do_nothing_are_refused(source, tmp_path):
    _, _, path = saved(tmp_path, "resnet18")
    for options in ({"input": "uint8"}, {"head": "raw"}):
        with pytest.raises(ValueError, match="--input and --head are for onnx, stablehlo, saved_model"):
            export(path, tmp_path / "out", format="npz", images=source, preset=PRESET, **options)


def test_a_narrow_network_is_no_torchvision_resnet(source, tmp_path):
    _, _, path = saved(tmp_path, "resnet18")
    with pytest.raises(ValueError, match="torchvision's ResNet has 64 channels in its stem, this network 8"):
        export(path, tmp_path / "out", format="torchvision", images=source, preset=PRESET)


def test_without_an_image_that_can_be_read_there_is_no_export(tmp_path):
    _, _, path = saved(tmp_path, "resnet18")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"text")
    with pytest.raises(ValueError, match="no image that can be read"):
        export(path, tmp_path / "out", format="npz", images=open_source(str(tmp_path / "broken")), preset=PRESET)
