"""`sscd_jax.load` and `Model.embed`: what they take, and that the command computes the same."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.networks import assert_same, seeded
from PIL import Image

import sscd_jax
from sscd_jax.cli.main import main
from sscd_jax.data.sample import photograph_paths
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.models import describe
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.provenance import Provenance
from sscd_jax.weights.export import export
from sscd_jax.weights.native import hash_network, write_safetensors

NETWORK = seeded("resnet18")


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "narrow.safetensors"
    write_safetensors(path, *NETWORK, {"license": "CC0"})
    return path


@pytest.fixture(scope="module")
def model(weights) -> sscd_jax.Model:
    return sscd_jax.load(weights)


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder with folders: photographs of a few formats, upright and wide."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "more").mkdir()
    photographs = photograph_paths()
    for name, size, place in (
        ("coffee", (320, 240), "coffee.jpg"),
        ("chelsea", (150, 290), "more/cat.png"),
        ("astronaut", (200, 200), "more/astronaut.webp"),
    ):
        Image.open(photographs[name]).convert("RGB").resize(size).save(folder / place)
    return folder


@pytest.fixture(scope="module")
def by_command(weights, photos, tmp_path_factory) -> Descriptors:
    out = tmp_path_factory.mktemp("command") / "out"
    main(["embed", str(photos), "--weights", str(weights), "--out", str(out), "--batch-size", "8"])
    return Descriptors.read(out)


@pytest.mark.slow
def test_a_folder_is_what_the_command_makes_of_it(model, photos, by_command):
    found = model.embed(photos, batch_size=8)
    assert list(found.ids) == list(by_command.ids) == ["coffee", "more/astronaut", "more/cat"]
    np.testing.assert_array_equal(found.vectors, by_command.vectors, strict=True)
    assert found.provenance == by_command.provenance == model.provenance
    details = json.loads(json.dumps(found.provenance.details))
    of_command = {name: fact for name, fact in by_command.provenance.details.items() if name != "probe"}
    assert {name: details[name] for name in of_command} == of_command
    assert found.provenance.computation == by_command.provenance.computation == "float32 by jax on cpu"


def test_files_pixels_and_folders_together(model, photos, by_command, monkeypatch):
    monkeypatch.chdir(photos)
    expected = dict(zip(by_command.ids, by_command.vectors, strict=True))
    opened = Image.open("coffee.jpg")
    pixels = np.asarray(Image.open("more/cat.png"))
    given = [opened, "more/", pixels, Path("more/cat.png"), "./coffee.jpg", jax.numpy.asarray(pixels)]
    found = model.embed(given, batch_size=8, preset="small_288", progress=False)
    assert found.ids == ["0", "astronaut", "cat", "2", "more/cat", "coffee", "5"]
    same = ["coffee", "more/astronaut", *["more/cat"] * 3, "coffee", "more/cat"]
    np.testing.assert_allclose(found.vectors, [expected[one] for one in same], rtol=0, atol=1e-6)
    named = model.embed((one for one in given[:2]), batch_size=8, ids=["a", "b", "c"])
    assert named.ids == ["a", "b", "c"]
    np.testing.assert_allclose(named.vectors[2], expected["more/cat"], rtol=0, atol=1e-6)


def test_one_image(model, photos, by_command):
    path = photos / "coffee.jpg"
    pixels = np.asarray(Image.open(path))
    for one, expected in (
        (str(path), str(path.with_suffix(""))),
        (path, str(path.with_suffix(""))),
        (Image.open(path), "0"),
        (pixels, "0"),
        (pixels[None], "0"),
    ):
        found = model.embed(one, batch_size=8)
        assert found.ids == [expected]
        np.testing.assert_allclose(found.vectors, by_command.vectors[:1], rtol=0, atol=1e-6)
    assert model.embed([]).vectors.shape == (0, 24)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_images_of_pillow_are_what_their_files_are(model, photos, tmp_path, mode):
    """Whatever their mode: transparent pixels become white, and of 16 bits the upper 8 are taken."""
    image = Image.open(photos / "coffee.jpg")
    if mode in ("LA", "PA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
        image = image.quantize(32) if mode == "PA" else image
    if mode.startswith("I"):
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 200).convert(mode)
    elif mode != "PA":
        image = image.convert(mode)
    path = tmp_path / ("a.png" if mode in ("LA", "P", "PA", "RGBA") else "a.tif")
    (image.convert("RGB") if mode == "YCbCr" else image).save(path)  # Pillow does not read the TIFF it writes of these
    one, other = (model.embed(given, batch_size=8).vectors for given in (path, image))
    np.testing.assert_array_equal(one, other)


def test_orientation(model, photos, tmp_path):
    turned = Image.open(photos / "coffee.jpg").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 270 degrees
    turned.save(tmp_path / "turned.png", exif=exif)
    preset = Preset("short", 288, exif=True)
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        found = model.embed([given, Image.open(photos / "coffee.jpg")], preset=preset, batch_size=8)
        np.testing.assert_allclose(found.vectors[0], found.vectors[1], rtol=0, atol=1e-6)
    assert found.provenance.preset == "small_288_exif"
    assert found.provenance != model.provenance


def test_images_that_cannot_be_read(model, photos, by_command, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 and no more")
    given = [tmp_path / "broken.jpg", photos / "coffee.jpg", tmp_path / "absent.jpg"]
    for bad in (given[:1], given[2:]):
        with pytest.raises(ValueError, match=rf"{bad[0].name} cannot be read: "):
            model.embed(bad)
    with pytest.warns(
        UserWarning, match=r"2 of 3 images cannot be read .*\n.*broken\.jpg: .*\n.*absent\.jpg: .*No such file"
    ):
        found = model.embed(given, batch_size=8, ids=["a", "b", "c"], on_error="skip")
    assert found.ids == ["b"]
    np.testing.assert_array_equal(found.vectors, by_command.vectors[:1])


def test_what_cannot_be(model, photos, tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    for given, message in (
        (pixels.astype(np.float32), r"image 0 is an array of float32 \[40, 40, 3\]; it must be RGB from 0 to 255"),
        ([pixels, pixels[..., 0]], r"image 1 is an array of uint8 \[40, 40\]"),
        ([None], "image 0 is an array of object"),
        ([photos / "coffee.jpg"] * 2, r"coffee\.jpg is given twice: remove one of the two, or give `ids`"),
        (b"image", "image 0 is bytes: open them with Pillow first"),
        (tmp_path, "no images in"),
    ):
        with pytest.raises(ValueError, match=message):
            model.embed(given)
    with pytest.raises(ValueError, match="there are 2 ids for 1 images"):
        model.embed(pixels, ids=["a", "b"])
    with pytest.raises(ValueError, match="choose one of small_288, skew_320, long_800, dcr_224"):
        model.embed(pixels, preset="small")
    with pytest.raises(ValueError, match="take a multiple of 8"):
        model.embed(pixels, batch_size=3)
    with pytest.raises(ValueError, match='must be "raise" or "skip"'):
        model.embed(pixels, on_error="ignore")


def test_progress(model, photos, capfd):
    model.embed(photos, batch_size=8)
    assert not capfd.readouterr().err, "no terminal"
    model.embed(photos, batch_size=8, progress=True)
    assert "embed: 100%" in capfd.readouterr().err


def test_attributes(model, weights):
    assert model.dims == 24
    assert describe(model.network) == describe(NETWORK[0])
    assert_same(model.variables, NETWORK[1])
    assert model.preset == PRESETS["small_288"]
    assert model.provenance == Provenance(hash_network(*NETWORK), "small_288")
    assert model.provenance.details["weights"] == {
        "name": str(weights),
        "format": "sscd_jax, safetensors",
        "license": "CC0",
    }
    assert repr(model) == f"<sscd_jax.Model: resnet18, 24 dims, {model.provenance}>"


def test_an_export_says_which_preset_it_is_for(model, weights, images, photos, tmp_path):
    preset = Preset("skew", 64)
    export(weights, tmp_path / "bundle", format="npz", images=open_source(str(images)), preset=preset)
    bundle = sscd_jax.load(tmp_path / "bundle")
    assert bundle.preset == preset
    found = bundle.embed(photos)
    assert found.provenance == bundle.provenance == Provenance(model.provenance.weights, "skew_64")
    np.testing.assert_array_equal(found.vectors, model.embed(photos, preset=preset).vectors)


def test_published_weights_are_fetched_at_first_use(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fetched = []

    def fetch(name: str) -> None:
        folder = tmp_path / "sscd_jax" / "weights"
        folder.mkdir(parents=True)
        (folder / f"{name}.safetensors").write_bytes(weights.read_bytes())
        fetched.append(name)

    monkeypatch.setattr("sscd_jax.weights.fetch.fetch", fetch)
    for _ in range(2):
        assert sscd_jax.load("sscd_disc_blur").provenance.weights == hash_network(*NETWORK)
    assert fetched == ["sscd_disc_blur"]
    with pytest.raises(FileNotFoundError, match="sscd_disc_tiny: no such file or folder"):
        sscd_jax.load("sscd_disc_tiny")


IMPORT = """
import os, sys
environment = dict(os.environ)
import sscd_jax
heavy = {"jax", "jaxlib", "flax", "tensorflow", "numpy", "PIL", "faiss"} & sys.modules.keys()
assert not heavy, heavy
assert dict(os.environ) == environment
assert {"load", "Descriptors", "__version__"} <= set(dir(sscd_jax)), dir(sscd_jax)
from sscd_jax import Descriptors, Provenance
heavy = {"jax", "flax", "tensorflow", "PIL", "faiss"} & sys.modules.keys()
assert not heavy, heavy
sscd_jax.load
assert "tensorflow" not in sys.modules
assert dict(os.environ) == environment
"""


def test_importing_loads_no_library_and_changes_no_environment():
    subprocess.run([sys.executable, "-c", IMPORT], check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "0"})


def test_version():
    assert sscd_jax.__version__.count(".") == 2
    with pytest.raises(AttributeError, match="'sscd_jax' has no attribute 'absent'"):
        sscd_jax.absent  # noqa: B018  (the access itself is what fails)


LOAD = """
import sys, sscd_jax
model = sscd_jax.load(sys.argv[1])
import jax
assert jax.config.values["jax_compilation_cache_dir"], "a script starts as a command does"
print(model.embed(sys.argv[2]).vectors.shape)
"""


@pytest.mark.slow
def test_a_script_needs_no_command(weights, photos):
    command = [sys.executable, "-c", LOAD, str(weights), str(photos)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "(3, 24)"
    assert not done.stderr, done.stderr
