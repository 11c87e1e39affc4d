"""Descriptors of Copydays as it lies on disks, of distractors and of pictures that codecs are fitted on."""

from pathlib import Path
from typing import Any

from sscd_jax.data.sources import open_source
from sscd_jax.datasets.copydays import find, pictures
from sscd_jax.descriptors import MANIFEST
from sscd_jax.embedding.collection import write_descriptors
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset

__all__ = ["embed_copydays", "find"]


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
        root: a folder with Copydays; see `find`.
        model, variables, preset, options: as `write_descriptors`.
        out: a folder; descriptors go to OUT/copydays, OUT/distractors and OUT/training.
        distractors, training: pictures, as for `open_source`, or a folder of descriptors, which stays where it is.

    Raises:
        ValueError: there is no Copydays, there are no such pictures, or a folder of `out` has others.
    """
    sources = {"copydays": pictures(root, find(root))}
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
