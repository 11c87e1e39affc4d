"""The command that fits a calibration."""

import json
import sys
from pathlib import Path
from typing import Any

from sscd_jax.cli.output import checked
from sscd_jax.datasets.annotations import read_ground_truth
from sscd_jax.descriptors import Descriptors
from sscd_jax.search.calibration import Method


def calibrate(
    training: Path,
    out: Path,
    references: Path | None = None,
    queries: Path | None = None,
    ground_truth: Path | None = None,
    precision: float | None = None,
    false_positive_rate: float | None = None,
    method: Method = "whiten",
    score_norm: str = "1.0[0,2]",
    background: int = 50_000,
    seed: int = 0,
) -> None:
    """Fit centring or whitening, score normalization and a threshold on your own images.

    From training descriptors alone, the threshold is for a wanted share of queries that copy nothing and have a match
    all the same. With queries whose originals are known (as `sscd-jax benchmark make` makes them from your images),
    it can be for a wanted precision. Says what to expect of images that it was not fitted on.

    Args:
        training: Descriptors of images like those that will be compared, none of them copies of one another.
        out: File to write, .npz; `sscd-jax evaluate disc --calibration` reads it.
        references: Descriptors of the images that will be searched: more of them give more false matches.
        queries: Descriptors of queries, with --references and --ground-truth.
        ground_truth: CSV file with the header query_id,reference_id.
        precision: Share of the answers that should be right; by default 0.9 with --ground-truth.
        false_positive_rate: Share of the queries that copy nothing that may have a match; by default 0.01 without
            --ground-truth.
        method: How descriptors are transformed; whitening that the training descriptors do not allow becomes centring.
        score_norm: Score normalization by the training descriptors, as weight[first,last], or none.
        background: Training descriptors that are kept for the normalization.
        seed: Of what is held back, and of what is kept.
    """
    from sscd_jax.evaluation.fit_calibration import calibrate_by_precision, calibrate_by_rate

    out = checked(out, ending=".npz")
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
    fitted.write(out)
    print(json.dumps({"threshold": fitted.threshold, **fitted.facts}, indent=2))
