"""Computes shards of a collection, saves what is computed of them now and then, and writes those that are complete."""

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jax.sharding import Mesh

from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.embedding.embed import embed
from sscd_jax.embedding.reading import GONE, Reader, has_changed
from sscd_jax.embedding.saved_rows import IMAGE
from sscd_jax.embedding.shards import Shards
from sscd_jax.models import SSCD
from sscd_jax.presets import Preset

SAVE_SECONDS = 15.0  # a process that is killed loses about this much work at most


@dataclass
class _Shard:
    """A shard that is being computed.

    Attributes:
        number: the number of the shard.
        ids: the ids of its n images, as planned.
        rows: a map from the index of an image in the source to its row, for the images that are to be computed.
        vectors: float32 [n, D], the descriptors by row; NaN where there is none yet.
        images: `IMAGE` [n], what was embedded.
        errors: what is recorded, by row, of images that have no descriptor.
        dropped: the rows of images that are removed from the shard.
        missing: the number of images about which nothing is known yet.
        replace: whether the shard was complete before.
        unsaved: rows that were computed and are in no file yet.
    """

    number: int
    ids: list[str]
    rows: dict[int, int]
    vectors: np.ndarray
    images: np.ndarray
    errors: dict[int, dict[str, Any]]
    dropped: set[int]
    missing: int
    replace: bool
    unsaved: list[int] = field(default_factory=list)


def compute_shards(
    model: SSCD,
    variables: Any,
    reader: Reader,
    preset: Preset,
    shards: Shards,
    numbers: Sequence[int],
    *,
    mesh: Mesh,
    batch_size: int,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
    isolate: bool = False,
    errors: Sequence[dict[str, Any]] = (),
    again: Collection[str] = (),
    prune: bool = False,
) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Embeds shards of the plan and writes each as soon as it is complete.

    Every SAVE_SECONDS, and on an interruption, it saves the rows of the current shard that are computed, and a later
    call uses them. Only complete batches are saved, so that the remaining images form the same batches as without an
    interruption, and have the same descriptors to the last bit.

    Args:
        model, variables, preset, mesh, batch_size, max_pixels, workers, isolate: as for `embed`.
        reader: the images.
        shards: the folder.
        numbers: which shards to compute. Those that are complete keep their descriptors but for `again` and `prune`.
        errors: path and reason of further images without a descriptor, which are recorded with each of these shards.
        again: ids of images in complete shards that are embedded again.
        prune: whether images that are no longer in the source are removed from these shards and from the plan.

    Yields:
        The number of images that were finished since the previous yield, and what is recorded of those among them
        that cannot be read. Rows that an earlier call saved are not counted.

    Raises:
        ValueError: as for `embed`.
        OSError: a file cannot be written; the error names the file.
    """
    at_work: dict[int, _Shard] = {}

    def begin() -> Iterator[list[int]]:
        for number in numbers:
            shard, new = _begin(shards, number, reader, again, prune, output_dims(model))
            at_work.update(dict.fromkeys(shard.rows, shard))
            lost.extend(new)
            if not shard.rows:
                empty.append(shard)
            yield list(shard.rows)

    lost: list[dict[str, Any]] = []
    empty: list[_Shard] = []
    current: _Shard | None = None  # the only shard with vectors that are in no file: groups come one after the other
    last_save = time.monotonic()
    options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels}
    options |= {"workers": workers, "isolate": isolate}
    try:
        for item in embed(model, variables, reader.source, preset, mesh=mesh, groups=begin(), **options):
            if lost:
                yield len(lost), lost
                lost = []
            found: list[dict[str, Any]] = []
            if isinstance(item, Unreadable):
                index = [item.index]
                one = at_work[item.index]
                found = [reader.error(item.index, item.reason)]
                one.errors[one.rows[item.index]] = found[0]
            else:
                index = item[0].tolist()
                current = one = at_work[index[0]]  # all images of a batch are of one shard
                rows = [one.rows[i] for i in index]
                one.vectors[rows] = item[1]
                one.images[rows] = [reader.taken(i) for i in index]
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


def _begin(
    shards: Shards,
    number: int,
    reader: Reader,
    again: Collection[str],
    prune: bool,
    dims: int,
) -> tuple[_Shard, list[dict[str, Any]]]:
    """Returns a shard with what is known of it already, and what is recorded of its images that are gone."""
    ids, is_complete = shards.plan.ids(number), shards.is_complete(number)
    row_of = {one: row for row, one in enumerate(ids)}
    index_of = {one: i for one, i in zip(ids, reader.lookup.find(ids).tolist(), strict=True) if i >= 0}
    vectors, images = np.full((len(ids), dims), np.nan, np.float32), np.zeros(len(ids), IMAGE)
    kept: set[int] = set()
    known: dict[int, dict[str, Any]] = {}
    if is_complete:
        embedded = shards.ids(number)
        rows = [row_of[one] for one in embedded]
        vectors[rows], images[rows] = shards.vectors(number), shards.images(number)
        kept = {row_of[one] for one in embedded if one not in again}
        known = {row_of[e["id"]]: e for e in shards.errors(number) if e.get("id") in row_of and e["id"] not in again}
    for row, (vector, image) in shards.saved.read(number).items():
        index = index_of.get(ids[row])
        if row not in kept and (index is None or not has_changed(image, reader, index)):
            vectors[row], images[row] = vector, image
            kept.add(row)
            known.pop(row, None)
    absent = {row for row, one in enumerate(ids) if one not in index_of}
    dropped = absent if prune else set()
    gone = {
        row: {"id": ids[row], "path": ids[row], "reason": f"it is no longer in {reader.source.name}", "kind": GONE}
        for row in absent - kept - dropped
        if row not in known
    }
    rows_left = {
        index_of[one]: row for row, one in enumerate(ids) if row not in kept and row not in known and row not in absent
    }
    shard = _Shard(number, ids, rows_left, vectors, images, known | gone, dropped, len(rows_left), is_complete)
    return shard, list(gone.values())


def _save(shards: Shards, one: _Shard) -> None:
    if one.unsaved:
        shards.saved.save(one.number, one.unsaved, one.vectors[one.unsaved], one.images[one.unsaved])
        one.unsaved.clear()


def _write(shards: Shards, one: _Shard, errors: Sequence[dict[str, Any]]) -> None:
    rows = [row for row in range(len(one.ids)) if row not in one.errors and row not in one.dropped]
    found = [*errors, *(one.errors[row] for row in sorted(one.errors) if row not in one.dropped)]
    ids = [one.ids[row] for row in rows]
    shards.write(one.number, ids, one.vectors[rows], one.images[rows], found, replace=one.replace)
    if one.dropped:  # after the shard, so that nothing is lost in between
        kept = [name for row, name in enumerate(one.ids) if row not in one.dropped]
        shards.plan.add_shard(one.number, kept, replace=True)
    one.unsaved.clear()


def output_dims(model: SSCD) -> int:
    """Returns the length of a descriptor, also for networks without a projection, whose `dims` is 0."""
    return model.dims or 8 * model.backbone.width * model.backbone.block.expansion
