"""Any file of weights to one of ours."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sscd_jax.models import describe
from sscd_jax.weights.formats import read_file
from sscd_jax.weights.native import hash_variables, write_safetensors


def convert(source: Path, out: Path, *, origin: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Reads weights of any format (see `files.read_file`) and writes them as safetensors of ours, checked on the spot.

    Args:
        source: file or folder.
        out: a file that ends in .safetensors; appears under this name when it is whole.
        origin: what is known of where the weights come from, added to what the source says of itself.

    Returns:
        Summary: source, format, backbone, dims, width, pool_param, sha256 (of the weights), out.

    Raises:
        ValueError: as `read_file`; `out` has another ending; what was written is not what was read.
    """
    if out.suffix != ".safetensors":
        raise ValueError(f"--out {out}: name a file that ends in .safetensors")
    if out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: {'it is a folder' if out.is_dir() else f'there is no folder {out.parent}'}")
    weights = read_file(source)
    sha256 = hash_variables(weights.variables)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as folder:
        unfinished = Path(folder) / out.name
        write_safetensors(unfinished, weights.model, weights.variables, {**weights.origin, **(origin or {})})
        if hash_variables(read_file(unfinished).variables) != sha256:
            raise ValueError(f"what was written to {out} is not what was read from {source}: is the disk sound?")
        unfinished.replace(out)
    summary = {"source": str(source), "format": weights.format, **describe(weights.model)}
    return {**summary, "sha256": sha256, "out": str(out)}
