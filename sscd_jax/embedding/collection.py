"""A collection of images to a folder of descriptors, by one process or several, in one run or several."""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from sscd_jax.data.image_source import ERRORS_SHOWN, UNNAMABLE, Source, check_unique_ids, location
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.descriptors import Provenance, is_line
from sscd_jax.embedding.embed import embed
from sscd_jax.embedding.shards import Shards
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset
from sscd_jax.sharding import check_divisible, create_local_mesh
from sscd_jax.weights import hash_variables

BATCHES_A_SHARD, LEAST_A_SHARD = 128, 1024


def write_descriptors(
    model: SSCD,
    variables: Any,
    source: Source,
    preset: Preset,
    out: Path,
    *,
    batch_size: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    shard: tuple[int, int] | None = None,
    shard_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    workers: int | None = None,
    retry: bool = False,
) -> dict[str, Any]:
    """Embeds a source and writes its descriptors to the folder `out`; see `Descriptors` and `shards`.

    Run again, it goes on where it was: only shards that are not whole are computed, and then those of images that
    the source has gained. What is written does not depend on how often it was interrupted or on how many processes
    shared the work.

    Args:
        model, variables: the network.
        source: the images; ids are unique.
        preset: how they are resized and normalized.
        out: the folder.
        batch_size: images a batch over the devices of this process; by default 1 for a CPU, 128 for each
            accelerator.
        dtype: of the vectors in the files.
        shard: (i, n), this process takes every n-th shard from the i-th on; by default JAX's process index and count.
        shard_size: images a shard; by default 128 batches, or 1024.
        max_pixels: larger images are not read.
        strict: an image that cannot be read is an error.
        workers: threads for decoding; by default one for each core.
        retry: shards with images that could not be read are computed again.

    Returns:
        Summary: embedded and unreadable, the numbers of this run, images_per_second, out, and of all runs
        total_embedded and total_unreadable, or None while other processes are at work.

    Raises:
        ValueError: the batch does not divide over the devices, two images have one id, `out` holds something else,
            none can be read, or, if `strict`, one cannot.
    """
    batch_size = default_batch_size() if batch_size is None else batch_size
    check_divisible(batch_size, "--batch-size", jax.local_device_count())
    part, parts = shard or (jax.process_index(), jax.process_count())
    if parts < 1:
        raise ValueError(f"--shard {part}/{parts}: the number of shares must be positive")
    if not 0 <= part < parts:
        raise ValueError(f"there is no shard {part}/{parts}: they are 0/{parts} to {parts - 1}/{parts}")
    check_unique_ids(source)
    shards = Shards(out, made_by(variables, preset, source.name), dtype, location(source.name))
    unnamable = [
        {"path": ascii(path)[1:-1], "reason": UNNAMABLE}
        for one, path in zip(source.ids, source.paths, strict=True)
        if not is_line(one)
    ]
    if max_pixels < 1:
        raise ValueError(f"--max-pixels is {max_pixels}; it must be positive")
    before = (error for number in sorted(shards.whole()) for error in shards.errors(number))
    if strict and not retry and (first := next(itertools.chain(unnamable, before), None)):
        raise ValueError("{path}: {reason}".format(**first))
    shard_size = max(BATCHES_A_SHARD * batch_size, LEAST_A_SHARD) if shard_size is None else shard_size
    if shard_size < 1:
        raise ValueError(f"--shard-size is {shard_size}; it must be positive")
    shards.plan([one for one in source.ids if is_line(one)], shard_size)

    start = time.perf_counter()
    numbers = shards.numbers()[part::parts]
    whole = shards.whole()
    failed = [number for number in numbers if number in whole and shards.errors(number)]
    if retry:
        for number in failed:
            shards.undo(number)
        whole -= {*failed}
    elif failed:
        lost = sum(len(shards.errors(number)) for number in failed)
        print(f"{out}: {lost} could not be read before, see errors.jsonl; --retry tries again", file=sys.stderr)
    todo = [number for number in numbers if number not in whole]
    total, left = (sum(len(shards.planned(number)) for number in some) for some in (numbers, todo))
    options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels, "workers": workers}
    embedded, unreadable = 0, 0
    with tqdm(
        total=total + len(unnamable), initial=total - left, desc="embed", unit="image", dynamic_ncols=True
    ) as bar:
        work = compute_shards(model, variables, source, preset, shards, todo, mesh=create_local_mesh(), **options)
        for count, errors in itertools.chain([(len(unnamable), unnamable)], work):
            for number, error in enumerate(errors, unreadable):
                if strict:
                    raise ValueError("{path}: {reason}".format(**error))
                if number < ERRORS_SHOWN:
                    bar.write("cannot read {path}: {reason}".format(**error), file=sys.stderr)
                elif number == ERRORS_SHOWN:
                    bar.write(f"more that cannot be read are in {out}", file=sys.stderr)
            embedded, unreadable = embedded + count - len(errors), unreadable + len(errors)
            bar.set_postfix(errors=unreadable, refresh=False)
            bar.update(count)
    manifest = shards.finish(output_dims(model), unnamable)
    if manifest is None:
        note = (
            "parts are left to other processes, of which the last writes the manifest; if all have ended, start again"
        )
        print(f"{out}: {note}", file=sys.stderr)
    return {
        "embedded": embedded,
        "unreadable": unreadable,
        "images_per_second": embedded / (time.perf_counter() - start),
        "out": str(out),
        "total_embedded": manifest and manifest["count"],
        "total_unreadable": manifest and manifest["errors"],
    }


def default_batch_size() -> int:
    """Images a batch over the devices of this process: one of a CPU, whose caches hold no more."""
    return (1 if jax.default_backend() == "cpu" else 128) * jax.local_device_count()


def made_by(variables: Any, preset: Preset, source: str) -> Provenance:
    """What a manifest says of descriptors."""
    versions = {name: version(name) for name in ("sscd_jax", "jax", "flax", "numpy", "pillow")}
    details = {"preset": preset.parameters(), "versions": versions, "source": source}
    return Provenance(hash_variables(variables), preset.name, details)


def output_dims(model: SSCD) -> int:
    """Length of a descriptor, of networks without a projection too."""
    return model.dims or 8 * model.backbone.width * model.backbone.block.expansion  # without projection


@dataclass
class _Shard:
    """A shard at work: the row of each image of the source, what it became, and what could not be read, by row."""

    number: int
    rows: dict[int, int]
    vectors: np.ndarray
    errors: dict[int, dict[str, str]]
    missing: int  # images of which nothing is known yet


def compute_shards(
    model: SSCD,
    variables: Any,
    source: Source,
    preset: Preset,
    shards: Shards,
    numbers: Sequence[int],
    *,
    mesh: Mesh,
    batch_size: int,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    errors: Sequence[dict[str, str]] = (),
) -> Iterator[tuple[int, list[dict[str, str]]]]:
    """Embeds shards of the plan and writes each as soon as it is whole.

    Args:
        model, variables, source, preset, mesh, batch_size, max_pixels, workers: as for `embed`.
        shards: their folder.
        numbers: which of them.
        errors: more that have no descriptor, to go with each of these shards.

    Yields:
        How many more images are done, and those among them that cannot be read.
    """
    index_of = {one: i for i, one in enumerate(source.ids)}
    at_work: dict[int, _Shard] = {}

    def begin() -> Iterator[list[int]]:
        for number in numbers:
            ids = shards.planned(number)
            rows = {index_of[one]: row for row, one in enumerate(ids) if one in index_of}
            gone = {
                row: {"path": one, "reason": f"it is no longer in {source.name}"}
                for row, one in enumerate(ids)
                if one not in index_of
            }
            assert len(rows) + len(gone) == len(ids), "ids are unique"
            shard = _Shard(number, rows, np.full((len(ids), output_dims(model)), np.nan, np.float32), gone, len(rows))
            at_work.update(dict.fromkeys(rows, shard))
            lost.extend(gone.values())
            if not rows:
                empty.append(shard)
            yield list(rows)

    lost: list[dict[str, str]] = []
    empty: list[_Shard] = []
    options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels, "workers": workers}
    for item in embed(model, variables, source, preset, mesh=mesh, groups=begin(), **options):
        if lost:
            yield len(lost), lost
            lost = []
        found: list[dict[str, str]] = []
        if isinstance(item, Unreadable):
            index = [item.index]
            one = at_work[item.index]
            found = [{"path": source.paths[item.index], "reason": item.reason}]
            one.errors[one.rows[item.index]] = found[0]
        else:
            index = item[0].tolist()
            one = at_work[index[0]]  # a batch is of one shard
            one.vectors[[one.rows[i] for i in index]] = item[1]
        for i in index:
            del at_work[i]
        one.missing -= len(index)
        yield len(index), found
        if not one.missing:  # after it, so that a strict caller can stop before the error is on disk
            _write(shards, one, errors)
    if lost:
        yield len(lost), lost
    for shard in empty:
        _write(shards, shard, errors)


def _write(shards: Shards, one: _Shard, errors: Sequence[dict[str, str]]) -> None:
    ids = [i for row, i in enumerate(shards.planned(one.number)) if row not in one.errors]
    vectors = np.delete(one.vectors, sorted(one.errors), axis=0)
    shards.write(one.number, ids, vectors, [*errors, *(one.errors[row] for row in sorted(one.errors))])
