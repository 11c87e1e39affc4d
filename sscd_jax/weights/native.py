"""The formats of this package (safetensors and npz with metadata), the layout of bundles, and hashes.

A file of these formats holds the variables by path ("params/backbone/conv1/kernel"), float32, and metadata in JSON that
say which network they belong to and where they come from.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from sscd_jax.models import SSCD, build_model, describe
from sscd_jax.models.folding import folded, unfold
from sscd_jax.presets import Preset
from sscd_jax.weights.state_dict import abstract_variables, fit

METADATA = "sscd_jax"  # key of our metadata in a file
CARD, SUMS = "model_card.json", "SHA256SUMS"  # files of a bundle, see export.py
BUNDLES = {  # the main file of a bundle, by format
    "npz": "sscd.npz",
    "safetensors": "sscd.safetensors",
    "torchvision": "sscd.torchvision.pt",
    "onnx": "sscd.onnx",
    "stablehlo": "sscd.stablehlo",
    "saved_model": "sscd/1",  # TensorFlow Serving wants a folder per version
}
MAX_ARCHIVE = 4 << 30  # bytes that a file may unpack to; the largest published network has 0.2 GB
MAX_SMALL, MAX_RATIO = 256 << 20, 20  # a small file may unpack to this many bytes, or times its size
# The file with the weights, for bundles whose main file does not hold them.
WEIGHTS = {"stablehlo": "weights.safetensors", "saved_model": "sscd/1/variables/variables"}


@dataclass(frozen=True)
class Weights:
    """A network with its variables and what its file says about them.

    Attributes:
        model: the Linen module.
        variables: {"params": ..., "batch_stats": ...}, float32.
        format: the format of the file that they were read from, for messages.
        origin: where they come from, as far as it is known, such as the license and the SHA-256 of the original file.
        preset: how images for this network are resized and normalized, or None if the file does not say.
    """

    model: SSCD
    variables: Any
    format: str
    origin: Mapping[str, str] = field(default_factory=dict)
    preset: Preset | None = None


def _members(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def is_bundle(path: Path) -> bool:
    """Returns whether a folder holds only a bundle that `export` wrote, so that it may be replaced."""
    return not foreign_file(path)


def foreign_file(path: Path) -> str:
    """Returns the first file of a folder that is not one of a bundle's, or "" if it holds only a bundle."""
    try:
        listed = {line.split("  ", 1)[1] for line in (path / SUMS).read_text().splitlines()}
        if json.loads((path / CARD).read_text())["format"] not in BUNDLES:
            raise ValueError("it has another format")
    except (OSError, ValueError, LookupError, TypeError):
        listed = set()
    there = _members(path)
    others = there - {*listed, SUMS} if listed else there or {path.name}
    return min(others, default="")


def _read_npz(path: Path) -> Weights:
    with np.load(path, allow_pickle=False) as file:
        if METADATA not in file:
            raise ValueError(f"{path} is not this package's .npz: it has no array {METADATA}")
        arrays = {key: file[key] for key in file.files}
    metadata = str(arrays.pop(METADATA))
    return _ours(arrays, metadata, "sscd_jax, npz")


def _ours(arrays: Mapping[str, np.ndarray], metadata: str, format_: str) -> Weights:
    try:
        known = json.loads(metadata)
        preset = parse_preset(known.get("preset"))
        network, is_folded, origin = known["network"], bool(known["folded"]), dict(known["origin"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"its metadata were not written by this package: {metadata[:200]}") from error
    return Weights(*_network(arrays, network, is_folded=is_folded), format_, origin, preset)


def _network(arrays: Mapping[str, np.ndarray], network: Mapping[str, Any], *, is_folded: bool) -> tuple[SSCD, Any]:
    try:
        model = build_model(**network)
    except TypeError as error:
        raise ValueError(f"its metadata describe no network of this package: {network}") from error
    expected = abstract_variables(folded(model) if is_folded else model)
    variables = fit({tuple(key.split("/")): value for key, value in arrays.items()}, expected, {}, [])
    return unfold(folded(model), variables) if is_folded else (model, variables)


def write_safetensors(
    path: Path, model: SSCD, variables: Any, origin: Mapping[str, str], preset: Preset | None = None
) -> None:
    """Writes variables, folded or not, as safetensors with our metadata."""
    arrays = {name: np.ascontiguousarray(value) for name, value in _by_name(variables).items()}
    # save_file is not used, because only the owner could read its file.
    path.write_bytes(safetensors.numpy.save(arrays, metadata={METADATA: _metadata(model, origin, preset)}))


def write_npz(path: Path, model: SSCD, variables: Any, origin: Mapping[str, str], preset: Preset | None = None) -> None:
    """Writes variables, folded or not, as an .npz with our metadata in the array `METADATA`."""
    arrays: dict[str, Any] = {METADATA: np.array(_metadata(model, origin, preset)), **_by_name(variables)}
    with path.open("wb") as file:  # given a name, numpy would append an extension
        np.savez(file, **arrays)


def _by_name(variables: Any) -> dict[str, np.ndarray]:
    return traverse_util.flatten_dict(jax.device_get(variables), sep="/")


def _metadata(model: SSCD, origin: Mapping[str, str], preset: Preset | None) -> str:
    made = {"network": describe(model), "folded": model.backbone.folded, "origin": dict(origin)}
    return json.dumps(made | ({"preset": preset.parameters()} if preset else {}))


def parse_preset(parameters: Mapping[str, Any] | None) -> Preset | None:
    """Returns the preset of `Preset.parameters`; None if there is none."""
    if not parameters:
        return None
    return Preset(**{name: value for name, value in parameters.items() if name != "name"})


def most_unpacked(size: int) -> int:
    """Returns how many bytes a file of this size may unpack to, so that a small one does not fill the memory."""
    return min(MAX_ARCHIVE, max(MAX_SMALL, MAX_RATIO * size))


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_network(model: SSCD, variables: Any) -> str:
    """Returns the SHA-256 of what maps normalized images to descriptors, hexadecimal.

    It covers the network (backbone, dims, width and power of the pooling) and the names, shapes and values of all
    variables. It does not cover how descriptors are computed, such as the type of the activations.
    """
    network = describe(model) | {"pool_param": float(model.pool_param)}
    digest = hashlib.sha256(json.dumps(network, sort_keys=True).encode())
    for name, value in sorted(_by_name(variables).items()):
        digest.update(f"\n{name} {value.shape} {value.dtype}\n".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()
