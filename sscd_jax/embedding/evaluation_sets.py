"""Embeds the images of DISC2021 and Copydays; `sscd_jax.datasets` finds them on disk."""

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
    """Embeds the queries, references and training images of a split of DISC2021. Complete folders stay as they are.

    Args:
        split: the split, as `disc2021.find` returns it.
        model, variables, preset, options: as for `write_descriptors`.
        out: the folder to which the folders of descriptors are added. Queries of the split dev go to OUT/dev-queries.
            References and training images, which all splits but val share, go to OUT/references and OUT/training.

    Returns:
        The folders of descriptors of `queries`, `references` and `training`; None for a part without images.

    Raises:
        ValueError: as for `write_descriptors`.
    """
    written: dict[str, Path | None] = dict.fromkeys(split.folders)
    for part, folders in split.folders.items():
        if not folders:
            continue
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
    """Embeds Copydays, distractors and training images. Complete folders stay as they are.

    Args:
        root: a folder with Copydays; see `copydays.find`.
        model, variables, preset, options: as for `write_descriptors`.
        out: the folder to which the folders copydays, distractors and training are added.
        distractors: images that are no copies, as for `open_source`, or a folder of descriptors, which is used as it
            is; None for no distractors.
        training: the same for the images on which codecs are fitted.

    Returns:
        The folders of descriptors of `copydays`, `distractors` and `training`; None for what was not given.

    Raises:
        ValueError: there is no Copydays in `root`, the given images do not exist, or a folder in `out` holds
            descriptors of other images.
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
