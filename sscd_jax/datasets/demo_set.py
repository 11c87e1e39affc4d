"""Makes the demo's image set: small, with the structure of DISC2021, from photographs that pip installs.

Each photograph is divided into a grid of cells, and an enlarged cell is an image of the set. Training images are cells
of the training photographs, from grids of several sizes. This gives more images, although large cells show parts of
small ones. References are cells of the evaluation photographs, from a single grid, so that none overlap. The other
cells of these photographs are held back: they are in no reference, and become the queries that copy nothing and the
images that edits paste onto or under queries.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import Resampling
from tqdm import tqdm

from sscd_jax.data.sample import EVALUATION, TRAINING, photograph_paths
from sscd_jax.datasets.annotations import SEPARATOR, write_csv
from sscd_jax.datasets.edits import edit
from sscd_jax.datasets.screening import detail
from sscd_jax.files import atomic_folder

REFERENCES = 60
COPIES_OF_EACH = 3
NON_COPIES = 100

# The sides of the cells in pixels are as large as so few photographs allow. Cells are enlarged to thumbnails, so that
# JPEG blocks and letters are as large on them as on larger images.
_TRAINING_SIDES, _EVALUATION_SIDE = (80, 120, 170), 80
_SHORT_SIDE = (128, 192)
# Two large photographs are reduced to this. They are soft at full size, and their cells then show as much as others.
_LONG_SIDE = 760
# A cell of sky, wall or night cannot be told from its neighbors once it is cropped or half covered. So every quarter of
# a cell must have at least this much detail, in gray levels.
_LEAST_DETAIL = 5.0


@dataclass(frozen=True)
class Cell:
    """A part of a photograph.

    Attributes:
        photograph: the name of the photograph.
        box: left, top, right and bottom in the photograph, which may have been reduced.
        image: the pixels.
    """

    photograph: str
    box: tuple[int, int, int, int]
    image: Image.Image


def make(out: Path, *, seed: int) -> dict[str, int]:
    """Writes the image set to a new folder. The same seed gives the same set.

        training/T*.jpg, references/R*.jpg, queries/Q*.jpg
        instances.csv       id, photograph, left, top, right, bottom: of training images and references
        queries.csv         query_id, reference_id (empty if it copies nothing), photograph, left, top, right, bottom,
                            edits (in the order applied)
        ground_truth.csv    query_id, reference_id

    Every image has its own random short side of 128 to 192 pixels and JPEG quality of 90 to 95, so that neither tells
    which images belong together.

    Args:
        out: the folder, which must not exist.
        seed: the random seed.

    Returns:
        The numbers of training, references, copies and non_copies.

    Raises:
        FileExistsError: `out` exists.
        FileNotFoundError: a photograph is missing; the error says what to install.
    """
    _check_new(out)
    rng = np.random.default_rng(seed)
    paths = photograph_paths()
    training = [c for name in TRAINING for side in _TRAINING_SIDES for c in _cells(name, paths[name], side)]
    evaluation = [c for name in EVALUATION for c in _cells(name, paths[name], _EVALUATION_SIDE)]
    evaluation = [evaluation[i] for i in rng.permutation(len(evaluation))]
    references, held_back = evaluation[:REFERENCES], evaluation[REFERENCES:]

    queries: list[int | None] = [*range(REFERENCES)] * COPIES_OF_EACH + [None] * NON_COPIES
    queries = [queries[i] for i in rng.permutation(len(queries))]

    instances, query_rows = [], []
    with (
        atomic_folder(out, _check_new) as temporary,
        tqdm(total=len(training) + len(references) + len(queries), desc="making images", dynamic_ncols=True) as bar,
    ):
        for folder in ("training", "references", "queries"):
            (temporary / folder).mkdir()
        for folder, letter, cells in (
            ("training", "T", training),
            ("references", "R", references),
        ):
            for number, cell in enumerate(cells, 1):
                name = f"{letter}{number:05d}"
                _save(_resized(cell.image, rng), temporary / folder / f"{name}.jpg", rng)
                instances.append((name, cell.photograph, *cell.box))
                bar.update()
        # There are fewer cells held back than queries that copy nothing, so some cells are used again with other edits.
        # Queries are never compared with one another.
        spare = [held_back[i % len(held_back)] for i in range(NON_COPIES)]
        for number, reference in enumerate(queries, 1):
            name = f"Q{number:05d}"
            cell = spare.pop() if reference is None else references[reference]
            others = [_resized(other.image, rng) for other in _three(held_back, cell, rng)]
            edited, names = edit(_resized(cell.image, rng), rng, others, int(rng.integers(2, 4)))
            _save(_resized(edited, rng), temporary / "queries" / f"{name}.jpg", rng)
            of = "" if reference is None else f"R{reference + 1:05d}"
            query_rows.append((name, of, cell.photograph, *cell.box, SEPARATOR.join(names)))
            bar.update()
        box = ("left", "top", "right", "bottom")
        write_csv(temporary / "instances.csv", ("id", "photograph", *box), instances)
        header = ("query_id", "reference_id", "photograph", *box, "edits")
        write_csv(temporary / "queries.csv", header, query_rows)
        truth = [row[:2] for row in query_rows if row[1]]
        write_csv(temporary / "ground_truth.csv", ("query_id", "reference_id"), truth)
    return {
        "training": len(training),
        "references": len(references),
        "copies": len(truth),
        "non_copies": len(query_rows) - len(truth),
    }


def _check_new(out: Path) -> None:
    if out.exists():
        raise FileExistsError(f"{out} already exists: remove it, or name another folder")


def least_detail(image: Image.Image) -> float:
    """Returns the `detail` of the quarter of the image that has the least."""
    width, height = image.size
    columns, rows = ((0, side // 2, side) for side in (width, height))
    quarters = [(columns[i], rows[j], columns[i + 1], rows[j + 1]) for i in (0, 1) for j in (0, 1)]
    return min(detail(image.crop(quarter)) for quarter in quarters)


def _cells(name: str, path: Path, side: int) -> list[Cell]:
    """Returns the cells of a photograph, about `side` pixels wide and high, that have enough detail."""
    photograph = Image.open(path).convert("RGB")
    photograph.thumbnail((_LONG_SIDE, _LONG_SIDE), Resampling.LANCZOS)
    columns, rows = photograph.width // side, photograph.height // side
    cells = []
    for row in range(rows):
        for column in range(columns):
            box = (
                column * photograph.width // columns,
                row * photograph.height // rows,
                (column + 1) * photograph.width // columns,
                (row + 1) * photograph.height // rows,
            )
            part = photograph.crop(box)
            if least_detail(part) >= _LEAST_DETAIL:
                cells.append(Cell(name, box, part))
    return cells


def _three(cells: list[Cell], but: Cell, rng: np.random.Generator) -> list[Cell]:
    """Draws three cells of the list, none of them `but`."""
    drawn = [cells[i] for i in rng.choice(len(cells), 4, replace=False)]
    return [cell for cell in drawn if cell is not but][:3]


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Returns the image with a short side drawn from _SHORT_SIDE."""
    scale = int(rng.integers(_SHORT_SIDE[0], _SHORT_SIDE[1] + 1)) / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Resampling.LANCZOS)


def _save(image: Image.Image, path: Path, rng: np.random.Generator) -> None:
    image.save(path, quality=int(rng.integers(90, 96)))
