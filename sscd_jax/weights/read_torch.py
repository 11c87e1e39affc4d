"""Reads tensors from PyTorch's files without executing anything in them."""

import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from sscd_jax.weights.native import most_unpacked

# Classes that Lightning and the official train.py store beside the tensors; read as `Inert`, so that no code runs.
LIGHTNING_NAMES = (
    "argparse.Namespace",
    "pathlib.PosixPath",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.callbacks.early_stopping.EarlyStopping",
    "pytorch_lightning.callbacks.lr_monitor.LearningRateMonitor",
    "sscd.transforms.settings.AugmentationSetting",
)
# Functions by which TorchScript stores lists; they return their argument.
TORCHSCRIPT_NAMES = tuple(f"torch.jit._pickle.build_{kind}list" for kind in ("int", "double", "bool", "tensor"))


class Inert:
    """Stands in for a class that a file names, and keeps the values that the file gives it."""

    def __init__(self, *values: Any) -> None:
        self.values = values


def read_state_dict(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any], bool]:
    """Reads the state dict in a .pt file or a Lightning checkpoint, and its hyperparameters.

    Returns:
        (arrays by name, hyperparameters or {} if there are none, whether it is a Lightning checkpoint).

    Raises:
        ValueError: the file is broken, would execute code, or holds no state dict; the error names the file.
        ImportError: torch is not installed.
    """
    with path.open("rb") as file:  # given a path, torch would choose the format by the extension
        content = _load(path, file, LIGHTNING_NAMES)
    if not isinstance(content, Mapping):
        raise ValueError(f"{path} holds {type(content).__name__}, not a state dict: save model.state_dict()")
    lightning = isinstance(content.get("state_dict"), Mapping)
    state = content["state_dict"] if lightning else content
    arrays = _arrays(state, path)
    if lightning:
        arrays = {key.removeprefix("model."): value for key, value in arrays.items()}
    return arrays, _hyperparameters(content.get("hyper_parameters")) if lightning else {}, lightning


def read_torchscript(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the parameters and buffers of a TorchScript archive, by name, and its pooling_param if it has one.

    torch.jit.load would run what the archive defines as __setstate__. This reads the values only: they are stored as in
    a state dict, within instances of classes that the archive's code defines, and those are read as `Inert`.

    Raises:
        ValueError: the file is broken or would execute code; the error names the file.
        ImportError: torch is not installed.
    """
    values = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(values, "w") as copy:
        for name in archive.namelist():
            inside = name.split("/", 1)[-1]
            if inside.startswith(("code/", "constants/")) or inside == "constants.pkl":
                continue
            data = archive.read(name)
            copy.writestr(name, data)
            if inside == "data.pkl":
                classes = _torchscript_classes(data)
    state: dict[str, Any] = {}
    attributes: dict[str, Any] = {}

    def collect(module: Any, prefix: str) -> None:
        for name, value in vars(module).items():
            if isinstance(value, Inert):
                collect(value, f"{prefix}{name}.")
            elif hasattr(value, "detach"):
                state[f"{prefix}{name}"] = value
            elif name == "pooling_param":
                attributes["pool_param"] = value

    values.seek(0)
    try:
        collect(_load(path, values, (*classes, *TORCHSCRIPT_NAMES)), "")
    except (RecursionError, TypeError) as error:
        raise ValueError(f"{path} is not a TorchScript module") from error
    return _arrays(state, path), attributes


def write_state_dict(path: Path, state: Mapping[str, np.ndarray]) -> None:
    """Writes arrays as a state dict, which torch.load(path, weights_only=True) reads."""
    torch = import_torch()
    torch.save({key: torch.from_numpy(value.copy()) for key, value in state.items()}, path)


def import_torch() -> Any:
    """Imports torch; the ImportError says which extra installs it."""
    try:
        import torch
    except ImportError as error:
        raise ImportError("PyTorch's files need torch: pip install 'sscd_jax[torch]'") from error
    return torch


def _load(path: Path, file: BinaryIO, names: tuple[str, ...]) -> Any:
    torch = import_torch()
    inert = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in names]
    try:
        with torch.serialization.safe_globals(inert), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of the storage format of old files
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken pickle can raise anything
        if found := re.search(r"GLOBAL (\S+)", str(error)):
            raise ValueError(
                f"{path} is refused: it would run {found[1]}, which no file of weights needs; save model.state_dict()"
            ) from error
        found = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
        reason = found[1] if found else [*str(error).strip().splitlines(), type(error).__name__][0]
        if re.search(r"operand (14|15)\d", reason):  # opcodes of protocols 4 and 5
            reason = "its pickle is of protocol 4 or 5; save it with torch.save's own protocol, 2"
        raise ValueError(f"{path} cannot be read as weights of PyTorch: {reason[:200]}") from error


def _torchscript_classes(data: bytes) -> list[str]:
    """Returns the names of the classes that the archive's own code defines and its values are instances of."""
    try:
        named = {str(arg).replace(" ", ".") for op, arg, _ in pickletools.genops(data) if op.name == "GLOBAL"}
    except Exception as error:  # genops raises many types
        raise ValueError(f"a broken TorchScript archive: {error}") from error
    return sorted(name for name in named if name.startswith("__torch__."))


def _arrays(state: Mapping[Any, Any], path: Path) -> dict[str, np.ndarray]:
    arrays, size, most = {}, 0, most_unpacked(path.stat().st_size)
    for key, value in state.items():
        if not isinstance(key, str) or not hasattr(value, "detach"):
            hint = f"; save what is under {key!r} alone" if isinstance(value, Mapping) else ""
            raise ValueError(
                f"{path} holds {type(value).__name__} under {key!r}, where a state dict has a tensor{hint}"
            )
        size += 4 * value.numel()  # tensors can have stride 0, or be many of one storage
        if size > most:
            raise ValueError(f"{path} would unpack to more than {most >> 20} MiB")
        value = value.detach().cpu()
        arrays[key] = (value.float() if value.is_floating_point() else value).numpy()
    return arrays


def _hyperparameters(values: Any) -> dict[str, Any]:
    """Returns the arguments of the official train.py, stored as {"args": Namespace} or directly."""
    arguments = values.get("args", values) if isinstance(values, Mapping) else values
    return dict(vars(arguments) if isinstance(arguments, Inert) else arguments or {})
