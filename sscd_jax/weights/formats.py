"""Reads any file of weights; the format is recognized by the content, not by the name."""

import dataclasses
import errno
import json
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util

from sscd_jax.models import build_model
from sscd_jax.weights import runs
from sscd_jax.weights.native import (
    BUNDLES,
    CARD,
    METADATA,
    SUMS,
    WEIGHTS,
    Weights,
    _members,
    _network,
    _ours,
    _read_npz,
    hash_file,
    most_unpacked,
    parse_preset,
)
from sscd_jax.weights.state_dict import COUNTER, MISFIT, abstract_variables, fit, from_state_dict


def read_file(path: Path) -> Weights:
    """Reads weights of any known format: .pt, .ckpt, TorchScript, .safetensors, .npz, ONNX, a run or a bundle.

    Raises:
        FileNotFoundError: there is no such file or folder.
        OSError: the disk fails; the error names the file.
        ValueError: the format is not known, the file is broken or would execute code, or keys are unknown, missing or
            of the wrong shape; the error names the file.
        ImportError: the format needs an extra; the error says which.
    """
    try:
        return _read_folder(path) if path.is_dir() else _with_preset_of_bundle(_read_file(path), path)
    except ImportError:
        raise
    except Exception as error:  # readers of damaged archives, graphs and checkpoints raise many types
        if isinstance(error, ValueError | OSError) and str(path) in str(error):
            raise
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the disk, and not an offset
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise ValueError(f"{path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Returns the text of an error in one line, or in a line for each array where the text is our own."""
    if isinstance(error, ValueError) and MISFIT in str(error):
        return str(error)
    if isinstance(error, MemoryError):
        return "it needs more memory than there is"
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ValueError) and text else f"it is damaged ({type(error).__name__}: {text})"


def _read_file(path: Path) -> Weights:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file or folder of weights")
    origin = {"file": path.name, "file_sha256": hash_file(path)}
    with path.open("rb") as file:
        head = file.read(16)
    if head.startswith(b"PK\x03\x04"):
        return _read_zip(path, origin)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return _read_safetensors(path, origin)
    if head.startswith(b"\x08"):  # the field ir_version
        from sscd_jax.weights.read_onnx import read_onnx

        return read_onnx(path, origin)
    if head.startswith(b"\x80"):  # a pickle: older files of PyTorch
        return _read_torch(path, origin)
    raise ValueError(
        f"{path} is not a known file of weights: it must be a .pt, .ckpt or TorchScript file of PyTorch, "
        f".safetensors, ONNX, or this package's .npz; it starts with {head!r}"
    )


def _read_folder(path: Path) -> Weights:
    if (path / CARD).is_file():
        return _read_bundle(path)
    if runs.is_run(path):
        try:
            config, variables = runs.load_run(path)
            model = build_model(**dataclasses.asdict(config.model))
            variables = fit(traverse_util.flatten_dict(variables), abstract_variables(model), {}, [])
        except FileNotFoundError:
            raise
        except Exception as error:  # Orbax and TensorStore raise many types
            raise ValueError(
                f"{path}: a checkpoint is damaged ({_reason(error)}); name an earlier one of RUN/checkpoints"
            ) from error
        return Weights(model, variables, "training run", {"run": path.absolute().name}, config.preset)
    raise ValueError(
        f"{path} is not a training run (a folder that `sscd-jax train --workdir` wrote), "
        "nor a bundle that `sscd-jax weights export` wrote"
    )


def _read_bundle(path: Path) -> Weights:
    """Reads a bundle after checking its SHA-256 sums."""
    try:
        card = json.loads((path / CARD).read_text())
        format_, network, origin = card["format"], card["network"], dict(card["origin"])
        preset = parse_preset(dict(card["preset"]))
        file = path / WEIGHTS.get(format_, BUNDLES[format_])
        sums = dict(line.split("  ", 1)[::-1] for line in (path / SUMS).read_text().splitlines())
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is not a complete bundle ({_reason(error)}): export it again") from error
    if missing := sums.keys() - (members := _members(path)):
        raise ValueError(f"{path} is not a complete bundle, it lacks {', '.join(sorted(missing))}: export it again")
    for name in sorted(members - {SUMS}):
        if hash_file(path / name) != sums.get(name):
            raise ValueError(f"{path / name} is not what was exported: its SHA-256 is not the one in {SUMS}")
    if format_ != "saved_model":
        weights = read_file(file)
        return Weights(weights.model, weights.variables, f"bundle, {format_}", origin, preset)
    import tensorflow as tf

    reader = tf.train.load_checkpoint(str(file))
    suffix = "/.ATTRIBUTES/VARIABLE_VALUE"
    names = [n.removesuffix(suffix) for n in reader.get_variable_to_shape_map() if n.startswith("weights/")]
    arrays = {name.removeprefix("weights/"): reader.get_tensor(name + suffix) for name in names}
    model, variables = _network(arrays, network, is_folded=True)
    return Weights(model, variables, "bundle, saved_model", origin, preset)


def _with_preset_of_bundle(weights: Weights, path: Path) -> Weights:
    """Adds the preset of a bundle to the weights of a file that cannot hold it, if the file is still in the bundle."""
    card, sums = path.with_name(CARD), path.with_name(SUMS)
    if weights.preset is not None or not (card.is_file() and sums.is_file()):
        return weights
    try:
        if f"{hash_file(path)}  {path.name}" not in sums.read_text().splitlines():  # it lies beside another bundle
            return weights
        return dataclasses.replace(weights, preset=parse_preset(dict(json.loads(card.read_text())["preset"])))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{card} is damaged ({_reason(error)}): export {path.name} again") from error


def check_archive(path: Path) -> list[str]:
    """Returns the names of the members of an archive, after checking its size, their paths and their checksums.

    Raises:
        ValueError: the archive is damaged, is too large, or has members outside its own folder; the error names it.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            most = most_unpacked(path.stat().st_size)
            if sum(member.file_size for member in members) > most:
                raise ValueError(f"{path} would unpack to more than {most >> 20} MiB")
            broken = archive.testzip()  # torch.load does not look
    except (zipfile.BadZipFile, RuntimeError, zlib.error) as error:  # see files.NPZ_ERRORS
        raise ValueError(f"{path} is cut off or broken: {error}") from error
    if broken:
        raise ValueError(f"{path} is damaged: {broken} does not fit its checksum; copy it again")
    names = [member.filename for member in members]
    if any(name.startswith(("/", "\\")) or ".." in name.split("/") for name in names):
        raise ValueError(f"{path} is refused: it has members outside its own folder")
    return names


def _read_zip(path: Path, origin: dict[str, str]) -> Weights:
    names = check_archive(path)
    if all(name.endswith(".npy") for name in names):
        return _read_npz(path)
    if not any(name.endswith("/data.pkl") for name in names):
        if any(name.endswith(("/version", "/constants.pkl")) or "/data/" in name for name in names):
            raise ValueError(f"{path} lacks data.pkl, which names the tensors of an archive of PyTorch: copy it again")
        raise ValueError(f"{path} is an archive, but neither PyTorch's nor this package's .npz")
    if any(name.endswith("/constants.pkl") for name in names):
        from sscd_jax.weights.read_torch import read_torchscript

        state, attributes = read_torchscript(path)
        return _from_state_dict(state, "TorchScript", origin, **attributes)
    return _read_torch(path, origin)


def _read_torch(path: Path, origin: dict[str, str]) -> Weights:
    from sscd_jax.weights.read_torch import read_state_dict

    state, hyperparameters, lightning = read_state_dict(path)
    pool_param = hyperparameters.get("pool_param", 3.0)
    return _from_state_dict(state, "Lightning checkpoint" if lightning else "PyTorch", origin, float(pool_param))


def _from_state_dict(
    state: Mapping[str, np.ndarray], container: str, origin: dict[str, str], pool_param: float = 3.0
) -> Weights:
    model, variables = from_state_dict(state, pool_param=pool_param)
    counts = [int(value) for key, value in state.items() if key.endswith(COUNTER)]
    layout = "classy_vision" if any("initial_block" in key for key in state) else "torchvision"
    more = {"batches_tracked": str(counts[0])} if counts else {}
    return Weights(model, variables, f"{container}, {layout} names", origin | more)


def _read_safetensors(path: Path, origin: dict[str, str]) -> Weights:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in sorted(file.keys())}
    except (safetensors.SafetensorError, AttributeError, TypeError) as error:
        raise ValueError(f"{path} is a broken safetensors file: {error}") from error
    if METADATA in metadata:
        return _ours(arrays, metadata[METADATA], "sscd_jax, safetensors")
    return _from_state_dict(arrays, "safetensors", origin)
