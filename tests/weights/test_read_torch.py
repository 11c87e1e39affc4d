"""Every file that PyTorch's users have, under names that say nothing; none of them is executed."""

import contextlib
import dataclasses
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers.extras import marked
from helpers.networks import seeded

from sscd_jax import weights
from sscd_jax.config import Config, Model
from sscd_jax.data.sources import open_source
from sscd_jax.models import build_model
from sscd_jax.optimizer import lars
from sscd_jax.presets import Preset
from sscd_jax.sharding import create_mesh, replicated
from sscd_jax.training import checkpoint
from sscd_jax.training import state as train_state
from sscd_jax.weights.export import export
from sscd_jax.weights.native import BUNDLES, CARD, SUMS, hash_file, write_safetensors
from sscd_jax.weights.read_torch import write_state_dict
from sscd_jax.weights.state_dict import to_state_dict

CONTENT = {
    "official.torchvision.pt": "PyTorch, torchvision names",
    "official.classy.pt": "PyTorch, classy_vision names",
    "old.pt": "PyTorch, torchvision names",
    "official.ckpt": "Lightning checkpoint, torchvision names",
    "traced.torchscript.pt": "TorchScript, torchvision names",
    "scripted.torchscript.pt": "TorchScript, torchvision names",
    "folded.onnx": "ONNX, float32",
    "unfolded.onnx": "ONNX, float32",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("extension", ["", ".safetensors"])  # torch.load goes by this one
def test_a_file_is_told_by_its_content_and_gives_the_official_descriptors(name, extension, torch_files, tmp_path):
    path = tmp_path / f"weights{extension}"
    os.link(torch_files / name, path)
    loaded = weights.read(path)
    assert loaded.format == CONTENT[name]
    power = 2.5 if name == "official.ckpt" else 3.0
    assert loaded.model.pool_param == power, "a Lightning checkpoint says it, others are of the paper's"
    images = np.load(torch_files / "images.npy").transpose(0, 2, 3, 1)
    found = jax.jit(loaded.model.clone(pool_param=3.0).apply)(loaded.variables, images)
    if name != "official.classy.pt":  # which has other weights; see test_golden
        np.testing.assert_allclose(found, np.load(torch_files / "descriptors.npy"), atol=1e-5)


def test_half_precision_becomes_float32(torch_files):
    _, variables = weights.load(torch_files / "half.pt")
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}
    _, full = weights.load(torch_files / "official.torchvision.pt")
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6), variables, full)


@pytest.mark.parametrize("name", ["imagenet.pt", "imagenet.safetensors"])
def test_a_plain_resnet_has_features_and_no_projection(name, torch_files):
    model, variables = weights.load(torch_files / name)
    assert model.dims == 0
    assert "embeddings" not in variables["params"]
    images = np.load(torch_files / "images.npy").transpose(0, 2, 3, 1)
    features = np.asarray(model.apply(variables, images))
    assert features.shape == (2, 512)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)


def test_the_backbone_that_is_asked_for(torch_files):
    path = torch_files / "official.torchvision.pt"
    assert weights.load(path, backbone="resnet18")[0].dims == 512
    with pytest.raises(ValueError, match="holds a resnet18, not a resnet50"):
        weights.load(path, backbone="resnet50")


class Runs:
    """Its pickle calls a function when it is read."""

    def __init__(self, function, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def payloads(canary: Path) -> dict[str, Runs]:
    import subprocess

    return {
        "os.system": Runs(os.system, f"touch {canary}"),
        "subprocess": Runs(subprocess.check_output, ["touch", str(canary)]),
        "eval": Runs(eval, f"open({str(canary)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(canary)!r}, 'w')"),
        "open": Runs(open, str(canary), "w"),
        "shutil": Runs(shutil.copy, __file__, str(canary)),
        "path": Runs(Path.touch, canary),
    }


NAMES = {  # what the pickles of protocol 2 call them
    "os.system": "posix.system",
    "subprocess": "commands.check_output",
    "eval": "eval",
    "exec": "exec",
    "open": "io.open",
    "shutil": "shutil.copy",
    "path": "getattr",
}


def state_dict_with(payload: Runs) -> dict:
    import torch

    return {"backbone.conv1.weight": torch.zeros(64, 3, 7, 7), "payload": payload}


def as_zip(payload: Runs, path: Path) -> None:
    import torch

    torch.save(state_dict_with(payload), path)


def as_old_format(payload: Runs, path: Path) -> None:
    import torch

    torch.save(state_dict_with(payload), path, _use_new_zipfile_serialization=False)


def as_lightning(payload: Runs, path: Path) -> None:
    import torch

    torch.save({"state_dict": {}, "hyper_parameters": {"args": payload}}, path)


def as_bare_pickle(payload: Runs, path: Path) -> None:
    path.write_bytes(pickle.dumps(payload, protocol=2))


def as_torchscript(payload: Runs, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in {
            "data.pkl": pickle.dumps({"a": payload}, protocol=2),
            "constants.pkl": pickle.dumps(payload, protocol=2),
            "version": b"3\n",
            "byteorder": b"little",
            "code/__torch__.py": b"raise SystemExit",
        }.items():
            archive.writestr(f"archive/{name}", data)


def as_npz(payload: Runs, path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, sscd_jax=np.array(payload, dtype=object))


CONTAINERS = [as_zip, as_old_format, as_lightning, as_bare_pickle, as_torchscript, as_npz]


@pytest.mark.parametrize("kind", payloads(Path("x")))
@pytest.mark.parametrize("container", CONTAINERS, ids=lambda f: f.__name__)
def test_a_malicious_file_is_refused_and_does_nothing(container, kind, tmp_path):
    pytest.importorskip("torch")
    canary = tmp_path / "canary"
    for name in ("weights.pt", "weights.safetensors", "weights.onnx", "weights.npz"):
        path = tmp_path / name
        container(payloads(canary)[kind], path)
        with pytest.raises(ValueError, match=str(path)) as error:
            weights.load(path)
        if container is not as_npz:
            assert f"is refused: it would run {NAMES[kind]}, " in str(error.value)
    assert not canary.exists()
    function, arguments = payloads(canary)[kind].call
    function(*arguments)
    assert canary.exists(), "the payload does nothing, whoever runs it"


def bundle_of(folder: Path, format_: str, payload: Runs, source) -> None:
    """An export in which every file but card and sums is the payload's pickle, with sums that fit."""
    path = folder.parent / "start.safetensors"
    write_safetensors(path, *seeded("resnet18"), {})
    export(path, folder, format=format_, images=source, preset=Preset("skew", 64))
    sums = []
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS):
        if file.name != CARD:
            file.write_bytes(pickle.dumps(payload))
        sums.append(f"{hash_file(file)}  {file.relative_to(folder).as_posix()}\n")
    (folder / SUMS).write_text("".join(sums))


@pytest.mark.slow
@pytest.mark.parametrize("format_", marked(name for name in BUNDLES if name != "torchvision"))
def test_a_malicious_bundle_is_refused_and_does_nothing(format_, images, tmp_path):
    pytest.importorskip("torch")  # else the pickle is refused for its absence
    canary = tmp_path / "canary"
    bundle_of(tmp_path / "out", format_, payloads(canary)["os.system"], open_source(str(images)))
    with pytest.raises(ValueError, match="out"):
        weights.load(tmp_path / "out")
    assert not canary.exists()


@pytest.mark.slow
def test_a_malicious_run_is_refused_and_does_nothing(images, tmp_path):
    canary = tmp_path / "canary"
    config = Config(model=Model(backbone="resnet18", dims=8, width=4))
    state = train_state.create(build_model(**dataclasses.asdict(config.model)), lars(0.1), 0, replicated(create_mesh()))
    with checkpoint.open_checkpoints(tmp_path / "run", keep=2) as checkpoints:
        checkpoint.save(checkpoints, state, config, None)
    weights.load(tmp_path / "run")
    files = sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file())
    assert len(files) > 5
    for file in files:
        before = file.read_bytes()
        file.write_bytes(pickle.dumps(payloads(canary)["os.system"]))
        with contextlib.suppress(ValueError):  # or none, where the file does not matter
            weights.load(tmp_path / "run")
        file.write_bytes(before)
    assert not canary.exists()


def test_what_would_run_is_named(torch_files, tmp_path):
    as_zip(payloads(tmp_path / "canary")["os.system"], tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt is refused: it would run posix\.system.*save model\.state_dict\(\)"):
        weights.load(tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"it would run sscd_jax\.weights\.torch_model\.SSCD"):
        weights.load(torch_files / "whole_module.pt")


def test_the_code_of_a_torchscript_archive_is_not_run(torch_files, tmp_path):
    """An archive whose __setstate__ fails when torch.jit.load runs it is read all the same."""
    import torch

    path = tmp_path / "archive.pt"
    with zipfile.ZipFile(torch_files / "traced.torchscript.pt") as source, zipfile.ZipFile(path, "w") as copy:
        for name in source.namelist():
            data = source.read(name)
            copy.writestr(name, b"this is no code" if name.endswith(".py") else data)
    with pytest.raises(RuntimeError):
        torch.jit.load(path)
    assert weights.read(path).format == "TorchScript, torchvision names"


@pytest.mark.parametrize("name", ["official.torchvision.pt", "old.pt", "traced.torchscript.pt", "imagenet.safetensors"])
def test_a_file_that_is_cut_off_is_an_error_that_names_it(name, torch_files, tmp_path):
    path = tmp_path / name
    data = (torch_files / name).read_bytes()
    for length in (9, len(data) // 2, len(data) - 100):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=name):
            weights.load(path)


def test_a_tensor_that_does_not_fit_its_checksum_is_refused(tmp_path):
    """torch.load reads it without a word."""
    torch = pytest.importorskip("torch")
    model, variables = seeded("resnet18", 2, width=1)
    state = to_state_dict(model, variables)
    write_state_dict(tmp_path / "a.pt", state)
    content = bytearray((tmp_path / "a.pt").read_bytes())
    content[content.index(state["backbone.layer4.1.conv2.weight"].tobytes()) + 5] ^= 1
    (tmp_path / "a.pt").write_bytes(content)
    torch.load(tmp_path / "a.pt", weights_only=True)
    with pytest.raises(ValueError, match=r"a\.pt is damaged: .* does not fit its checksum"):
        weights.load(tmp_path / "a.pt")


@pytest.mark.parametrize("shared", [False, True])
def test_tensors_that_are_larger_than_the_file_are_refused(shared, tmp_path):
    """A tensor with stride 0, or many of one storage, would take memory that a small file does not show."""
    torch = pytest.importorskip("torch")
    if shared:
        one = torch.zeros(2_000_000, dtype=torch.float16)
        state = {f"layer{i}": one.view(-1) for i in range(100)}
    else:
        state = {"conv1.weight": torch.zeros(1, dtype=torch.float16).expand(100_000_000)}
    torch.save(state, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=r"a\.pt would unpack to more than 256 MiB"):
        weights.load(tmp_path / "a.pt")


def test_content_that_is_no_state_dict(tmp_path):
    torch = pytest.importorskip("torch")
    for content, message in [
        (torch.zeros(3), "holds Tensor, not a state dict"),
        ({"a": 1}, "holds int under 'a'"),
        ({"model": {"a": torch.zeros(3)}}, "save what is under 'model' alone"),
        (
            {"conv1.weight": torch.zeros(0, 3, 7, 7), "layer1.0.conv2.weight": torch.zeros(3)},
            "not those of convolutions",
        ),
    ]:
        torch.save(content, tmp_path / "a.pt")
        with pytest.raises(ValueError, match=message):
            weights.load(tmp_path / "a.pt")


def test_a_newer_protocol_of_pickles_is_said(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3)}, tmp_path / "a.pt", pickle_protocol=4)
    with pytest.raises(ValueError, match=r"a\.pt.*protocol 4 or 5; save it with torch\.save's own"):
        weights.load(tmp_path / "a.pt")


def test_without_torch_the_extra_is_named(torch_files, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(ImportError, match=r"pip install 'sscd_jax\[torch\]'"):
        weights.load(torch_files / "official.torchvision.pt")
