"""Descriptors of DISC2021 and Copydays as they lie on disks: see `datasets`."""

from pathlib import Path
from typing import Any

from sscd_jax.data.sources import open_source
from sscd_jax.datasets import copydays, disc2021
from sscd_jax.datasets.disc2021 import Split
from sscd_jax.descriptors import MANIFEST
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset


def embed_split(
    split: Split, model: SSCD, variables: Any, preset: Preset, out: Path, **options: Any
) -> dict[str, Path | None]:
    """Writes descriptors of queries, references and training (None where there is no such folder), to folders of `out`.

    What is there already is not computed again.

    Args:
        split: of `disc2021.find`.
        model, variables, preset, options: as `write_descriptors`.
        out: a folder; descriptors of the split's part go to OUT/SPLIT-PART.
    """
    written: dict[str, Path | None] = dict.fromkeys(split.folders)
    for part, folders in split.folders.items():
        if not folders:
            continue
        # References and training are those of every split; queries are not.
        folder = out / (f"{split.name}-{part}" if part == "queries" or split.name == "val" else part)
        write_descriptors(model, variables, disc2021.open_images(folders), preset, folder, **options)
        written[part] = folder
    return written


def embed_copydays(
    root: Path,
    model: SSCD,
    variables: Any,
    preset: Preset,
    out: Path,
    *,
    distractors: str | None = None,
    training: str | None = None,
    **options: Any,
) -> dict[str, Path | None]:
    """Writes descriptors of Copydays, distractors and training (None where there are none), to folders of `out`.

    What is there already is not computed again.

    Args:
        root: a folder with Copydays; see `copydays.find`.
        model, variables, preset, options: as `write_descriptors`.
        out: a folder; descriptors go to OUT/copydays, OUT/distractors and OUT/training.
        distractors, training: images, as for `open_source`, or a folder of descriptors, which stays where it is.

    Raises:
        ValueError: there is no Copydays, there are no such images, or a folder of `out` has others.
    """
    sources = {"copydays": copydays.open_images(root, copydays.find(root))}
    written: dict[str, Path | None] = {"copydays": None, "distractors": None, "training": None}
    for name, given in (("distractors", distractors), ("training", training)):
        if given and (Path(given) / MANIFEST).is_file():
            written[name] = Path(given)
        elif given:
            sources[name] = open_source(given)
    for name, source in sources.items():
        write_descriptors(model, variables, source, preset, out / name, **options)
        written[name] = out / name
    return written
