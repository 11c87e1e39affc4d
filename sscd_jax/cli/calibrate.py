"""The command that fits a calibration."""

import json
import sys
from pathlib import Path
from typing import Any

from sscd_jax.cli.output import checked, same_images
from sscd_jax.datasets.annotations import read_ground_truth
from sscd_jax.descriptors import Descriptors
from sscd_jax.search.calibration import Method


def calibrate(
    training: str,
    out: Path,
    references: str | None = None,
    queries: str | None = None,
    ground_truth: Path | None = None,
    precision: float | None = None,
    false_positive_rate: float | None = None,
    method: Method = "whiten",
    score_norm: str = "1.0[0,2]",
    background: int = 50_000,
    seed: int = 0,
) -> None:
    """Fit a transform, score normalization and a threshold on your own images.

    With training descriptors alone, the threshold gives a false-positive rate: of the queries that copy nothing, the
    share that has a match. The references can be the training descriptors themselves: no image is a match of itself, or
    of another one with the same pixels, and the command prints how many of these it left out. With queries whose
    originals are known (`sscd-jax benchmark make` makes them from your images), the threshold gives a precision
    instead. The command prints the error rates to expect on images that the calibration was not fitted on.

    Args:
        training: The descriptors of images like those that will be compared. They should not be copies of one another.
        out: The .npz file to write, which `sscd-jax evaluate disc --calibration` reads.
        references: The descriptors of the images that will be searched. More references give more false matches.
        queries: The descriptors of queries whose originals are known. It requires --references and --ground-truth.
        ground_truth: The CSV file that says which query copies which reference. Its header is query_id,reference_id.
        precision: The share of the answers that should be correct. The default is 0.9 with --ground-truth.
        false_positive_rate: The share of the queries without a copy that may have a match. The default is 0.01
            without --ground-truth.
        method: How descriptors are transformed. Whitening becomes centering if there are too few training descriptors.
        score_norm: The score normalization by the training descriptors, as weight[first,last], or none.
        background: The number of training descriptors that are kept for the normalization. More take more memory.
        seed: Random seed of the choice of the training images that are held back and of those that are kept.
    """
    from sscd_jax.evaluation.fit_calibration import calibrate_by_precision, calibrate_by_rate

    out = checked(out, extension=".npz")
    options: dict[str, Any] = {
        "method": method,
        "score_norm": None if score_norm == "none" else score_norm,
        "background": background,
        "seed": seed,
    }
    images = Descriptors.read(training)
    searched = Descriptors.read(references) if references else None
    if queries or ground_truth:
        if not (queries and ground_truth and searched):
            raise ValueError("--queries, --references and --ground-truth go together")
        if false_positive_rate is not None:
            raise ValueError("--false-positive-rate is counted on training descriptors: leave out --ground-truth")
        pairs = read_ground_truth(ground_truth)
        wanted = 0.9 if precision is None else precision
        fitted = calibrate_by_precision(images, Descriptors.read(queries), searched, pairs, precision=wanted, **options)
    else:
        if precision is not None:
            raise ValueError("--precision needs --queries, --references and --ground-truth to be counted on")
        wanted = 0.01 if false_positive_rate is None else false_positive_rate
        fitted = calibrate_by_rate(images, searched, rate=wanted, **options)
    if fitted.facts["fallback"]:
        print(fitted.facts["fallback"], file=sys.stderr)
    left_out = fitted.facts["left_out"]
    if repeated := left_out.get("training_images"):
        print(f"{repeated} training images are left out: they are the same image as another one", file=sys.stderr)
    if note := same_images(left_out["pairs"]):
        print(note, file=sys.stderr)
    fitted.write(out)
    print(json.dumps({"threshold": fitted.threshold, **fitted.facts}, indent=2))
