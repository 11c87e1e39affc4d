"""Embeds a collection of images into a folder of descriptors, by one process or several, in one run or several."""

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
SAVE_SECONDS = 15.0  # a process that is killed loses about this much work at most


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
    """Embeds the images of a source and writes their descriptors to the folder `out`; see `Descriptors` and `shards`.

    A second call resumes: it computes only what is missing, which includes images that were added to the source. What
    is written does not depend on how often the work was interrupted or on how many processes shared it.

    Args:
        model: the network.
        variables: its parameters and batch statistics.
        source: the images, whose ids must be unique.
        preset: how the images are resized and normalized.
        out: the folder of descriptors. Its name is in the progress bar.
        batch_size: the number of images in a batch over the devices of this process; by default 1 on a CPU and 128 for
            each accelerator.
        dtype: the type of the vectors in the files.
        shard: (i, n) if this process computes every n-th shard from the i-th on. By default i and n are JAX's process
            index and process count.
        shard_size: the number of images in a shard; by default 128 batches, but at least 1024.
        max_pixels: images with more pixels are not read.
        strict: whether an image that cannot be read is an error.
        workers: the number of threads that decode images; by default one for each core.
        retry: whether shards with images that could not be read are computed again.

    Returns:
        A summary: `embedded`, `unreadable` and `images_per_second` of this call; `out`; and of all calls together
        `total_embedded` and `total_unreadable`, which are None while other processes are at work.

    Raises:
        ValueError: the batch does not divide over the devices, two images have the same id, `out` holds something
            else, no image can be read, or, if `strict`, one image cannot be read.
        OSError: a file cannot be written, for example because the disk is full; the error names the file.

    Examples:
        >>> model, variables = weights.load("sscd_disc_mixup")
        >>> write_descriptors(model, variables, open_source("photos"), PRESETS["small_288"], Path("descriptors"))
        >>> Descriptors.read("descriptors").vectors.shape
        (251, 512)
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
    before = (error for number in sorted(shards.complete()) for error in shards.errors(number))
    if strict and not retry and (first := next(itertools.chain(unnamable, before), None)):
        raise ValueError("{path}: {reason}".format(**first))
    shard_size = max(BATCHES_A_SHARD * batch_size, LEAST_A_SHARD) if shard_size is None else shard_size
    if shard_size < 1:
        raise ValueError(f"--shard-size is {shard_size}; it must be positive")
    shards.plan([one for one in source.ids if is_line(one)], shard_size)

    start = time.perf_counter()
    numbers = shards.numbers()[part::parts]
    complete = shards.complete()
    if retry:
        for number in complete.intersection(numbers):
            if shards.errors(number):
                shards.undo(number)
                complete.remove(number)
    todo = [number for number in numbers if number not in complete]
    total, left = (sum(len(shards.planned(number)) for number in some) for some in (numbers, todo))
    left -= sum(len(shards.saved(number)) for number in shards.partial().intersection(todo))
    options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels, "workers": workers}
    embedded, unreadable = 0, 0
    with tqdm(
        total=total + len(unnamable),
        initial=total - left,
        desc=f"embed {out.absolute().name}",
        unit="image",
        dynamic_ncols=True,
    ) as bar:
        work = compute_shards(model, variables, source, preset, shards, todo, mesh=create_local_mesh(), **options)
        for count, errors in itertools.chain([(len(unnamable), unnamable)], work):
            for number, error in enumerate(errors, unreadable):
                if strict:
                    raise ValueError("{path}: {reason}".format(**error))
                if number < ERRORS_SHOWN:
                    bar.write("cannot read {path}: {reason}".format(**error), file=sys.stderr)
                elif number == ERRORS_SHOWN:
                    bar.write(f"further images that cannot be read are listed in {out} only", file=sys.stderr)
            embedded, unreadable = embedded + count - len(errors), unreadable + len(errors)
            bar.set_postfix(errors=unreadable, refresh=False)
            bar.update(count)
    manifest = shards.finish(output_dims(model), unnamable)
    if manifest is None:
        note = "other processes have shards left, and the last to end writes the manifest"
        print(f"{out}: {note}; if all have ended, rerun the command", file=sys.stderr)
    elif lost := manifest["errors"]:
        images = "1 image" if lost == 1 else f"{lost} images"
        print(f"{images} could not be read; see {out / 'errors.jsonl'}; --retry tries again", file=sys.stderr)
    return {
        "embedded": embedded,
        "unreadable": unreadable,
        "images_per_second": embedded / (time.perf_counter() - start),
        "out": str(out),
        "total_embedded": manifest and manifest["count"],
        "total_unreadable": manifest and manifest["errors"],
    }


def default_batch_size() -> int:
    """Returns the default number of images in a batch over the devices of this process.

    It is 1 for each CPU device, whose caches hold no more, and 128 for each accelerator.
    """
    return (1 if jax.default_backend() == "cpu" else 128) * jax.local_device_count()


def made_by(variables: Any, preset: Preset, source: str) -> Provenance:
    """Returns the provenance of descriptors that a network makes now.

    Args:
        variables: the variables of the network, whose hash identifies the weights.
        preset: how the images are resized and normalized.
        source: where the images come from, as the user gave it.
    """
    versions = {name: version(name) for name in ("sscd_jax", "jax", "flax", "numpy", "pillow")}
    details = {"preset": preset.parameters(), "versions": versions, "source": source}
    return Provenance(hash_variables(variables), preset.name, details)


def output_dims(model: SSCD) -> int:
    """Returns the length of a descriptor, also for networks without a projection, whose `dims` is 0."""
    return model.dims or 8 * model.backbone.width * model.backbone.block.expansion


@dataclass
class _Shard:
    """A shard that is being computed.

    Attributes:
        number: the number of the shard.
        rows: a map from the index of an image in the source to its row, for the images that are to be computed.
        vectors: float32 [n, D], the descriptors by row; NaN where there is none yet.
        errors: path and reason, by row, of images that have no descriptor.
        missing: the number of images about which nothing is known yet.
        unsaved: rows that were computed and are in no file yet.
    """

    number: int
    rows: dict[int, int]
    vectors: np.ndarray
    errors: dict[int, dict[str, str]]
    missing: int
    unsaved: list[int] = field(default_factory=list)


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
    """Embeds shards of the plan and writes each as soon as it is complete.

    Every SAVE_SECONDS, and on an interruption, it saves the rows of the current shard that are computed, and a later
    call uses them. Only complete batches are saved, so that the remaining images form the same batches as without an
    interruption, and have the same descriptors to the last bit.

    Args:
        model, variables, source, preset, mesh, batch_size, max_pixels, workers: as for `embed`.
        shards: the folder.
        numbers: which shards to compute.
        errors: path and reason of further images without a descriptor, which are recorded with each of these shards.

    Yields:
        The number of images that were finished since the previous yield, and path and reason of those among them
        that cannot be read. Rows that an earlier call saved are not counted.

    Raises:
        ValueError: as for `embed`.
        OSError: a file cannot be written; the error names the file.
    """
    index_of = {one: i for i, one in enumerate(source.ids)}
    at_work: dict[int, _Shard] = {}

    def begin() -> Iterator[list[int]]:
        for number in numbers:
            ids = shards.planned(number)
            saved = shards.saved(number)
            rows = {index_of[one]: row for row, one in enumerate(ids) if one in index_of and row not in saved}
            gone = {
                row: {"path": one, "reason": f"it is no longer in {source.name}"}
                for row, one in enumerate(ids)
                if one not in index_of and row not in saved
            }
            assert len(rows) + len(gone) + len(saved) == len(ids), "ids are unique"
            vectors = np.full((len(ids), output_dims(model)), np.nan, np.float32)
            for row, vector in saved.items():
                vectors[row] = vector
            shard = _Shard(number, rows, vectors, gone, len(rows))
            at_work.update(dict.fromkeys(rows, shard))
            lost.extend(gone.values())
            if not rows:
                empty.append(shard)
            yield list(rows)

    lost: list[dict[str, str]] = []
    empty: list[_Shard] = []
    current: _Shard | None = None  # the only shard with vectors that are in no file: groups come one after the other
    last_save = time.monotonic()
    options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels, "workers": workers}
    try:
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
                current = one = at_work[index[0]]  # all images of a batch are of one shard
                rows = [one.rows[i] for i in index]
                one.vectors[rows] = item[1]
                one.unsaved += rows
            for i in index:
                del at_work[i]
            one.missing -= len(index)
            yield len(index), found
            if not one.missing:  # after the yield, so that a strict caller can stop before the error is on disk
                _write(shards, one, errors)
            elif current and time.monotonic() - last_save >= SAVE_SECONDS:
                _save(shards, current)
                last_save = time.monotonic()
    except (KeyboardInterrupt, GeneratorExit):
        if current:
            _save(shards, current)
        raise
    if lost:
        yield len(lost), lost
    for shard in empty:
        _write(shards, shard, errors)


def _save(shards: Shards, one: _Shard) -> None:
    if one.unsaved:
        shards.save(one.number, one.unsaved, one.vectors[one.unsaved])
        one.unsaved.clear()


def _write(shards: Shards, one: _Shard, errors: Sequence[dict[str, str]]) -> None:
    ids = [i for row, i in enumerate(shards.planned(one.number)) if row not in one.errors]
    vectors = np.delete(one.vectors, sorted(one.errors), axis=0)
    shards.write(one.number, ids, vectors, [*errors, *(one.errors[row] for row in sorted(one.errors))])
    one.unsaved.clear()
