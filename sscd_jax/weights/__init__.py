"""Reads weights of every known format: official files, ONNX graphs, training runs, exports."""

from pathlib import Path
from typing import Any

from sscd_jax.data.storage import in_store
from sscd_jax.models import SSCD, describe
from sscd_jax.weights.fetch import PUBLISHED, cached, check
from sscd_jax.weights.formats import read_file
from sscd_jax.weights.native import Weights, hash_network

__all__ = ["Weights", "find", "hash_network", "load", "read"]


def load(path: str | Path, *, backbone: str | None = None) -> tuple[SSCD, Any]:
    """Loads a network and its variables from official files, ONNX graphs, training runs or exports.

    The format is recognized by the content of the file; see `formats.read_file`.

    Args:
        path: a file, a folder, or the name of published weights that were fetched.
        backbone: the backbone that the network must have; by default any.

    Returns:
        (Linen module, {"params": ..., "batch_stats": ...}); all leaves are float32.

    Raises:
        FileNotFoundError: there is no such file, folder or fetched weights.
        ValueError: the file cannot be read, or holds another backbone; the error names the file.
        ImportError: the format needs an extra; the error says which.

    Examples:
        >>> model, variables = load("sscd_disc_mixup.torchvision.pt")
        >>> descriptors = model.apply(variables, normalize(images))
    """
    weights = read(path)
    found = describe(weights.model)["backbone"]
    if backbone not in (None, found):
        raise ValueError(f"{path} holds a {found}, not a {backbone}")
    return weights.model, weights.variables


def read(path: str | Path) -> Weights:
    """Reads weights as `load` does, and also returns their format, origin and preset."""
    file = find(path)
    try:
        if file != Path(path):
            check(file)
        return read_file(file)
    except ValueError as error:
        if file == Path(path):
            raise
        raise ValueError(f"{error}; `sscd-jax weights fetch` repairs it") from error


def find(path: str | Path) -> Path:
    """Returns the path itself, or the file of the published weights of this name.

    Raises:
        FileNotFoundError: there is neither; the error says how to fetch published weights.
    """
    if Path(path).exists():
        return Path(path)
    if found := cached(str(path)):
        return found
    if str(path) in PUBLISHED:
        raise FileNotFoundError(f"{path} has not been fetched yet: sscd-jax weights fetch {path}")
    where = "copy them to this machine first" if in_store(str(path)) else "no such file or folder of weights"
    raise FileNotFoundError(f"{path}: {where}")
