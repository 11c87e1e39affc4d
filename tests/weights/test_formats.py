"""Our own files, runs and what is no file of weights."""

import dataclasses
import errno
import json
import os
import shutil
import zipfile
from pathlib import Path
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.networks import NARROW, assert_same, seeded

from sscd_jax import weights
from sscd_jax.config import Config, Data, Model, Validation
from sscd_jax.data.sources import open_source
from sscd_jax.models import build_model
from sscd_jax.models.folding import fold
from sscd_jax.optimizer import lars
from sscd_jax.presets import PRESETS, Preset
from sscd_jax.sharding import create_mesh, replicated
from sscd_jax.training import checkpoint, state
from sscd_jax.weights import formats, native
from sscd_jax.weights.convert import convert
from sscd_jax.weights.export import export
from sscd_jax.weights.native import CARD, SUMS, hash_file, hash_network, write_npz, write_safetensors

ORIGIN = {"name": "a test", "license": "MIT"}
WRITERS = {"safetensors": write_safetensors, "npz": write_npz}


@pytest.mark.slow
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("backbone", NARROW)
def test_what_was_written_is_read_bit_for_bit_under_any_name(kind, backbone, tmp_path):
    model, variables = seeded(backbone, pool_param=2.0)
    WRITERS[kind](tmp_path / "weights", model, variables, ORIGIN)
    loaded = weights.read(tmp_path / "weights")
    assert (loaded.model, loaded.format, loaded.origin) == (model, f"sscd_jax, {kind}", ORIGIN)
    assert_same(loaded.variables, variables)
    (tmp_path / "plain").touch()
    assert (tmp_path / "weights").stat().st_mode == (tmp_path / "plain").stat().st_mode, "others may read it too"


@pytest.mark.parametrize("kind", WRITERS)
def test_folded_weights_come_back_as_a_network_that_can_be_trained(kind, tmp_path):
    model, variables = seeded("resnet50")
    folded = fold(model, variables)
    WRITERS[kind](tmp_path / "weights", *folded, ORIGIN)
    loaded, found = weights.load(tmp_path / "weights")
    assert loaded == model
    assert_same(fold(loaded, found)[1], folded[1])


def test_the_hash_tells_weights_apart():
    model, variables = seeded("resnet18")
    same, other = jax.tree.map(np.copy, variables), jax.tree.map(np.copy, variables)
    other["params"]["embeddings"]["bias"][3] += 1e-6
    known = hash_network(model, variables)
    assert known == hash_network(model, same) != hash_network(model, other)
    assert known == hash_network(model.clone(pool_param=3), variables), "3 is 3.0"
    assert known == hash_network(model.clone(backbone=model.backbone.clone(dtype=jnp.bfloat16)), variables)
    assert known != hash_network(model.clone(pool_param=1.0), variables), "the same arrays make another network"


@pytest.mark.parametrize("kind", WRITERS)
def test_arrays_that_do_not_fit_are_listed(kind, tmp_path):
    model, variables = seeded("resnet18")
    del variables["params"]["backbone"]["bn1"]["scale"]
    variables["params"]["embeddings"]["bias"] = np.zeros(3, np.float32)
    variables["params"]["more"] = np.zeros(3, np.float32)
    WRITERS[kind](tmp_path / "weights", model, variables, ORIGIN)
    with pytest.raises(ValueError, match="do not fit the network") as error:
        weights.load(tmp_path / "weights")
    for line in (
        "missing: params/backbone/bn1/scale",
        "unknown: params/more",
        "instead of (24,): params/embeddings/bias",
    ):
        assert line in str(error.value)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a known file of weights"),
        (b"<!DOCTYPE html><html>not found", "not a known file of weights"),
        (b"PK\x03\x04 cut off", "cut off or broken"),
        ((30).to_bytes(8, "little") + b'{"a": 1}' + bytes(100), "broken safetensors file"),
    ],
)
def test_what_is_no_file_of_weights(data, message, tmp_path):
    (tmp_path / "a.pt").write_bytes(data)
    with pytest.raises(ValueError, match=message) as error:
        weights.load(tmp_path / "a.pt")
    assert "a.pt" in str(error.value)


def test_nothing_a_folder_and_a_name(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="absent"):
        weights.load(tmp_path / "absent")
    with pytest.raises(ValueError, match="is not a training run"):
        weights.load(tmp_path)
    with pytest.raises(FileNotFoundError, match="sscd-jax weights fetch sscd_disc_large"):
        weights.load("sscd_disc_large")
    model, variables = seeded("resnet18")
    (tmp_path / "sscd_jax" / "weights").mkdir(parents=True)
    write_safetensors(tmp_path / "sscd_jax" / "weights" / "sscd_disc_mixup.safetensors", model, variables, ORIGIN)
    assert_same(weights.load("sscd_disc_mixup")[1], variables)
    (tmp_path / "sscd_jax" / "weights" / "sscd_disc_mixup.safetensors").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"`sscd-jax weights fetch` repairs it"):
        weights.load("sscd_disc_mixup")


def archive(path, members: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in members.items():
            file.writestr(name, data)


def test_archives_are_checked_for_path_and_size(tmp_path, monkeypatch):
    archive(tmp_path / "other.zip", {"a.txt": b""})
    archive(tmp_path / "outside.pt", {"../data.pkl": b""})
    archive(tmp_path / "bomb.pt", {"archive/data.pkl": bytes(1000), "archive/data/0": bytes(5_000_000)})
    monkeypatch.setattr(native, "MAX_SMALL", 2 << 20)
    for name, message in {
        "other.zip": "neither PyTorch's nor this package's .npz",
        "outside.pt": "members outside its own folder",
        "bomb.pt": "would unpack to more than 2 MiB",
    }.items():
        with pytest.raises(ValueError, match=message):
            weights.load(tmp_path / name)


TORCH = {"version": b"3\n", "byteorder": b"little", "data/0": bytes(8)}


@pytest.mark.parametrize("more", [{}, {"constants.pkl": b"\x80\x02).", "code/__torch__.py": b""}])
def test_an_archive_of_torch_without_its_pickle(more, tmp_path):
    archive(tmp_path / "a.pt", {f"archive/{name}": data for name, data in {**TORCH, **more}.items()})
    with pytest.raises(ValueError, match=r"a\.pt lacks data\.pkl.*copy it again") as error:
        weights.load(tmp_path / "a.pt")
    assert "\n" not in str(error.value)


def test_a_header_of_numpy_that_is_cut_off(tmp_path):
    """numpy raises tokenize.TokenError, which is no ValueError."""
    model, variables = seeded("resnet18", 2, width=1)
    write_npz(tmp_path / "a.npz", model, variables, ORIGIN)
    with zipfile.ZipFile(tmp_path / "a.npz") as file:
        members = {name: file.read(name) for name in file.namelist()}
    name = next(name for name in members if name.endswith("kernel.npy"))
    members[name] = members[name].replace(b"), }", b"(, }")
    archive(tmp_path / "a.npz", members)
    with pytest.raises(ValueError, match=r"a\.npz: ") as error:
        weights.load(tmp_path / "a.npz")
    assert "\n" not in str(error.value)


def card(folder: Path, **changes: object) -> None:
    """Changes the card of a bundle, and its sum."""
    path = folder / CARD
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    sums = [line for line in (folder / SUMS).read_text().splitlines() if not line.endswith(CARD)]
    (folder / SUMS).write_text("\n".join([*sums, f"{hash_file(path)}  {CARD}", ""]))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"preset": 3}, {"preset": None}, {"network": None}, {"origin": 3}, {"format": []}])
def test_a_card_of_a_bundle_that_is_damaged(changes, images, tmp_path):
    model, variables = seeded("resnet18", 2, width=1)
    write_npz(tmp_path / "a.npz", model, variables, ORIGIN)
    format_ = "saved_model" if "network" in changes else "npz"
    export(
        tmp_path / "a.npz", tmp_path / "out", format=format_, images=open_source(str(images)), preset=Preset("skew", 64)
    )
    assert weights.read(tmp_path / "out").origin == ORIGIN
    card(tmp_path / "out", **changes)
    with pytest.raises(ValueError, match="out") as error:
        weights.load(tmp_path / "out")
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_saved_model_of_other_bytes(images, tmp_path):
    model, variables = seeded("resnet18", 2, width=1)
    write_npz(tmp_path / "a.npz", model, variables, ORIGIN)
    out = tmp_path / "out"
    export(tmp_path / "a.npz", out, format="saved_model", images=open_source(str(images)), preset=Preset("skew", 64))
    path = next(out.rglob("*.data-*"))
    before = path.read_bytes()
    middle = len(before) // 2
    for data in (before[:middle], before[:middle] + bytes([before[middle] ^ 1]) + before[middle + 1 :]):
        path.write_bytes(data)
        sums = (out / SUMS).read_text().splitlines()
        kept = [line for line in sums if not line.endswith(path.name)]
        (out / SUMS).write_text("\n".join([*kept, f"{hash_file(path)}  {path.relative_to(out).as_posix()}", ""]))
        with pytest.raises(ValueError, match=str(out)) as error:
            weights.load(out)
        assert "\n" not in str(error.value)


def test_a_disk_that_fails_is_no_damaged_file(tmp_path, monkeypatch):
    write_npz(tmp_path / "a.npz", *seeded("resnet18", 2, width=1), ORIGIN)

    for error, expected, message in (
        (OSError(errno.EIO, "Input/output error"), OSError, "Input/output error: '.*a.npz'"),
        (OSError(errno.ESTALE, "Stale file handle", "b.npz"), OSError, "Stale file handle: '.*a.npz'"),
        (OSError(errno.EINVAL, "Invalid argument"), ValueError, r"a\.npz: it is damaged \(OSError: .*Invalid argument"),
        (MemoryError("Unable to allocate"), ValueError, r"a\.npz: it needs more memory than there is"),
    ):
        monkeypatch.setattr(formats, "_read_npz", Mock(side_effect=error))
        with pytest.raises(expected, match=message):
            weights.load(tmp_path / "a.npz")


def test_an_npz_of_something_else(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npz is not this package's \.npz"):
        weights.load(tmp_path / "a.npz")


def test_a_folder_named_checkpoints_does_not_make_a_run_of_a_file(tmp_path):
    model, variables = seeded("resnet18")
    (tmp_path / "checkpoints").mkdir()
    write_npz(tmp_path / "checkpoints" / "epoch=1.ckpt", model, variables, ORIGIN)
    assert weights.read(tmp_path / "checkpoints" / "epoch=1.ckpt").format == "sscd_jax, npz"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """The folder of a run of no steps; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    config = Config(model=Model(backbone="resnet18", dims=8, width=4))
    start = state.create(build_model(**dataclasses.asdict(config.model)), lars(0.1), 0, replicated(create_mesh()))
    with checkpoint.open_checkpoints(folder, keep=2) as checkpoints:
        checkpoint.save(checkpoints, start, config, None)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dims": 9}, r"shape .*\(8,\) instead of \(9,\): params/embeddings/bias"),
        ({"width": 8}, r"shape .* params/backbone/conv1/kernel"),
        ({"dtype": "float65536"}, r"a checkpoint is damaged .*float65536.*name an earlier one"),
    ],
)
def test_a_run_whose_arrays_are_of_another_network(run, change, message, tmp_path):
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    path = next(folder.rglob("_CHECKPOINT_METADATA"))
    known = json.loads(path.read_text())
    known["custom_metadata"]["model"] |= change
    path.write_text(json.dumps(known))
    with pytest.raises(ValueError, match=rf"(?s){folder}.*{message}"):
        weights.load(folder)


@pytest.mark.slow
def test_a_run_whose_arrays_are_larger_than_its_files(run, monkeypatch):
    """TensorStore fills what is missing with zeros."""
    assert weights.read(run).format == "training run"
    monkeypatch.setattr(native, "MAX_SMALL", 1000)
    monkeypatch.setattr(native, "MAX_RATIO", 1)
    with pytest.raises(ValueError, match="would unpack to more than"):
        weights.read(run)


def test_convert(tmp_path):
    model, variables = seeded("resnet50")
    write_npz(tmp_path / "a.npz", model, variables, ORIGIN)
    summary = convert(tmp_path / "a.npz", tmp_path / "b.safetensors", origin={"more": "said"})
    assert json.dumps(summary)
    assert (summary["backbone"], summary["dims"], summary["width"]) == ("resnet50", 24, 8)
    loaded = weights.read(tmp_path / "b.safetensors")
    assert summary["sha256"] == hash_network(loaded.model, loaded.variables) == hash_network(model, variables)
    assert loaded.origin == {**ORIGIN, "more": "said"}
    assert sorted(os.listdir(tmp_path)) == ["a.npz", "b.safetensors"]

    with pytest.raises(ValueError, match=r"ends in \.safetensors"):
        convert(tmp_path / "a.npz", tmp_path / "b.pt")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ValueError, match="it is a folder"):
        convert(tmp_path / "a.npz", tmp_path / "folder.safetensors")
    (tmp_path / "folder.safetensors").rmdir()
    with pytest.raises(ValueError, match="there is no folder"):
        convert(tmp_path / "a.npz", tmp_path / "absent" / "b.safetensors")
    before = (tmp_path / "b.safetensors").read_bytes()
    (tmp_path / "a.npz").write_bytes(b"broken")
    with pytest.raises(ValueError, match=r"a\.npz"):
        convert(tmp_path / "a.npz", tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes() == before


@pytest.mark.parametrize("place", [-3, -4, -6])
def test_an_archive_whose_directory_is_elsewhere(tmp_path, place):
    write_npz(tmp_path / "changed.npz", *seeded("resnet18", 2, width=1), ORIGIN)
    content = bytearray((tmp_path / "changed.npz").read_bytes())
    content[place] ^= 1
    (tmp_path / "changed.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"changed\.npz"):
        weights.load(tmp_path / "changed.npz")


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model, variables = seeded("resnet18")
    variables["params"]["embeddings"]["bias"][1] = np.nan
    write_npz(tmp_path / "a.npz", model, variables, ORIGIN)
    with pytest.raises(ValueError, match="not finite: params/embeddings/bias"):
        weights.load(tmp_path / "a.npz")


@pytest.mark.parametrize("name", ["width", "pool_param", "dims"])
def test_metadata_of_no_network(name, tmp_path):
    model, variables = seeded("resnet18")
    write_npz(tmp_path / "a.npz", model, variables, ORIGIN)
    with np.load(tmp_path / "a.npz") as file:
        arrays = dict(file)
    known = json.loads(str(arrays["sscd_jax"]))
    known["network"][name] = -1
    np.savez(tmp_path / "a.npz", **{**arrays, "sscd_jax": np.array(json.dumps(known))})
    with pytest.raises(ValueError, match=r"a\.npz: dims must be at least 0"):
        weights.load(tmp_path / "a.npz")


@pytest.mark.parametrize("metadata", ["", "[]", "{}", '{"network": {"a": 1}, "folded": false, "origin": {}}'])
def test_metadata_of_something_else(metadata, tmp_path):
    np.savez(tmp_path / "a.npz", sscd_jax=np.array(metadata), a=np.zeros(3))
    with pytest.raises(ValueError, match=r"a\.npz: its metadata"):
        weights.load(tmp_path / "a.npz")


def test_the_preset_of_a_network_is_kept(tmp_path):
    """From a run, through a conversion and an export, to the one who embeds."""
    model, variables = seeded("resnet18")
    preset = Preset("skew", 64, exif=True)
    write_npz(tmp_path / "a.npz", model, variables, ORIGIN, preset)
    convert(tmp_path / "a.npz", tmp_path / "b.safetensors")
    for name in ("a.npz", "b.safetensors"):
        assert weights.read(tmp_path / name).preset == preset
    convert(tmp_path / "a.npz", tmp_path / "c.safetensors", preset=PRESETS["skew_320"])
    assert weights.read(tmp_path / "c.safetensors").preset == PRESETS["skew_320"]
    write_npz(tmp_path / "d.npz", model, variables, ORIGIN)
    assert weights.read(tmp_path / "d.npz").preset is None


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "small_288"),
        ({"data": Data(image_size=64)}, "short_82"),
        ({"validation": Validation(custom=Preset("skew", 64))}, "skew_64"),
        ({"validation": Validation(preset="long_800")}, "long_800"),
    ],
)
def test_the_preset_that_a_run_is_for(changes, expected):
    assert Config(**changes).preset.name == expected
