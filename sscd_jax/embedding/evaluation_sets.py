"""Descriptors of DISC2021 as it lies on disks: see `data.disc_layout`."""

from pathlib import Path
from typing import Any

from sscd_jax.datasets.disc2021 import Split, find, pictures
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset

__all__ = ["embed_split", "find"]


def embed_split(
    split: Split, model: SSCD, variables: Any, preset: Preset, out: Path, **options: Any
) -> dict[str, Path | None]:
    """Writes descriptors of queries, references and training (None where there is no such folder), to folders of `out`.

    What is there already is not computed again.

    Args:
        split: of `find`.
        model, variables, preset, options: as `write_descriptors`.
        out: a folder; descriptors of the split's part go to OUT/SPLIT-PART.
    """
    written: dict[str, Path | None] = dict.fromkeys(split.folders)
    for part, folders in split.folders.items():
        if not folders:
            continue
        # References and training are those of every split; queries are not.
        folder = out / (f"{split.name}-{part}" if part == "queries" or split.name == "val" else part)
        write_descriptors(model, variables, pictures(folders), preset, folder, **options)
        written[part] = folder
    return written
