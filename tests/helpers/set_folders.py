"""Copydays and DISC2021 in folders, made of a few photographs, as people have them."""

import shutil
from pathlib import Path

from PIL import Image

from sscd_jax.datasets.annotations import COPYDAYS_BLOCKS

ORIGINALS, STRONG = 4, 6


def make_copydays(paths: list[Path], root: Path) -> Path:
    """Four originals, a copy of each in every block, and of three of them two strong ones, turned and very small."""
    for number, path in enumerate(paths[:ORIGINALS]):
        photograph = Image.open(path)
        for block in COPYDAYS_BLOCKS:
            (root / block).mkdir(parents=True, exist_ok=True)
            kind, _, degree = block.partition("/")
            file = root / block / f"{200000 + 100 * number + (kind != 'original')}.jpg"
            if kind == "original":
                shutil.copy(path, file)
            elif kind == "jpegqual":
                photograph.save(file, quality=int(degree))
            elif kind == "crops":
                cut = int(degree) // 3
                photograph.crop((cut, cut, photograph.width, photograph.height)).save(file)
            elif number < 3:
                photograph.rotate(90).save(file)
                photograph.resize((32, 32)).save(file.with_name(f"{200002 + 100 * number}.jpg"), quality=10)
    return root


def make_validation_set(paths: list[Path], root: Path) -> Path:
    """The layout of the official code: ten queries, of which six are copies, twenty references, and training images."""
    _copy(paths[:20], root / "val_ref", "R%06d")
    _copy([*paths[:6], *paths[20:24]], root / "val_query", "Q%05d", quality=90)
    _copy(paths[24:], root / "training", "T%06d")
    rows = [f"Q{i:05d},R{i:06d}" for i in range(6)]
    (root / "val_groundtruth_matches.csv").write_text("\n".join(["query_id,reference_id", *rows]) + "\n")
    return root


def make_released_files(paths: list[Path], root: Path) -> Path:
    """Development and test queries in parts, ground truth without a header, and queries without a match in it."""
    for part in range(2):
        _copy(paths[10 * part : 10 * part + 10], root / f"references_{part}", "R%06d", first=10 * part)
        _copy(paths[24 + 8 * part : 32 + 8 * part], root / f"train_{part}", "T%06d", first=8 * part)
    for name, first, shift in (("dev", 0, 0), ("test", 50000, 10)):
        queries = [*paths[shift : shift + 6], *paths[20:24]]
        _copy(queries, root / f"{name}_queries_50k_0", "Q%05d", first=first, quality=90)
        rows = [f"Q{first + i:05d}," + (f"R{shift + i:06d}" if i < 6 else "") for i in range(10)]
        (root / f"{name}_queries_groundtruth.csv").write_text("\n".join(rows) + "\n")
    return root


def _copy(images: list[Path], folder: Path, form: str, first: int = 0, quality: int | None = None) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(images, first):
        if quality:
            Image.open(path).save(folder / f"{form % number}.jpg", quality=quality)
        else:
            shutil.copy(path, folder / f"{form % number}.jpg")
