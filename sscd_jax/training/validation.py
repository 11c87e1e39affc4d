"""Validation during training: copy detection on a DISC-like set, as in the official code."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from sscd_jax.config import Validation
from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.data.sources import open_source
from sscd_jax.datasets.annotations import read_ground_truth
from sscd_jax.descriptors import Descriptors
from sscd_jax.distributed import is_first_process
from sscd_jax.embedding.embed import embed
from sscd_jax.evaluation import disc
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset
from sscd_jax.provenance import Provenance
from sscd_jax.sharding import check_divisible, create_local_mesh


@dataclass(frozen=True)
class ValidationSet:
    """The images and the ground truth of a validation, opened before training begins.

    Attributes:
        queries: the images to find copies of.
        references: the images that are searched.
        ground_truth: pairs (query id, reference id) of copies.
        preset: how the images are resized and normalized.
        batch_size: the number of images in a batch over all devices of a process.
    """

    queries: Source
    references: Source
    ground_truth: list[tuple[str, str]]
    preset: Preset
    batch_size: int


def open_validation(config: Validation) -> ValidationSet | None:
    """Opens the validation set that a config names, or returns None if it names none.

    Raises:
        ValueError: images or ground truth are missing, or do not belong together.
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
            f"{config.ground_truth} has {len(absent)} pairs without their images, such as {absent[0]}: "
            f"queries have ids like {queries.ids[0]}, references like {references.ids[0]}"
        )
    return ValidationSet(queries, references, ground_truth, config.chosen, config.batch_size)


def validate(data: ValidationSet, model: SSCD, variables: Any) -> dict[str, float]:
    """Measures copy detection by nearest-neighbor search without score normalization (official train.py validation).

    Every process embeds all images, on its own devices. The number of pairs that are left out because they are the same
    image (see `search.same_images`) is printed.

    Args:
        data: the validation set; its images that cannot be read are left out.
        model: the network.
        variables: its parameters and statistics.

    Returns:
        uAP, accuracy_at_1 and recall_at_p90, each from 0 to 1.

    Raises:
        ValueError: no query or no reference can be read.
    """
    variables, mesh = jax.device_get(variables), create_local_mesh()

    def descriptors(source: Source, name: str) -> Descriptors:
        batches = []
        with tqdm(
            desc=f"embed {name}",
            total=len(source),
            unit="image",
            leave=False,
            dynamic_ncols=True,
            disable=not is_first_process(),
        ) as bar:
            for result in embed(model, variables, source, data.preset, batch_size=data.batch_size, mesh=mesh):
                if isinstance(result, Unreadable):
                    bar.update()
                    continue
                bar.update(len(result[0]))
                batches.append(result)
        if not batches:
            raise ValueError(f"the validation needs images of {source.name}, of which none can be read")
        index, vectors = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        order = np.argsort(index)
        ids = [source.ids[i] for i in index[order]]
        return Descriptors(ids, vectors[order], Provenance("training", data.preset.name))

    queries, references = descriptors(data.queries, "queries"), descriptors(data.references, "references")
    # `sscd-jax embed` reports the images that cannot be read.
    known = set(queries.ids), set(references.ids)
    ground_truth = [pair for pair in data.ground_truth if pair[0] in known[0] and pair[1] in known[1]]
    (result,) = disc.evaluate(queries, references, None, ground_truth, codecs=["Flat"])
    if result["left_out"] and is_first_process():
        note = (
            "pairs of a query and a reference are left out: they are the same image, and no copies by the ground truth"
        )
        print(f"validation: {result['left_out']} {note}", file=sys.stderr)
    return {name: result[name] for name in ("uAP", "accuracy_at_1", "recall_at_p90")}
