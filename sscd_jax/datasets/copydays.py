"""Copydays as it lies on disks: which folder is which block.

Known are the folders of the official code and of DINO (original, strong, jpegqual/3, crops/10 ...), in the root or one
level down, and what INRIA's archives unpack to: images without a folder of copydays_original.tar.gz and
copydays_strong.tar.gz, jpegqual and crops of copydays_jpeg.tar.gz and copydays_crop.tar.gz, each in a folder of the
archive's name or all in one.
"""

import re
from pathlib import Path

from sscd_jax.data.image_source import Source
from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS

NEEDED = ("original", "strong")
_ARCHIVES = {
    "original": "copydays_original",
    "strong": "copydays_strong",
    "jpegqual": "copydays_jpeg",
    "crops": "copydays_crop",
}
_NAME = re.compile(r"\d{6}\.jpe?g", re.IGNORECASE)  # as 200001.jpg


def find(root: Path) -> dict[str, list[Path]]:
    """The images of each block that is there, of which there may be fewer than Copydays has.

    Raises:
        ValueError: there are no originals or no strong copies, or two folders are of one block; says what was looked
            for.
    """
    blocks = {block: images for block in COPYDAYS_BLOCKS if (images := _block(root, block))}
    for block in NEEDED:
        if block not in blocks:
            what = f"no images of the block {block}" if blocks else "no Copydays"
            folders = ", ".join(_folders(block) if blocks else COPYDAYS_BLOCKS)
            raise ValueError(f"{what} in {root}: looked for images as 200000.jpg in it and in its folders {folders}")
    return blocks


def images(root: Path, blocks: dict[str, list[Path]]) -> Source:
    """Images of blocks, whose ids are as strong/200001."""
    named = [(f"{block}/{path.stem}", str(path)) for block, paths in blocks.items() for path in paths]
    return Source(str(root), [one for one, _ in named], [path for _, path in named])


def _block(root: Path, block: str) -> list[Path]:
    for pattern in _folders(block):
        found = {folder: paths for folder in sorted(root.glob(pattern)) if (paths := _inside(folder))}
        if len(found) > 1:
            raise ValueError(f"{' and '.join(map(str, found))} are both the block {block} of Copydays: remove one")
        if found:
            return next(iter(found.values()))
    # What tar leaves of the archives of originals and strong copies: 200000.jpg is an original, 200001.jpg its copy.
    return [path for path in _inside(root) if block in NEEDED and (path.stem[-2:] == "00") == (block == "original")]


def _folders(block: str) -> tuple[str, ...]:
    """Where a block may be, the first first."""
    kind, _, degree = block.partition("/")
    return block, f"*/{block}", f"{_ARCHIVES[kind]}/{degree}".rstrip("/")


def _inside(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name)) if folder.is_dir() else []
