"""The commands that make image sets to measure on: thin calls into the package."""

import json
from pathlib import Path

from sscd_jax.cli.options import Images, open_images
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits import BENCHMARK_KINDS


def benchmark_make(
    images: Images,
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
    """Make a benchmark with the structure of DISC2021 from any images.

    It has references, queries that are edited copies of references, queries that copy nothing, images for training
    (whitening and score normalization), and the ground truth. Each image of IMAGES becomes a reference, a query that
    copies nothing, or a training image. Unusable images (unreadable or nearly blank) and duplicate images are skipped
    and reported. Near duplicates that differ more are not detected, and make the ground truth wrong: look at
    OUT/sheet.jpg. The same IMAGES and options give the same files. Rerun the same command to resume an
    interrupted benchmark.

    Args:
        images: A folder (searched recursively), an image, a text file of paths or of addresses (https://...), a .tar
            (webdataset) or .parquet file, a folder or list of these, a pack, - for a list of paths on standard input,
            tfds:NAME for a prepared TFDS data set, or sample for the bundled photographs.
        out: New folder for training/, references/, queries/, ground_truth.csv, queries.csv (the edits of each query),
            images.csv (the sources of the other images), left_out.csv, errors.jsonl for unreadable images,
            made_by.json and sheet.jpg.
        references: Number of images that are searched. By default, --references, --training and --non-copies share the
            images evenly. If all three are given, only as many images are read as they need.
        training: Number of training images.
        non_copies: Number of queries that copy nothing. Edits also paste copies onto, under and beside these images.
        copies_of_each: Number of edited copies of each reference.
        edits: Smallest and largest number of edits of a query. The edits of a query are of different kinds.
        strengths: Strengths of edits. The queries take them in turn, one strength per query.
        kinds: Kinds of edits to choose from.
        max_side: Largest side of an image, in pixels. Larger images are reduced to it.
        seed: Random seed of all choices.
        max_pixels: Largest number of pixels (width x height) of an image. Larger images are skipped and reported.
        workers: Number of processes; by default, one per core.
        split: Split of a TFDS data set. The default is train.
        data_dir: Folder that holds the TFDS data sets. By default, TFDS chooses it: ~/tensorflow_datasets.
    """
    from sscd_jax.datasets.benchmark import Options, make

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
    source = open_images(images, split=split, data_dir=data_dir)
    print(json.dumps(make(source, out, options, workers=workers), indent=2))
    print(f"Look at {out / 'sheet.jpg'}")
