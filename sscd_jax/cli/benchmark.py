"""The commands that make image sets to measure on: thin calls into the package."""

import json
from pathlib import Path

import tyro

from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits import BENCHMARK_KINDS


def benchmark_make(
    images: tyro.conf.Positional[str],
    out: Path,
    references: int | None = None,
    training: int | None = None,
    non_copies: int | None = None,
    copies_of_each: int = 3,
    edits: tuple[int, int] = (1, 3),
    strengths: tuple[Strength, ...] = ("weak", "medium", "strong"),
    kinds: tuple[str, ...] = BENCHMARK_KINDS,
    max_side: int = 1024,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    split: str | None = None,
    data_dir: str | None = None,
) -> None:
    """Make an image set shaped like DISC2021 from any images: references, queries that are edited copies of them,
    queries that copy nothing, images for training (whitening, score normalization), and the ground truth.

    Each image of IMAGES goes to one part: to the references, to the queries that copy nothing, or to training. Those
    that cannot be read are reported and left out, and so are those that show next to nothing, are there twice, or
    nearly. Near duplicates that look more different are not found, and would make the ground truth wrong. The same
    IMAGES and options make the same files, and after an interruption the same command goes on. Look at OUT/sheet.jpg.

    Args:
        images: A folder (searched recursively), a text file of paths, a .tar (webdataset) or .parquet file, folders and
            lists of these, tfds:NAME, or sample.
        out: New folder for training/, references/, queries/, ground_truth.csv, queries.csv (the edits of each),
            images.csv (what the others were), left_out.csv, errors.jsonl if images could not be read, made_by.json,
            sheet.jpg.
        references: Images that are searched. By default, as of the next two, an even share of what the other options
            leave; if all three are given, no more images are looked at than they need.
        training: Images for training.
        non_copies: Queries that copy nothing, one for each of so many images; these are also what copies are pasted
            onto, over and beside.
        copies_of_each: Queries that are edited copies of a reference, for each.
        edits: The least and the most edits of a query, each of another kind.
        strengths: Of the edits, one for each query, in turn.
        kinds: Kinds of edits to draw from.
        max_side: Images with a longer side, in pixels, are reduced to it.
        seed: Of all that is drawn.
        max_pixels: Larger images are reported and left out.
        workers: Processes; by default one for each core.
        split: Split of a TFDS data set; by default train.
        data_dir: Where TFDS data sets are kept; by default where TFDS puts them.
    """
    from sscd_jax.data.sources import open_source
    from sscd_jax.datasets.benchmark import Options, make

    if (split or data_dir) and not images.startswith("tfds:"):
        raise ValueError(f"--split and --data-dir are for tfds:NAME, not for {images}")
    options = Options(
        references=references,
        training=training,
        non_copies=non_copies,
        copies_of_each=copies_of_each,
        edits=edits,
        strengths=strengths,
        kinds=kinds,
        max_side=max_side,
        seed=seed,
        max_pixels=max_pixels,
    )
    source = open_source(images, split=split or "train", data_dir=data_dir)
    print(json.dumps(make(source, out, options, workers=workers), indent=2))
    print(f"Look at {out / 'sheet.jpg'}")
