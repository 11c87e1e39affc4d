"""What several commands share: arguments that name images, and their TFDS options."""

from typing import TYPE_CHECKING, Annotated

import tyro

from sscd_jax.data.names import IdRule

if TYPE_CHECKING:
    from sscd_jax.data.image_source import Source

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
