"""A collection of pictures to a folder of descriptors, by one process or several, in one run or several."""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from sscd_jax.data.inference import Unreadable
from sscd_jax.data.pictures import MAX_PIXELS
from sscd_jax.data.sources import Source, check_unique_ids
from sscd_jax.descriptors import Provenance, is_line
from sscd_jax.embed import embed
from sscd_jax.mesh import check_divisible, create_mesh
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset
from sscd_jax.shards import Shards
from sscd_jax.weights import hash_variables

BATCHES_A_SHARD = 64
ERRORS_SHOWN = 20


@dataclass
class _Shard:
    """A shard at work: where each picture of the source goes, what it became, and what could not be read."""

    number: int
    rows: dict[int, int]
    vectors: np.ndarray
    errors: dict[int, dict[str, str]]
    missing: int  # pictures of which nothing is known yet


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
) -> dict[str, Any]:
    """Embeds a source and writes its descriptors to the folder `out`; see `Descriptors` and `shards`.

    Run again, it goes on where it was: only shards that are not whole are computed, and then those of pictures that
    the source has gained. What is written does not depend on how often it was interrupted or on how many processes
    shared the work.

    Args:
        model, variables: the network.
        source: the pictures; ids are unique.
        preset: how they are resized and normalised.
        out: the folder.
        batch_size: pictures a batch over the devices of this process; by default 8 for a CPU, 128 for an accelerator.
        dtype: of the vectors in the files.
        shard: (i, n), this process takes every n-th shard from the i-th on; by default JAX's process index and count.
        shard_size: pictures a shard; by default 64 batches.
        max_pixels: larger pictures are not read.
        strict: a picture that cannot be read is an error.
        workers: threads for decoding; by default one for each core.

    Returns:
        Summary: embedded and unreadable, the numbers of this run, images_per_second, out, and total, the number of
        descriptors in `out`, or None while other processes are at work.

    Raises:
        ValueError: the batch does not divide over the devices, two pictures have one id, `out` holds something else,
            none can be read, or, if `strict`, one cannot.
    """
    devices = jax.local_devices()
    if batch_size is None:
        batch_size = (8 if jax.default_backend() == "cpu" else 128) * len(devices)
    check_divisible(batch_size, "--batch-size", len(devices))
    part, parts = shard or (jax.process_index(), jax.process_count())
    if not 0 <= part < parts:
        raise ValueError(f"there is no shard {part}/{parts}: they are 0/{parts} to {parts - 1}/{parts}")
    check_unique_ids(source)

    versions = {name: version(name) for name in ("sscd_jax", "jax", "flax", "numpy", "pillow")}
    details = {"preset": preset.parameters(), "versions": versions, "source": source.name}
    shards = Shards(out, Provenance(hash_variables(variables), preset.name, details), dtype, part)
    unnamable = [
        {"path": ascii(path), "reason": "its name has a line break, or is no Unicode: rename it"}
        for one, path in zip(source.ids, source.paths, strict=True)
        if not is_line(one)
    ]
    if unnamable and strict:
        raise ValueError("{path}: {reason}".format(**unnamable[0]))
    shards.plan([i for i in source.ids if is_line(i)], shard_size or BATCHES_A_SHARD * batch_size)

    start = time.perf_counter()
    numbers = shards.numbers()[part::parts]
    todo = [number for number in numbers if not shards.is_whole(number)]
    index_of = {one: i for i, one in enumerate(source.ids)}
    at_work: dict[int, _Shard] = {}
    embedded, unreadable = 0, len(unnamable)

    def begin() -> Iterator[list[int]]:
        for number in todo:
            planned = shards.planned(number)
            rows = {index_of[one]: row for row, one in enumerate(planned) if one in index_of}
            gone = {
                row: {"path": one, "reason": f"it is no longer in {source.name}"}
                for row, one in enumerate(planned)
                if one not in index_of
            }
            one = _Shard(number, rows, np.empty((len(planned), model.dims), np.float32), gone, len(rows))
            at_work.update(dict.fromkeys(rows, one))
            if rows:
                yield list(rows)
            else:
                end(one)

    def end(one: _Shard) -> None:
        nonlocal embedded, unreadable
        ids = [i for row, i in enumerate(shards.planned(one.number)) if row not in one.errors]
        vectors = np.delete(one.vectors, sorted(one.errors), axis=0)
        shards.write(one.number, ids, vectors, [one.errors[row] for row in sorted(one.errors)])
        embedded, unreadable = embedded + len(ids), unreadable + len(one.errors)

    total = sum(len(shards.planned(number)) for number in numbers)
    left = sum(len(shards.planned(number)) for number in todo)
    options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels, "workers": workers}
    results = embed(model, variables, source, preset, mesh=create_mesh(devices), groups=begin(), **options)
    errors = 0
    with tqdm(total=total, initial=total - left, desc="embed", unit="image", dynamic_ncols=True) as bar:
        for item in results:
            if isinstance(item, Unreadable):
                error = {"path": source.paths[item.index], "reason": item.reason}
                if strict:
                    raise ValueError("{path}: {reason}".format(**error))
                index = [item.index]
                one = at_work[item.index]
                one.errors[one.rows[item.index]] = error
                errors += 1
                bar.set_postfix(errors=errors)
                if errors <= ERRORS_SHOWN:
                    more = f"; more are not shown, see {out}" if errors == ERRORS_SHOWN else ""
                    bar.write("cannot read {path}: {reason}".format(**error) + more, file=sys.stderr)
            else:
                index, vectors = item[0].tolist(), item[1]
                one = at_work[index[0]]  # a batch is of one shard
                one.vectors[[one.rows[i] for i in index]] = vectors
            for i in index:
                del at_work[i]
            bar.update(len(index))
            one.missing -= len(index)
            if not one.missing:
                end(one)
    manifest = shards.finish(model.dims, unnamable)
    return {
        "embedded": embedded,
        "unreadable": unreadable,
        "images_per_second": embedded / (time.perf_counter() - start),
        "out": str(out),
        "total": manifest and manifest["count"],
    }
