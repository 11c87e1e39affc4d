"""Exports weights to other runtimes, as bundles: the file, a model card, golden pairs and SHA-256 sums.

A golden pair is an image and its descriptor, by which a deployment can be checked. Before the bundle appears, its own
runtime loads it, and the descriptors are compared with those of this package on such pairs.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import tensorflow as tf
from PIL import Image

from sscd_jax.data.image_source import Source
from sscd_jax.data.images import apply_preset, open_image
from sscd_jax.files import atomic_folder
from sscd_jax.models import SSCD, build_model, describe, normalize
from sscd_jax.models.folding import fold
from sscd_jax.presets import Preset, choose
from sscd_jax.weights import read
from sscd_jax.weights.formats import read_file
from sscd_jax.weights.native import (
    BUNDLES,
    CARD,
    SUMS,
    WEIGHTS,
    foreign_file,
    hash_file,
    hash_network,
    is_bundle,
    write_npz,
    write_safetensors,
)
from sscd_jax.weights.state_dict import to_state_dict

Format = Literal["npz", "safetensors", "torchvision", "onnx", "stablehlo", "saved_model"]
Input = Literal["float32", "uint8"]
Head = Literal["l2", "raw"]

RUNTIMES = {"torchvision": "torch", "onnx": "onnxruntime", "stablehlo": "jax", "saved_model": "tensorflow"}
PROGRAMS = ("onnx", "stablehlo", "saved_model")  # formats that also hold the computation
LOWEST_COSINE = 1 - 1e-5
GOLDEN_IMAGES = 8


def export(
    source: str | Path,
    out: Path,
    *,
    format: Format,
    images: Source,
    preset: Preset | None = None,
    input: Input = "float32",
    head: Head = "l2",
    license: str | None = None,
) -> dict[str, Any]:
    """Writes weights as a bundle and returns its model card.

    Args:
        source: a file, a folder or the name of published weights; see `weights.read`.
        out: the folder of the bundle; it appears when the export has passed its check, and replaces an earlier bundle.
        format: the format to write, see `native.BUNDLES`.
        images: images for the check; the first ones that can be read become the golden pairs.
        preset: how images for the network are resized and normalized; by default as the source says, or else small_288.
        input: for formats that hold the computation: "float32", normalized images, or "uint8", pixels from 0 to 255.
        head: for formats that hold the computation: "l2", descriptors of norm 1, or "raw", before L2 normalization.
        license: the license of the weights; by default, the one that the source states.

    Raises:
        ValueError: the format has no such input or head, `out` holds something else, or the format's runtime computes
            other descriptors than our network.
        FileNotFoundError, ImportError: as for `weights.read`; or the runtime's extra is not installed.
    """
    if format not in PROGRAMS and (input, head) != ("float32", "l2"):
        raise ValueError(f"{format} holds weights alone: --input and --head are for {', '.join(PROGRAMS)}")
    out = out.absolute()
    _check_out(out)
    weights = read(source)
    preset = preset or choose(None, default=weights.preset)
    network = describe(weights.model)
    model = build_model(**network).clone(normalized=head == "l2")  # in float32, even if it was trained in bfloat16
    if format == "torchvision" and network["width"] != 64:
        raise ValueError(f"torchvision's ResNet has 64 channels in its stem, this network {network['width']}")
    golden = _golden_images(images, preset)
    apply = jax.jit(model.apply)
    sizes = [np.stack([golden[i] for i in index]) for index in _same_size(golden)]
    expected = _rows(golden, [apply(weights.variables, normalize(one, preset.mean, preset.std)) for one in sizes])

    card = {
        "format": format,
        "file": BUNDLES[format],
        "network": network,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(weights.variables["params"])),
        "batch_norm": "folded into the convolutions" if format in PROGRAMS else "separate",
        "input": _describe_input(format, input),
        "output": {"name": "descriptors", "dtype": "float32", "shape": ["batch", expected.shape[1]], "head": head},
        "preset": preset.parameters(),
        "preset_of_source": weights.preset and weights.preset.parameters(),
        "source": {"name": Path(source).name, "format": weights.format},
        "origin": dict(weights.origin),
        "license": license or weights.origin.get("license", "not stated by the source"),
        "sha256": hash_network(weights.model, weights.variables),
        "versions": {name: version(name) for name in ("sscd_jax", "jax", "flax", "numpy")},
    }
    with atomic_folder(out, _check_out) as temporary:
        (temporary / "golden").mkdir()
        file = temporary / BUNDLES[format]
        _write(file, format, model, weights.variables, weights.origin, input, preset)
        found = _rows(golden, _run(file, format, model, sizes, input, preset))
        check = compare(expected, found)
        runtime = RUNTIMES.get(format, "numpy")
        card["check"] = {"runtime": f"{runtime} {_version(runtime)}", "images": len(golden), **check}
        for number, image in enumerate(golden):
            Image.fromarray(image).save(temporary / "golden" / f"{number}.png")
        np.save(temporary / "golden" / "descriptors.npy", expected, allow_pickle=False)
        (temporary / CARD).write_text(json.dumps(card, indent=2) + "\n")
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        sums = [f"{hash_file(path)}  {path.relative_to(temporary).as_posix()}\n" for path in files]
        (temporary / SUMS).write_text("".join(sums))
    return card


def _check_out(out: Path) -> None:
    if not out.is_symlink() and (not out.exists() or is_bundle(out) or (out.is_dir() and not any(out.iterdir()))):
        return
    holds = "" if out.is_symlink() or not out.is_dir() else f", or holds other files too, such as {foreign_file(out)}"
    raise ValueError(f"{out} exists and is not a bundle{holds}: name another folder")


def compare(expected: np.ndarray, found: np.ndarray) -> dict[str, float]:
    """Returns the lowest cosine between rows of float32 [N, D], and the largest relative difference of their norms.

    Raises:
        ValueError: the descriptors differ too much.
    """
    if expected.shape != found.shape:
        raise ValueError(f"the export gives {list(found.shape)} descriptors instead of {list(expected.shape)}")
    one, other = expected.astype(np.float64), found.astype(np.float64)
    norms = [np.linalg.norm(x, axis=1) for x in (one, other)]
    cosine = float(((one * other).sum(1) / (norms[0] * norms[1])).min())
    difference = float(np.abs(norms[1] / norms[0] - 1).max())
    if not (cosine >= LOWEST_COSINE and difference <= 1e-3):
        raise ValueError(
            f"the export does not compute our descriptors: lowest cosine {cosine:.8f}, norms differ by "
            f"{difference:.2g}; nothing was written"
        )
    return {"lowest_cosine": cosine, "largest_difference_of_norms": difference}


def _golden_images(images: Source, preset: Preset) -> list[np.ndarray]:
    """Returns the first images that can be read, resized by the preset, uint8 [H, W, 3] of one or several sizes."""
    found: list[np.ndarray] = []
    for index in range(len(images)):
        try:
            image = open_image(images.load(index), exif=preset.exif)
            found.append(np.asarray(apply_preset(image, preset)))
        except (OSError, ValueError):
            continue
        if len(found) == GOLDEN_IMAGES:
            break
    if not found:
        raise ValueError(f"{images.name} has no image that can be read, on which the export could be checked")
    return found


def _write(
    file: Path,
    format: Format,
    model: SSCD,
    variables: Any,
    origin: Mapping[str, str],
    input: Input,
    preset: Preset,
) -> None:
    uint8 = input == "uint8"
    if format == "npz":
        write_npz(file, model, variables, origin, preset)
    elif format == "safetensors":
        write_safetensors(file, model, variables, origin, preset)
    elif format == "torchvision":
        from sscd_jax.weights.read_torch import write_state_dict

        batches_tracked = int(origin.get("batches_tracked", 0))
        write_state_dict(file, to_state_dict(model, variables, batches_tracked=batches_tracked))
    elif format == "onnx":
        from sscd_jax.weights.export_onnx import write_onnx

        write_onnx(file, model, variables, uint8=uint8, preset=preset)
    elif format == "stablehlo":
        from sscd_jax.weights.export_xla import write_stablehlo

        write_stablehlo(file, model, variables, uint8=uint8, preset=preset)
        write_safetensors(file.with_name(WEIGHTS["stablehlo"]), *fold(model, variables), origin, preset)
    else:
        from sscd_jax.weights.export_xla import write_saved_model

        write_saved_model(file, model, variables, uint8=uint8, preset=preset)


def _same_size(images: Sequence[np.ndarray]) -> list[list[int]]:
    """Returns the positions of the images of each size."""
    sizes = [one.shape for one in images]
    return [[i for i, other in enumerate(sizes) if other == size] for size in dict.fromkeys(sizes)]


def _rows(images: Sequence[np.ndarray], results: Iterable[Any]) -> np.ndarray:
    """Puts the results for the images of each size into the order of the images."""
    rows: dict[int, np.ndarray] = {}
    for index, result in zip(_same_size(images), results, strict=True):
        rows |= zip(index, np.asarray(result), strict=True)
    return np.stack([rows[i] for i in range(len(images))])


def _run(
    file: Path, format: Format, model: SSCD, sizes: Sequence[np.ndarray], input: Input, preset: Preset
) -> list[np.ndarray]:
    """Computes the descriptors of uint8 [N, H, W, 3] images of each size by the format's own runtime."""
    images = [x if input == "uint8" else np.asarray(normalize(x, preset.mean, preset.std)) for x in sizes]
    nchw = [np.ascontiguousarray(x.transpose(0, 3, 1, 2)) for x in images]
    if format == "torchvision":
        return _run_torch(file, model, nchw)
    if format == "onnx":
        from sscd_jax.weights.export_onnx import run_onnx

        return [run_onnx(file, x) for x in (images if input == "uint8" else nchw)]
    if format == "stablehlo":
        from sscd_jax.weights.export_xla import run_stablehlo

        return [run_stablehlo(file, file.with_name(WEIGHTS["stablehlo"]), x) for x in images]
    if format == "saved_model":
        from sscd_jax.weights.export_xla import run_saved_model

        return [run_saved_model(file, x) for x in images]
    weights = read_file(file)
    apply = jax.jit(weights.model.apply)
    return [np.asarray(apply(weights.variables, x)) for x in images]


def _run_torch(file: Path, model: SSCD, images: Sequence[np.ndarray]) -> list[np.ndarray]:
    with tempfile.TemporaryDirectory() as folder:
        saved, out = Path(folder) / "images.npz", Path(folder) / "descriptors.npz"
        np.savez(saved, *images)
        network = json.dumps(describe(model))
        command = [sys.executable, "-m", "sscd_jax.weights.torch_model", str(file), network, str(saved), str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"]
            raise ValueError(f"PyTorch cannot run the export: {lines[-1]}")
        with np.load(out) as results:
            return [results[f"arr_{number}"] for number in range(len(images))]


def _describe_input(format: Format, input: Input) -> dict[str, Any]:
    if input == "uint8":
        return {"name": "images", "dtype": "uint8", "shape": ["batch", "height", "width", 3], "values": "RGB, 0 to 255"}
    first = format in ("torchvision", "onnx")
    shape = ["batch", 3, "height", "width"] if first else ["batch", "height", "width", 3]
    return {"name": "images", "dtype": "float32", "shape": shape, "values": "RGB / 255, minus mean, over std"}


def _version(package: str) -> str:
    return tf.__version__ if package == "tensorflow" else version(package)
