"""What several commands share: arguments that name images, and their TFDS options."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from sscd_jax.data.names import IdRule
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

if TYPE_CHECKING:
    from sscd_jax.data.image_source import Source
    from sscd_jax.descriptors import Descriptors
    from sscd_jax.weights import Weights

# A positional argument that the help shows as IMAGES. The docstring of each command says what it accepts.
Images = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="IMAGES")]


def open_images(images: str, *, split: str | None, data_dir: str | None, ids: IdRule = "stem") -> "Source":
    """Opens the images that a command is given.

    Args:
        images: A folder, a file, - for standard input, tfds:NAME or sample; see `data.sources.open_source`.
        split: Split of a TFDS data set; by default, train.
        data_dir: Folder that holds the TFDS data sets; by default, TFDS chooses it.
        ids: How images are named; see `data.sources.open_source`.

    Raises:
        ValueError: There are no such images, or `split` or `data_dir` is given for images that TFDS does not hold.
    """
    from sscd_jax.data.sources import open_source

    if (split or data_dir) and not images.startswith("tfds:"):
        raise ValueError(f"--split and --data-dir are for tfds:NAME, not for {images}")
    return open_source(images, split=split or "train", data_dir=data_dir, ids=ids)


def preset_for(weights: "Weights", name: PresetName | None, custom: Preset = CUSTOM) -> Preset:
    """Returns the preset that a command uses, and says so if it is another than the one that the network is for.

    Args:
        weights: The network and what its file says about it.
        name: The value of --preset; None for the preset that the network is for.
        custom: The preset that --preset custom selects.

    Raises:
        ValueError: `custom` is given, and the name is another one.
    """
    preset = choose(name, custom, default=weights.preset)
    if weights.preset not in (None, preset):
        print(f"these weights are for the preset {weights.preset.name}, and {preset.name} is used", file=sys.stderr)
    return preset


def open_set(place: str, *, ids: IdRule = "stem") -> "Source | Descriptors":
    """Opens a set of images that a command is given: a source of images, or a folder of descriptors.

    Args:
        place: A source, as for `data.sources.open_source`, or a folder that `sscd-jax embed` wrote.
        ids: How images are named; see `data.sources.open_source`.

    Raises:
        ValueError: There are no such images, or the descriptors are damaged.
    """
    from sscd_jax.data.sources import open_source
    from sscd_jax.descriptors import Descriptors, is_descriptors

    return Descriptors.read(place) if is_descriptors(place) else open_source(place, ids=ids)


def network_like(
    weights: str, name: PresetName | None, custom: Preset, sets: "Sequence[Source | Descriptors]"
) -> "tuple[Weights, Preset]":
    """Reads the weights that sets of images are embedded with, and chooses the preset.

    Args:
        weights: The weights, as the user names them.
        name: The value of --preset; None for that of the descriptors, or if there are none, of the network.
        custom: The preset that --preset custom selects.
        sets: The sets, which are images or descriptors.

    Raises:
        ValueError: Descriptors are of other weights or of another preset.
    """
    import numpy as np

    from sscd_jax import weights as known_weights
    from sscd_jax.descriptors import Descriptors, check_same_provenance
    from sscd_jax.duplicates.sides import preset_of
    from sscd_jax.embedding.collection import made_by
    from sscd_jax.weights.fetch import ensure

    ensure(weights)
    read = known_weights.read(weights)
    made = next((one for one in sets if isinstance(one, Descriptors)), None)
    if made is None:
        return read, preset_for(read, name, custom)
    preset = preset_of(made.provenance) if name is None else choose(name, custom)
    mine = made_by(read.model, read.variables, preset, "")
    if mine != made.provenance:
        nothing = Descriptors([], np.empty((0, made.vectors.shape[1]), np.float32), mine)
        check_same_provenance(**{"the descriptors": made, f"--weights {weights}": nothing})
    return read, preset


def embed_with(read: "Weights", preset: Preset, **options: Any) -> "Callable[[Source, Path], dict[str, Any]]":
    """Returns a function that embeds a source into a folder, trying again what failed and removing what has gone.

    Args:
        read: The network.
        preset: How the images are resized and normalized.
        options: Further options of `write_descriptors`.
    """
    from sscd_jax.embedding.collection import write_descriptors

    def embed(source: "Source", folder: Path) -> dict[str, Any]:
        settings = {"retry": True, "prune": True} | options
        return write_descriptors(read.model, read.variables, source, preset, folder, **settings)

    return embed
