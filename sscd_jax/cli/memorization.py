"""The command that measures how much a generative model copies from its training images."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sscd_jax.cli.output import beside, checked, table, with_interval
from sscd_jax.descriptors import Descriptors

if TYPE_CHECKING:
    from sscd_jax.evaluation.memorization import Memorization

PUBLISHED = "dcr_224"  # the preset of the papers
# The columns of the table.
COLUMNS = {
    "generated": "generated",
    "background": "background",
    "difference": "generated - background",
    "training": "training to one another",
}


def evaluate_memorization(
    generated: str,
    training: str,
    background: str | None = None,
    training_sample: int = 10_000,
    bootstrap: int = 1000,
    out: Path | None = None,
) -> None:
    """Measure how much a generative model copies: the similarity of its images to their nearest training images.

    The numbers are those of Somepalli et al. (CVPR 2023 and NeurIPS 2023). Theirs are of the preset dcr_224. Each
    number is followed by its 95 % confidence interval.

    Args:
        generated: The descriptors of generated images, a folder that `sscd-jax embed` wrote.
        training: The descriptors of the images that the model was trained on.
        background: The descriptors of real images that the model has not seen, from the same distribution as its
            training images. Give them to see what copying goes beyond chance: the same numbers of these images stand
            beside those of the generated ones, with the differences.
        training_sample: The number of training images, drawn at random, whose nearest other training image is looked
            for, as a comparison. If there are fewer, all of them are. 0 leaves the comparison out, which is faster.
        bootstrap: The number of sets of images drawn for the confidence intervals. 0 computes none, except those of
            shares, and is faster.
        out: The JSON file for all numbers. The default is GENERATED.memorization.json. The file of the same name that
            ends in .pairs.csv instead of .json lists the nearest training image of each generated image, the most
            similar first.
    """
    from sscd_jax.evaluation import memorization

    for option, value in (("--bootstrap", bootstrap), ("--training-sample", training_sample)):
        if value < 0:
            raise ValueError(f"{option} {value}: it must be 0 for none, or more")
    folders = {"generated": generated, "training": training} | ({"background": background} if background else {})
    _check_different(folders)
    out = checked(out or beside(generated, "memorization.json"), check=memorization.check_free)
    sets = {name: Descriptors.read(folder) for name, folder in folders.items()}
    preset = sets["generated"].provenance.preset
    if preset != PUBLISHED:
        print(
            f"these descriptors are of the preset {preset}, the published numbers are of {PUBLISHED}: compare only "
            "numbers of the same preset",
            file=sys.stderr,
        )
    made = memorization.evaluate(**sets, bootstrap=bootstrap, training_sample=training_sample)
    _show(made)
    memorization.write(
        out, made, sets, {**folders, "training_sample": training_sample, "bootstrap": bootstrap, "confidence": 0.95}
    )
    print(f"\nAll numbers are in {out}, and the pairs, the most similar first, in {memorization.pairs_path(out)}")


def _check_different(folders: Mapping[str, str]) -> None:
    """Raises ValueError if two of the folders are the same one."""
    seen: dict[str, str] = {}
    for name, folder in folders.items():
        place = folder.rstrip("/") if "://" in folder else os.path.realpath(folder)
        if place in seen:
            raise ValueError(f"--{seen[place]} and --{name} are the same folder, {folder}: give two sets of images")
        seen[place] = name


def _show(made: "Memorization") -> None:
    """Prints the metrics as a table, and what makes them doubtful."""
    from sscd_jax.evaluation.memorization import DATASET_SIMILARITY, METRICS

    columns = {name: title for name, title in COLUMNS.items() if name in made.rows}
    names = {name: name.replace("_", " ") for name in METRICS}
    names[DATASET_SIMILARITY] += " (dataset similarity)"
    lines: list[dict[str, Any]] = [
        {"similarity": names[name]} | {title: with_interval(made.rows[one], name) for one, title in columns.items()}
        for name in METRICS
    ]
    images = {"similarity": "images"} | {title: made.rows[one].get("images", "") for one, title in columns.items()}
    print(table([images, *lines]))
    if made.rows["generated"]["images"] == 1:
        print("there are no confidence intervals of one generated image", file=sys.stderr)
    if same := made.rows.get("background", {}).get("same_as_training"):
        print(
            f"{same} images of the background are training images, by the same descriptor: give images that the model "
            "has not seen",
            file=sys.stderr,
        )
