"""Copy detection on a DISC-like set during training, as the official code's validation does it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from sscd_jax.config import Validation
from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.data.sources import open_source
from sscd_jax.datasets.annotations import read_ground_truth
from sscd_jax.descriptors import Descriptors, Provenance
from sscd_jax.embedding.embed import embed
from sscd_jax.evaluation import disc
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset, choose
from sscd_jax.sharding import check_divisible, create_local_mesh


@dataclass(frozen=True)
class ValidationSet:
    """What a validation needs, opened before training begins."""

    queries: Source
    references: Source
    ground_truth: list[tuple[str, str]]
    preset: Preset
    batch_size: int


def open_validation(config: Validation) -> ValidationSet | None:
    """The validation set of a config; None where it names none.

    Raises:
        ValueError: images or ground truth are not there, or do not belong together.
    """
    if not config.queries:
        return None
    check_divisible(config.batch_size, "--validation.batch-size", jax.local_device_count())
    queries, references = open_source(config.queries), open_source(config.references)
    check_unique_ids(queries)
    check_unique_ids(references)
    ground_truth = read_ground_truth(Path(config.ground_truth))
    known = set(queries.ids), set(references.ids)
    if absent := [pair for pair in ground_truth if pair[0] not in known[0] or pair[1] not in known[1]]:
        raise ValueError(
            f"{config.ground_truth} has {len(absent)} pairs without their images, as {absent[0]}: "
            f"queries have ids like {queries.ids[0]}, references like {references.ids[0]}"
        )
    return ValidationSet(queries, references, ground_truth, choose(config.preset, config.custom), config.batch_size)


def validate(data: ValidationSet, model: SSCD, variables: Any) -> dict[str, float]:
    """uAP, accuracy_at_1 and recall_at_p90 of plain nearest-neighbor search (official train.py validation).

    Every host computes the whole.

    Raises:
        ValueError: no query or no reference can be read.
    """
    variables, mesh = jax.device_get(variables), create_local_mesh()

    def descriptors(source: Source) -> Descriptors:
        results = list(embed(model, variables, source, data.preset, batch_size=data.batch_size, mesh=mesh))
        batches = [result for result in results if not isinstance(result, Unreadable)]
        if not batches:
            raise ValueError(f"no image of {source.name} can be read, which the validation needs")
        index, vectors = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        order = np.argsort(index)
        ids = [source.ids[i] for i in index[order]]
        return Descriptors(ids, vectors[order], Provenance("training", data.preset.name))

    queries, references = descriptors(data.queries), descriptors(data.references)
    # Images that cannot be read are left out here; `sscd-jax embed` reports them.
    known = set(queries.ids), set(references.ids)
    ground_truth = [pair for pair in data.ground_truth if pair[0] in known[0] and pair[1] in known[1]]
    (result,) = disc.evaluate(queries, references, None, ground_truth, codecs=["Flat"])
    return {name: result[name] for name in ("uAP", "accuracy_at_1", "recall_at_p90")}
