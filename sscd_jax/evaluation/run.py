"""Evaluates sets of descriptors: searches, measures every search, and gathers the facts for a report.

The commands `sscd-jax evaluate disc` and `evaluate copydays` and the demo call these two functions;
`sscd_jax.evaluation.results` writes what they return.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from sscd_jax.datasets.annotations import Edited
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import copydays, disc
from sscd_jax.evaluation.by_edit import by_edit
from sscd_jax.evaluation.results import Evaluation
from sscd_jax.evaluation.thresholds import at_thresholds
from sscd_jax.search.calibration import Calibration


def evaluate_disc(
    queries: Descriptors,
    references: Descriptors,
    training: Descriptors | None,
    ground_truth: Sequence[tuple[str, str]],
    *,
    codecs: Sequence[str],
    score_norms: Sequence[str | None],
    k: int = 10,
    rules: Sequence[disc.Candidates] = ("per_query",),
    precisions: Sequence[float] = (0.9,),
    edits: Mapping[str, Edited] | None = None,
    calibration: Calibration | None = None,
    bootstrap: int = 1000,
    facts: Mapping[str, str] | None = None,
    sources: Sequence[tuple[str, str]] | None = None,
) -> Evaluation:
    """Evaluates descriptors as on DISC2021, with everything that a report shows.

    Args:
        queries, references, training, codecs, score_norms, k: as for `disc.predict`.
        ground_truth: pairs (query id, reference id); each counts once.
        rules: the rules by which candidates are chosen, with a row for each; see `disc.evaluate`.
        precisions: the precisions for which each row gives the threshold of the score.
        edits: how each query was edited; each row then has metrics by edit.
        calibration: a calibration, which adds a row for each rule, with precision and recall at its threshold.
        bootstrap: the number of sets of queries drawn for the confidence intervals; 0 for none.
        facts: name -> text, for the foot of a report; by default `facts_of` the descriptors.
        sources: pairs of a set and where its images are; by default `sources_of` the descriptors.

    Returns:
        The evaluation: a row for each rule, score normalization and codec, then those of the calibration.

    Raises:
        ValueError: see `disc.evaluate`.
    """
    pairs = list(dict.fromkeys(ground_truth))
    found = disc.predict(queries, references, training, pairs, codecs=codecs, score_norms=score_norms, k=k, rules=rules)
    if calibration:
        found += disc.predict_calibrated(queries, references, pairs, calibration, k=k, rules=rules)
    rows = []
    for one in found:
        row = disc.measure(one, queries.ids, pairs, bootstrap=bootstrap, precisions=precisions)
        if edits:
            row["by_edit"] = by_edit(one.predictions, queries.ids, edits, bootstrap=bootstrap)
        if calibration and one.settings["codec"] == "calibrated":
            (row["at_calibration"],) = at_thresholds(one.predictions, np.array([calibration.threshold]))
        rows.append(row)
    if facts is None:
        facts = facts_of({"queries": queries, "references": references, "training": training})
    if left_out := found[0].settings["left_out"]:
        facts = {**facts, "Left out": f"{left_out} pairs of a query and a reference that are the same image"}
    if sources is None:
        sources = sources_of(queries=queries, references=references)
    return Evaluation(rows, found, queries.ids, references.ids, pairs, edits or {}, facts, sources)


def evaluate_copydays(
    images: Descriptors,
    distractors: Descriptors | None,
    training: Descriptors | None,
    *,
    codecs: Sequence[str],
    k: int = 100,
    bootstrap: int = 1000,
) -> Evaluation:
    """Evaluates descriptors as on Copydays with distractors, with everything that a report shows.

    Args:
        images: descriptors of Copydays; the other arguments are as for `copydays.evaluate`.

    Returns:
        The evaluation, with a row for each codec.

    Raises:
        ValueError: see `copydays.evaluate`.
    """
    found = copydays.predict(images, distractors, training, codecs=codecs, k=k)
    return Evaluation(
        [copydays.measure(one, images.ids, bootstrap=bootstrap) for one in found],
        found,
        images.ids,
        copydays.reference_ids(images, distractors),
        copydays.ground_truth(images),
        facts=facts_of({"copydays": images, "distractors": distractors, "training": training}),
        sources=[*sources_of(queries=images, references=images), *sources_of(references=distractors)],
    )


def facts_of(sets: Mapping[str, Descriptors | None], **more: str) -> dict[str, str]:
    """Returns facts about the descriptors for a report: numbers of images, weights, and preset."""
    given = {name: one for name, one in sets.items() if one is not None}
    provenance = next(iter(given.values())).provenance
    counts = {name.capitalize(): f"{len(one.ids)} images" for name, one in given.items()}
    return counts | {"Weights": provenance.weights, "Preset": provenance.preset} | more


def sources_of(**sets: Descriptors | None) -> list[tuple[str, str]]:
    """Returns pairs (name, source): where the images of each set were when they were embedded, as far as is known."""
    details = [(name, one.provenance.details) for name, one in sets.items() if one]
    return [(name, str(one["source"])) for name, one in details if "source" in one]
