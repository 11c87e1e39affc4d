"""Embeds images on many machines: an Apache Beam pipeline that writes the same folder as `sscd-jax embed`.

    python -m sscd_jax.beam IMAGES --weights W --out DIR [--preset small_288] [-- --runner=DataflowRunner ...]

A shard is one archive, one file of a pack, or several image files. docs/beam.md describes how to run the pipeline on
Google Cloud Dataflow with TPUs or GPUs.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import tyro

from sscd_jax import distributed, sharding, weights
from sscd_jax.beam.opening import Opened, open_shard
from sscd_jax.beam.plan import Files, Work, holds_pack, plan_files, read_plan
from sscd_jax.data.failed_reads import most_failed_reads
from sscd_jax.data.image_source import location
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.sources import is_bundled
from sscd_jax.data.storage import PART_BYTES, limit_readahead
from sscd_jax.embedding.collection import default_batch_size, made_by, probe
from sscd_jax.embedding.compute import compute_shards, output_dims
from sscd_jax.embedding.shards import Shards
from sscd_jax.models import SSCD
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
    from apache_beam.transforms.window import GlobalWindows
    from apache_beam.utils.windowed_value import WindowedValue
except ImportError as error:
    raise ImportError("pipelines need the extra beam: pip install 'sscd_jax[beam]'") from error


def _read(work: Work) -> tuple[SSCD, Any, Preset]:
    """Returns the network, its variables, and the preset of a pipeline."""
    read = weights.read(work.weights)
    return read.model, read.variables, work.preset or choose(None, default=read.preset)


@dataclass(frozen=True)
class _Shard:
    """A shard that is about to be embedded.

    Attributes:
        number: the number of the shard.
        shards: the folder of descriptors.
        again: ids of images that are embedded again, if the shard is complete.
        opened: its images; None if there is nothing to embed.
        close: removes the copies of its files.
    """

    number: int
    shards: Shards
    again: set[str]
    opened: Opened | None
    close: ExitStack


class EmbedShard(beam.DoFn):
    """Embeds the files of a shard and writes its descriptors; yields its number, their count and their length.

    The next shard of a bundle is opened, which for an archive in a store is to copy it to the disk, while one is
    embedded. For this, a shard is embedded when the next one comes, or at the end of the bundle.
    """

    def __init__(self, work: Work) -> None:
        self.work = work

    def setup(self) -> None:
        limit_readahead(PART_BYTES)
        distributed.start()
        self.model, self.variables, self.preset = _read(self.work)
        self.provenance = made_by(self.model, self.variables, self.preset, self.work.images)
        self.pack = holds_pack(self.work.images)
        self.thread = ThreadPoolExecutor(1)
        self.next: Future[_Shard] | None = None

    def process(self, files: Files) -> Iterator[tuple[int, int, int]]:
        current, self.next = self.next, self.thread.submit(self._open, files)
        if current:
            yield self._embed(current.result())

    def finish_bundle(self) -> Iterator[WindowedValue]:
        current, self.next = self.next, None
        if current:
            yield GlobalWindows.windowed_value(self._embed(current.result()))

    def teardown(self) -> None:
        if self.next:  # the bundle has failed
            with suppress(Exception):
                self.next.result().close.close()
        self.thread.shutdown()

    def _open(self, files: Files) -> _Shard:
        # A runner may give a shard to two workers at once. They write the same under different temporary names.
        place = location(self.work.images)
        shards = Shards(self.work.out, self.provenance, self.work.dtype, place, check=False)
        again: set[str] = set()
        if shards.is_complete(files.number):
            if self.work.retry:
                again = {error["id"] for error in shards.errors(files.number) if "id" in error}
            if not again:
                return _Shard(files.number, shards, again, None, ExitStack())
        with ExitStack() as stack:
            opened = stack.enter_context(open_shard(self.work.images, files, pack=self.pack))
            return _Shard(files.number, shards, again, opened, stack.pop_all())

    def _embed(self, shard: _Shard) -> tuple[int, int, int]:
        with shard.close:
            if shard.opened:
                self._compute(shard, shard.opened)
        return shard.number, len(shard.shards.ids(shard.number)), output_dims(self.model)

    def _compute(self, shard: _Shard, opened: Opened) -> None:
        shard.shards.plan.add_shard(shard.number, opened.reader.source.ids)
        size = self.work.batch_size or default_batch_size()
        options: dict[str, Any] = {"mesh": sharding.create_local_mesh(), "batch_size": size}
        options |= {"max_pixels": self.work.max_pixels, "errors": opened.refused, "again": shard.again}
        for done, errors in compute_shards(
            self.model, self.variables, opened.reader, self.preset, shard.shards, [shard.number], **options
        ):
            beam.metrics.Metrics.counter("sscd_jax", "embedded").inc(done - len(errors))
            beam.metrics.Metrics.counter("sscd_jax", "unreadable").inc(len(errors))


def finish(work: Work, done: list[tuple[int, int, int]]) -> str:
    """Writes the manifest after the last shard.

    Args:
        work: the options of the pipeline.
        done: for each shard its number, its count of descriptors, and their length.

    Returns:
        JSON with the folder and the counts of descriptors, of images without one, and of those among them that a disk
        or a network did not deliver.

    Raises:
        ValueError: no image could be read, or `sscd-jax embed` has planned shards that are not complete.
        OSError: more images than `work.max_errors` were not delivered by a disk or a network.
    """
    model, variables, preset = _read(work)
    provenance = made_by(model, variables, preset, work.images)
    shards = Shards(work.out, provenance, work.dtype, location(work.images), check=False)
    images = sum(count for _, count, _ in done) + sum(len(shards.errors(number)) for number, _, _ in done)
    manifest = shards.finish(
        done[0][2],
        probe=probe(model, variables, preset, batch_size=work.batch_size or default_batch_size()),
        max_not_read=most_failed_reads(images, work.max_errors),
    )
    if manifest is None:
        raise ValueError(
            f"{work.out}: `sscd-jax embed` has planned shards that are not complete; "
            "let it end, then rerun this command"
        )
    return json.dumps({name: manifest[name] for name in ("count", "errors", "not_read")} | {"out": work.out})


def build(pipeline: beam.Pipeline, work: Work, files: str) -> beam.PCollection[str]:
    """Adds the steps to a pipeline.

    Args:
        pipeline: the pipeline.
        work: its options.
        files: the plan that `plan_files` returned.

    Returns:
        One element, the JSON that `finish` returns.
    """
    return (
        pipeline
        | "the plan" >> beam.Create([files])
        | "read it" >> beam.FlatMap(read_plan)
        | "spread" >> beam.Reshuffle()
        | "embed" >> beam.ParDo(EmbedShard(work))
        | "gather" >> beam.combiners.ToList()
        | "write the manifest" >> beam.Map(lambda done: finish(work, done))
    )


def run(
    images: tyro.conf.Positional[str],
    weights: str,
    out: str,
    preset: PresetName | None = None,
    custom: Preset = CUSTOM,
    batch_size: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    shard_size: int = 4096,
    max_pixels: int = MAX_PIXELS,
    max_errors: int | None = None,
    retry: bool = False,
    options: tyro.conf.Suppress[tuple[str, ...]] = (),
) -> None:
    """Embed images by a Beam pipeline. OUT is the same folder of descriptors that `sscd-jax embed` writes.

    Options after -- are passed to Beam, such as -- --runner=DataflowRunner --project=P --region=R. Rerun the same
    command to resume, and to embed files that were added to IMAGES.

    Args:
        images: A folder (searched recursively), a text file of paths, a .tar file, a .parquet file, or a pack. Workers
            must be able to read it.
        weights: Weights of any format, at a path that workers can read.
        out: Folder for the descriptors, which workers can write to.
        preset: How images are resized and normalized. The default is the preset that the network is for, or
            small_288 if that is not known.
        custom: The preset that --preset custom selects.
        batch_size: Number of images in a batch over the devices of a worker. By default 1 on a CPU and 128 for each
            accelerator.
        dtype: Type of the descriptors in the files.
        shard_size: Number of images in a shard. It does not apply to archives and to the files of a
            pack, each of which is one shard.
        max_pixels: Images with more pixels are reported and left out.
        max_errors: Number of images that the disk or the network may fail to deliver. With more, the pipeline fails. By
            default 100, or 1 % of the images if that is more.
        retry: Try again to embed the images that could not be read.
        options: Options of Beam.
    """
    limit_readahead(PART_BYTES)
    if is_bundled(images) or images.startswith("tfds:"):
        raise ValueError(f"{images}: a pipeline reads folders, text files of paths, .tar and .parquet files, and packs")
    for option, value in (("--shard-size", shard_size), ("--batch-size", batch_size), ("--max-pixels", max_pixels)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be positive")
    chosen = None if (preset, custom) == (None, CUSTOM) else choose(preset, custom)
    work = Work(images, weights, out, chosen, dtype, batch_size, max_pixels, max_errors, retry)
    files = plan_files(work, shard_size)
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        build(pipeline, work, files) | beam.Map(print)


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Errors that the user can fix are one line on stderr and exit status 1."""
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    try:
        tyro.cli(partial(run, options=tuple(arguments[split + 1 :])), args=arguments[:split], prog="sscd_jax.beam")
    except (ValueError, OSError, ImportError) as error:
        print(f"sscd_jax.beam: {error}", file=sys.stderr)
        sys.exit(1)
