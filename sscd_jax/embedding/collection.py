"""Embeds a collection of images into a folder of descriptors, by one process or several, in one run or several."""

import io
import itertools
import os
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from PIL import Image
from tqdm import tqdm

from sscd_jax.data.failed_reads import check_failed_reads, most_failed_reads
from sscd_jax.data.image_source import ERRORS_SHOWN, UNNAMABLE, Source, check_unique_ids, location
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.data.names import printable
from sscd_jax.data.storage import check_place
from sscd_jax.descriptors import is_line, read_manifest
from sscd_jax.embedding.compute import compute_shards, output_dims
from sscd_jax.embedding.embed import embed
from sscd_jax.embedding.plan import Plan
from sscd_jax.embedding.reading import NAME, READ, Changes, Reader, compare
from sscd_jax.embedding.shards import Shards
from sscd_jax.models import SSCD, describe
from sscd_jax.presets import Preset
from sscd_jax.provenance import Provenance
from sscd_jax.sharding import check_divisible, create_local_mesh
from sscd_jax.weights import hash_network

BATCHES_A_SHARD, LEAST_A_SHARD = 128, 1024
MOST_SHARDS = 256  # of new images by default, so that a folder has at most 5 * 256 files for any collection


def write_descriptors(
    model: SSCD,
    variables: Any,
    source: Source,
    preset: Preset,
    out: epath.PathLike,
    *,
    batch_size: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    shard: tuple[int, int] | None = None,
    shard_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    max_errors: int | None = None,
    workers: int | None = None,
    retry: bool = False,
    update: bool = False,
    prune: bool = False,
    moved: bool = False,
    isolate: bool = False,
) -> dict[str, Any]:
    """Embeds the images of a source and writes their descriptors to the folder `out`; see `Descriptors` and `shards`.

    A second call resumes: it computes only what is missing, which includes images that were added to the source. What
    is written does not depend on how often the work was interrupted or on how many processes shared it.

    Args:
        model: the network.
        variables: its parameters and batch statistics.
        source: the images, whose ids must be unique.
        preset: how the images are resized and normalized.
        out: the folder of descriptors, on disk or in a store. Its name is in the progress bar.
        batch_size: the number of images in a batch over the devices of this process; by default 1 on a CPU and 128 for
            each accelerator.
        dtype: the type of the vectors in the files.
        shard: (i, n) if this process computes every n-th shard from the i-th on. By default i and n are JAX's process
            index and process count.
        shard_size: the number of images in a shard; by default 128 batches, but at least 1024, and so many that there
            are at most 256 new shards.
        max_pixels: images with more pixels are not read.
        strict: whether an image that cannot be read is an error.
        max_errors: the largest number of images that a disk or a network fails to deliver; by default 1 % of the images
            or 100, whichever is more. Images whose bytes are bad are not counted.
        workers: the number of threads that decode images; by default one for each core.
        retry: whether images that could not be read are tried again.
        update: whether images whose size or time has changed are embedded again.
        prune: whether the descriptors of images that are no longer in the source are removed.
        moved: whether the folder's source is replaced by this one, whose images are the same in another place.
        isolate: whether images are decoded in processes; see `inference_batches`.

    Returns:
        A summary: `embedded`, `unreadable` (images whose bytes are bad), `not_read` (images that a disk or a network
        did not deliver) and `images_per_second` of this call; `out`; and of all calls together `total_embedded`,
        `total_unreadable` and `total_not_read`, which are None while other processes are at work.

    Raises:
        ValueError: the batch does not divide over the devices, two images have the same id, `out` holds something
            else, no image can be read, or, if `strict`, one image cannot be read.
        OSError: more than `max_errors` images cannot be read from a disk or a network, or a file cannot be written, for
            example because the disk is full; the error names the file.

    Examples:
        >>> model, variables = weights.load("sscd_disc_mixup")
        >>> write_descriptors(model, variables, open_source("photos"), PRESETS["small_288"], "descriptors")
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
    for option, value in (("--max-pixels", max_pixels), ("--shard-size", shard_size)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be positive")
    limit = most_failed_reads(len(source), max_errors)
    check_place(os.fspath(out))
    check_unique_ids(source)
    provenance = made_by(model, variables, preset, source.name)
    if moved and Plan(epath.Path(out)).is_of_other_images(source.lookup):
        raise ValueError(
            f"{out} has none of the images of {source.name}: --moved is for the same images in another place; "
            "name another folder"
        )
    shards = Shards(out, provenance, dtype, location(source.name), moved=moved)
    unnamable = [
        {"path": ascii(path)[1:-1], "reason": UNNAMABLE, "kind": NAME}
        for one, path in zip(source.ids, source.paths, strict=True)
        if not is_line(one)
    ]
    complete = shards.complete()
    before = (error for number in sorted(complete) for error in shards.errors(number))
    if strict and not retry and (first := next(itertools.chain(unnamable, before), None)):
        raise ValueError("{path}: {reason}".format(**first))
    if shard_size is None:
        shard_size = max(BATCHES_A_SHARD * batch_size, LEAST_A_SHARD, -(-len(source) // MOST_SHARDS))
    shards.plan.add(source.lookup, shard_size)

    start = time.perf_counter()
    numbers = shards.plan.numbers()[part::parts]
    reader = Reader(source)
    changes = compare(shards, complete.intersection(numbers), reader)
    again = (changes.failed if retry else set()) | (changes.changed | changes.mended if update else set())
    gone = changes.gone if prune else set()
    _say(changes, retry=retry, update=update, prune=prune)
    redo = {changes.shards[one] for one in again | gone}
    todo = [number for number in numbers if number in redo or number not in complete]
    total = sum(len(shards.plan.ids(number)) for number in numbers)
    partial = shards.saved.numbers()
    left = sum(
        len(shards.plan.ids(n)) - len(shards.saved.read(n) if n in partial else ()) for n in todo if n not in redo
    )
    left += len(again)
    counts = dict.fromkeys(("embedded", READ, "other"), 0)
    with tqdm(
        total=total + len(unnamable),
        initial=total - left,
        desc=f"embed {epath.Path(out).name or out}",
        unit="image",
        dynamic_ncols=True,
    ) as bar:
        options: dict[str, Any] = {"batch_size": batch_size, "max_pixels": max_pixels, "workers": workers}
        options |= {"mesh": create_local_mesh(), "again": again, "prune": prune, "isolate": isolate}
        work = compute_shards(model, variables, reader, preset, shards, todo, **options)
        for count, errors in itertools.chain([(len(unnamable), unnamable)], work):
            for error in errors:
                if strict:
                    raise ValueError("{path}: {reason}".format(**error))
                shown = counts[READ] + counts["other"]
                if shown < ERRORS_SHOWN:
                    bar.write(printable("cannot read {path}: {reason}".format(**error)), file=sys.stderr)
                elif shown == ERRORS_SHOWN:
                    listed = epath.Path(out) / "errors.jsonl"
                    bar.write(
                        f"further images that cannot be read are not shown; in the end, {listed} lists all",
                        file=sys.stderr,
                    )
                counts[READ if error["kind"] == READ else "other"] += 1
            counts["embedded"] += count - len(errors)
            bar.set_postfix(errors=counts[READ] + counts["other"], refresh=False)
            bar.update(count)
            _check_reading(counts[READ], limit, errors)
    manifest = None
    if shards.complete().issuperset(shards.plan.numbers()):
        known = _known_probe(out, provenance)
        manifest = shards.finish(
            output_dims(model),
            unnamable,
            probe=probe(model, variables, preset, batch_size=batch_size) if known is None else known,
            max_not_read=limit,
        )
    if manifest is None:
        note = "other processes have shards left, and the last to end writes the manifest"
        print(f"{out}: {note}; if all have ended, rerun the command", file=sys.stderr)
    elif lost := manifest["errors"]:
        images = "1 image" if lost == 1 else f"{lost} images"
        hint = "" if retry else "; --retry tries again"
        print(f"{images} could not be read; see {epath.Path(out) / 'errors.jsonl'}{hint}", file=sys.stderr)
    return {
        "embedded": counts["embedded"],
        "unreadable": counts["other"],
        "not_read": counts[READ],
        "images_per_second": counts["embedded"] / (time.perf_counter() - start),
        "out": str(out),
        "total_embedded": manifest and manifest["count"],
        "total_unreadable": manifest and manifest["errors"] - manifest["not_read"],
        "total_not_read": manifest and manifest["not_read"],
    }


def _say(changes: Changes, *, retry: bool, update: bool, prune: bool) -> None:
    """Says what has changed in the source and is left as it is."""
    changed, mended, gone = len(changes.changed), len(changes.mended), len(changes.gone)
    if changed and not update:
        what = "1 image has" if changed == 1 else f"{changed} images have"
        print(f"{what} changed since the last embedding; --update embeds what has changed", file=sys.stderr)
    if mended and not update and not retry:
        what = "1 image that could not be read has" if mended == 1 else f"{mended} images that could not be read have"
        print(f"{what} changed since; --retry tries again", file=sys.stderr)
    if gone and not prune:
        what = "1 image is" if gone == 1 else f"{gone} images are"
        print(f"{what} no longer in the source; --prune removes the descriptors of such images", file=sys.stderr)


def _check_reading(count: int, limit: int, errors: Sequence[dict[str, Any]]) -> None:
    """Raises OSError if more images could not be read from a disk or a network than allowed."""
    last = next((error for error in errors if error["kind"] == READ), None)
    if last:
        check_failed_reads(count, limit, last["path"], last["reason"])


def default_batch_size() -> int:
    """Returns the default number of images in a batch over the devices of this process.

    It is 1 for each CPU device, whose caches hold no more, and 128 for each accelerator.
    """
    return (1 if jax.default_backend() == "cpu" else 128) * jax.local_device_count()


def made_by(model: SSCD, variables: Any, preset: Preset, source: str) -> Provenance:
    """Returns the provenance of descriptors that a network makes now.

    Args:
        model: the network.
        variables: its variables.
        preset: how the images are resized and normalized.
        source: where the images come from, as the user gave it.
    """
    versions = {name: version(name) for name in ("sscd_jax", "jax", "flax", "numpy", "pillow")}
    details = {"network": describe(model), "preset": preset.parameters(), "versions": versions, "source": source}
    return Provenance(hash_network(model, variables), preset.name, details, computation(model))


def computation(model: SSCD) -> str:
    """Returns how this process computes descriptors, such as "float32 by jax on cpu"."""
    precision = getattr(jax.config, "jax_default_matmul_precision", None)  # typed by nothing in JAX
    exact = "" if precision in (None, "default") else f" with matmul precision {precision}"
    return f"{np.dtype(model.backbone.dtype).name} by jax on {jax.default_backend()}{exact}"


def probe(model: SSCD, variables: Any, preset: Preset, *, batch_size: int) -> list[list[float]]:
    """Returns the descriptors of two test patterns, by which two computations of a network can be compared.

    Args:
        model, variables, preset, batch_size: as for `embed`.
    """
    encoded = []
    y, x = np.mgrid[0:256, 0:256] / 256
    for seed in range(2):  # a few color waves and disks, which excite all layers
        rng = np.random.default_rng(seed)
        image = np.zeros((256, 256, 3))
        for _ in range(12):
            frequency, phase, color = rng.uniform(-40, 40, 2), rng.uniform(0, 7), rng.uniform(0, 1, 3)
            image += np.sin(frequency[0] * x + frequency[1] * y + phase)[..., None] * color
            center, radius = rng.uniform(0, 1, 2), rng.uniform(0.05, 0.3)
            image[(x - center[0]) ** 2 + (y - center[1]) ** 2 < radius**2] = 6 * color - 3
        file = io.BytesIO()
        Image.fromarray(np.clip(image * 40 + 128, 0, 255).astype(np.uint8)).save(file, "PNG")
        encoded.append(file.getvalue())
    patterns = Source("test patterns", ["0", "1"], ["test pattern 0", "test pattern 1"], lambda index: encoded[index])
    found = np.empty((2, output_dims(model)), np.float32)
    for item in embed(model, variables, patterns, preset, batch_size=batch_size, mesh=create_local_mesh()):
        assert not isinstance(item, Unreadable), item.reason
        found[item[0]] = item[1]
    return [[round(value, 6) for value in vector] for vector in found.tolist()]


def _known_probe(out: epath.PathLike, provenance: Provenance) -> list[list[float]] | None:
    """Returns the probe of the folder's manifest, if it has one of this function and computation."""
    try:
        known = Provenance(**read_manifest(out)["provenance"])
    except ValueError:
        return None
    same = known == provenance and known.computation == provenance.computation
    return known.details.get("probe") if same else None
