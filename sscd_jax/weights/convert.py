"""Converts weights of any format to a safetensors file of this package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors

from sscd_jax.files import atomic_file, check_file
from sscd_jax.models import describe
from sscd_jax.presets import Preset
from sscd_jax.weights.formats import read_file
from sscd_jax.weights.native import METADATA, hash_network, write_safetensors


def convert(
    source: Path,
    out: Path,
    *,
    origin: Mapping[str, str] | None = None,
    expected: tuple[str, int] | None = None,
    preset: Preset | None = None,
) -> dict[str, Any]:
    """Reads weights of any format (see `formats.read_file`), writes them as safetensors, and reads them back to check.

    Args:
        source: the file or folder of the weights.
        out: a file whose name ends in .safetensors; it is written atomically.
        origin: facts about where the weights come from, such as a URL, added to those in the source.
        expected: the backbone and the dims that the network must have.
        preset: how images for the network are resized and normalized; by default what the source says, if it does.

    Returns:
        A summary: source, format, backbone, dims, width, pool_param, sha256 (of the network with its weights), out.

    Raises:
        ValueError: `read_file` raises it; the network is not the expected one; `out` has another extension; or the
            weights that were written differ from those that were read.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: name a file that ends in .safetensors")
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: {'it is a folder' if out.is_dir() else f'there is no folder {out.parent}'}")
    check_file(out, _ours)
    weights = read_file(source)
    network = describe(weights.model)
    if expected not in (None, found := (network["backbone"], network["dims"])):
        raise ValueError("{} holds a {} with {} dims, not a {} with {} dims".format(source, *found, *expected))
    sha256 = hash_network(weights.model, weights.variables)
    with atomic_file(out) as temporary:
        facts = {**weights.origin, **(origin or {})}
        write_safetensors(temporary, weights.model, weights.variables, facts, preset or weights.preset)
        written = read_file(temporary)
        if hash_network(written.model, written.variables) != sha256:
            raise ValueError(f"the weights in {out} differ from those in {source}: the disk may be faulty")
    return {"source": str(source), "format": weights.format, **network, "sha256": sha256, "out": str(out)}


def _ours(path: Path) -> None:
    """Raises ValueError if a file was not written by this package."""
    try:
        with safetensors.safe_open(path, "numpy") as file:
            ours = METADATA in (file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise ValueError(str(error)) from error
    if not ours:
        raise ValueError(f"it has no metadata {METADATA}")
