"""Finds the blocks of Copydays in a folder.

Two layouts are known. The official code and DINO have the folders original, strong, jpegqual/3 to jpegqual/75 and
crops/10 to crops/80, in the root or one level below. INRIA's archives unpack to images without a folder
(copydays_original.tar.gz and copydays_strong.tar.gz) and to the folders jpegqual and crops (copydays_jpeg.tar.gz and
copydays_crop.tar.gz); each may be in a folder with the name of the archive, or all in one folder.
"""

import re
from pathlib import Path

from sscd_jax.data.image_source import Source
from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS

NEEDED = ("original", "strong")  # the other blocks may be missing
_ARCHIVES = {
    "original": "copydays_original",
    "strong": "copydays_strong",
    "jpegqual": "copydays_jpeg",
    "crops": "copydays_crop",
}
_NAME = re.compile(r"\d{6}\.jpe?g", re.IGNORECASE)  # such as 200001.jpg


def find(root: Path) -> dict[str, list[Path]]:
    """Finds the images of each block. Blocks other than original and strong may be missing.

    Returns:
        The files of each block that was found.

    Raises:
        ValueError: there are no originals or no strong copies, or two folders are the same block; the error says what
            was looked for.
    """
    blocks = {block: images for block in COPYDAYS_BLOCKS if (images := _block(root, block))}
    for block in NEEDED:
        if block not in blocks:
            what = f"no images of the block {block}" if blocks else "no Copydays"
            folders = ", ".join(_folders(block) if blocks else COPYDAYS_BLOCKS)
            raise ValueError(
                f"{what} in {root}: looked for images such as 200000.jpg in it and in its folders {folders}"
            )
    return blocks


def open_images(root: Path, blocks: dict[str, list[Path]]) -> Source:
    """Opens the images of blocks as a source named `root`, with ids such as strong/200001."""
    named = [(f"{block}/{path.stem}", str(path)) for block, paths in blocks.items() for path in paths]
    return Source(str(root), [image_id for image_id, _ in named], [path for _, path in named])


def _block(root: Path, block: str) -> list[Path]:
    for pattern in _folders(block):
        found = {folder: paths for folder in sorted(root.glob(pattern)) if (paths := _inside(folder))}
        if len(found) > 1:
            raise ValueError(f"{' and '.join(map(str, found))} are both the block {block} of Copydays: remove one")
        if found:
            return next(iter(found.values()))
    # The archives of originals and strong copies unpack to one folder: 200000.jpg is an original, 200001.jpg its copy.
    return [path for path in _inside(root) if block in NEEDED and (path.stem[-2:] == "00") == (block == "original")]


def _folders(block: str) -> tuple[str, ...]:
    """Returns the patterns of folders in which a block may be, in the order of preference."""
    kind, _, degree = block.partition("/")
    return block, f"*/{block}", f"{_ARCHIVES[kind]}/{degree}".rstrip("/")


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []
