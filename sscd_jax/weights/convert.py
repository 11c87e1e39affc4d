"""Any file of weights to one of ours."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sscd_jax.files import atomic_file
from sscd_jax.models import describe
from sscd_jax.weights.formats import read_file
from sscd_jax.weights.native import hash_variables, write_safetensors


def convert(
    source: Path,
    out: Path,
    *,
    origin: Mapping[str, str] | None = None,
    expected: tuple[str, int] | None = None,
) -> dict[str, Any]:
    """Reads weights of any format (see `formats.read_file`), writes them as safetensors of ours, and reads them again.

    Args:
        source: file or folder.
        out: a file whose name ends in .safetensors; it is written completely or not at all.
        origin: what is known of where the weights come from, added to what the source says itself.
        expected: backbone and dims that the network must have.

    Returns:
        Summary: source, format, backbone, dims, width, pool_param, sha256 (of the weights), out.

    Raises:
        ValueError: as `read_file`; the network is not the expected one; `out` has another extension; or what was
            written is not what was read.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: name a file that ends in .safetensors")
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: {'it is a folder' if out.is_dir() else f'there is no folder {out.parent}'}")
    weights = read_file(source)
    network = describe(weights.model)
    if expected not in (None, found := (network["backbone"], network["dims"])):
        raise ValueError("{} holds a {} with {} dims, not a {} with {} dims".format(source, *found, *expected))
    sha256 = hash_variables(weights.variables)
    with atomic_file(out) as temporary:
        write_safetensors(temporary, weights.model, weights.variables, {**weights.origin, **(origin or {})})
        if hash_variables(read_file(temporary).variables) != sha256:
            raise ValueError(f"what was written to {out} is not what was read from {source}: is the disk sound?")
    return {"source": str(source), "format": weights.format, **network, "sha256": sha256, "out": str(out)}
