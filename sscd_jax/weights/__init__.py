"""Weights of every format that is known: official files, ONNX, training runs, exports."""

from pathlib import Path
from typing import Any

from sscd_jax.models import SSCD, describe
from sscd_jax.weights.fetch import PUBLISHED, cached
from sscd_jax.weights.formats import read_file
from sscd_jax.weights.native import Weights, hash_variables

__all__ = ["Weights", "find", "hash_variables", "load", "read"]


def load(path: str | Path, *, backbone: str | None = None) -> tuple[SSCD, Any]:
    """(network, variables) of official files, ONNX graphs, training runs, exports; told apart by content.

    Args:
        path: a file or folder, see `files.read_file`; or the name of published weights that were fetched.
        backbone: what the network must be; by default whatever the file has.

    Raises:
        FileNotFoundError, ValueError, ImportError: as `files.read_file`; or it is another backbone.
    """
    weights = read(path)
    found = describe(weights.model)["backbone"]
    if backbone not in (None, found):
        raise ValueError(f"{path} holds a {found}, not a {backbone}")
    return weights.model, weights.variables


def read(path: str | Path) -> Weights:
    """As `load`, with what is known of where the weights come from."""
    file = find(path)
    try:
        return read_file(file)
    except ValueError as error:
        if file == Path(path):
            raise
        raise ValueError(f"{error}; `sscd-jax weights fetch` repairs it") from error


def find(path: str | Path) -> Path:
    """The path itself, or the file of the published weights that have this name.

    Raises:
        FileNotFoundError: there is neither.
    """
    if Path(path).exists():
        return Path(path)
    if found := cached(str(path)):
        return found
    if str(path) in PUBLISHED:
        raise FileNotFoundError(f"{path} has not been fetched yet: sscd-jax weights fetch {path}")
    raise FileNotFoundError(f"{path}: no such file or folder of weights")
