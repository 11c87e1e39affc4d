"""Builds the demo's image set: small, shaped like DISC2021, from photographs that pip installs.

A photograph is divided into a grid of cells; a cell, enlarged, is an instance. The training images
are cells of the training photographs, from grids of several sizes: more to learn from, at the price
that a large cell shows parts of small ones. The references are cells of the evaluation photographs,
from one grid, so that none overlap; the rest of those are held back: they are in no reference, so
they make the queries that copy nothing, and the images that queries are pasted onto or under.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.Image import Resampling
from tqdm import tqdm

from sscd_jax.data.sample import EVALUATION, TRAINING, photograph_paths
from sscd_jax.datasets.annotations import write_csv
from sscd_jax.datasets.edits import edit
from sscd_jax.datasets.screening import detail

REFERENCES = 60
COPIES_OF_EACH = 3
NON_COPIES = 100

# The sides of the cells, in pixels: as large as so few photographs allow at these numbers. Cells are
# enlarged to a thumbnail's size, so that JPEG blocks and letters fall on them as on larger images.
_TRAINING_SIDES, _EVALUATION_SIDE = (80, 120, 170), 80
_SHORT_SIDE = (128, 192)
# The two large photographs are soft at full size; reduced, a cell holds as much as the others' do.
_LONG_SIDE = 760
# Cells of sky, wall or night, or with an edge of one, have nothing to tell them from their neighbors
# once they are cropped or half covered: every quarter of a cell must have something to see.
_LEAST_DETAIL = 5.0


@dataclass(frozen=True)
class Cell:
    """A cut of a photograph: its name, the box in the (possibly reduced) photograph, the pixels."""

    photograph: str
    box: tuple[int, int, int, int]
    image: Image.Image


def make(out: Path, *, seed: int) -> dict[str, int]:
    """Writes the image set to the new folder `out`; the same seed gives the same set.

    training/T*.jpg, references/R*.jpg, queries/Q*.jpg;
    instances.csv: id, photograph, left, top, right, bottom, for training and references;
    queries.csv: query_id, reference_id (empty: copies nothing), photograph, left, top, right,
    bottom, edits in the order applied;
    ground_truth.csv: query_id, reference_id.
    Each image has a short side of 128 to 192 pixels and JPEG quality 90 to 95, both drawn anew,
    so that neither tells what belongs together.

    Returns:
      The number of images: training, references, copies, non_copies.

    Raises:
      FileExistsError: `out` is there already.
      FileNotFoundError: a photograph is absent; says what to install.
    """
    if out.exists():
        raise FileExistsError(f"{out} is there already: remove it, or name another folder")
    rng = np.random.default_rng(seed)
    paths = photograph_paths()
    training = [c for name in TRAINING for side in _TRAINING_SIDES for c in _cells(name, paths[name], side)]
    evaluation = [c for name in EVALUATION for c in _cells(name, paths[name], _EVALUATION_SIDE)]
    evaluation = [evaluation[i] for i in rng.permutation(len(evaluation))]
    references, held_back = evaluation[:REFERENCES], evaluation[REFERENCES:]

    queries: list[int | None] = [*range(REFERENCES)] * COPIES_OF_EACH + [None] * NON_COPIES
    queries = [queries[i] for i in rng.permutation(len(queries))]

    unfinished = out.with_name(f"{out.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    for folder in ("training", "references", "queries"):
        (unfinished / folder).mkdir(parents=True)
    instances, query_rows = [], []
    with tqdm(total=len(training) + len(references) + len(queries), desc="images") as bar:
        for folder, letter, cells in (
            ("training", "T", training),
            ("references", "R", references),
        ):
            for number, cell in enumerate(cells, 1):
                name = f"{letter}{number:05d}"
                _save(_resized(cell.image, rng), unfinished / folder / f"{name}.jpg", rng)
                instances.append((name, cell.photograph, *cell.box))
                bar.update()
        # There are fewer held-back cells than queries that copy nothing: some cells serve again,
        # with other edits, which does no harm, as no query is ever compared with a query.
        spare = [held_back[i % len(held_back)] for i in range(NON_COPIES)]
        for number, reference in enumerate(queries, 1):
            name = f"Q{number:05d}"
            cell = spare.pop() if reference is None else references[reference]
            others = [_resized(other.image, rng) for other in _three(held_back, cell, rng)]
            edited, names = edit(_resized(cell.image, rng), rng, others, int(rng.integers(2, 4)))
            _save(_resized(edited, rng), unfinished / "queries" / f"{name}.jpg", rng)
            of = "" if reference is None else f"R{reference + 1:05d}"
            query_rows.append((name, of, cell.photograph, *cell.box, " + ".join(names)))
            bar.update()

    box = ("left", "top", "right", "bottom")
    write_csv(unfinished / "instances.csv", ("id", "photograph", *box), instances)
    header = ("query_id", "reference_id", "photograph", *box, "edits")
    write_csv(unfinished / "queries.csv", header, query_rows)
    truth = [row[:2] for row in query_rows if row[1]]
    write_csv(unfinished / "ground_truth.csv", ("query_id", "reference_id"), truth)
    unfinished.rename(out)
    return {
        "training": len(training),
        "references": len(references),
        "copies": len(truth),
        "non_copies": len(query_rows) - len(truth),
    }


def least_detail(image: Image.Image) -> float:
    """The `detail` of the quarter of the image that has the least."""
    width, height = image.size
    columns, rows = ((0, side // 2, side) for side in (width, height))
    quarters = [(columns[i], rows[j], columns[i + 1], rows[j + 1]) for i in (0, 1) for j in (0, 1)]
    return min(detail(image.crop(quarter)) for quarter in quarters)


def _cells(name: str, path: Path, side: int) -> list[Cell]:
    """The cells of a photograph, about `side` pixels wide and high, that have enough detail."""
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
            cut = photograph.crop(box)
            if least_detail(cut) >= _LEAST_DETAIL:
                cells.append(Cell(name, box, cut))
    return cells


def _three(cells: list[Cell], but: Cell, rng: np.random.Generator) -> list[Cell]:
    """Three cells of the list, none of them `but`."""
    drawn = [cells[i] for i in rng.choice(len(cells), 4, replace=False)]
    return [cell for cell in drawn if cell is not but][:3]


def _resized(image: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The image with a short side drawn from _SHORT_SIDE."""
    scale = int(rng.integers(_SHORT_SIDE[0], _SHORT_SIDE[1] + 1)) / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return image.resize(size, Resampling.LANCZOS)


def _save(image: Image.Image, path: Path, rng: np.random.Generator) -> None:
    image.save(path, quality=int(rng.integers(90, 96)))
