"""What several commands share: arguments that name images, and their TFDS options."""

import sys
from typing import TYPE_CHECKING, Annotated

import tyro

from sscd_jax.data.names import IdRule
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

if TYPE_CHECKING:
    from sscd_jax.data.image_source import Source
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
