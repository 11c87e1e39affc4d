"""Embeds images on many machines: an Apache Beam pipeline that writes the same folder as `sscd-jax embed`.

    python -m sscd_jax.beam IMAGES --weights W --out DIR [--preset small_288] [-- --runner=DataflowRunner ...]

A shard is one archive, or several image files. docs/beam.md describes how to run the pipeline on
Google Cloud Dataflow with TPUs or GPUs.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Literal

import tyro
from etils import epath

from sscd_jax import distributed, sharding, weights
from sscd_jax.data import names
from sscd_jax.data.image_source import UNNAMABLE, Source, location
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.sources import ARCHIVES, is_bundled, list_files, open_files
from sscd_jax.descriptors import FOLDER, FORMAT, VERSION, is_line
from sscd_jax.embedding.collection import default_batch_size, made_by, max_not_read, probe
from sscd_jax.embedding.compute import compute_shards, output_dims
from sscd_jax.embedding.plan import PLAN, Plan, create_file, replace_file
from sscd_jax.embedding.reading import NAME, Reader
from sscd_jax.embedding.shards import Shards
from sscd_jax.models import SSCD
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ImportError as error:
    raise ImportError("pipelines need the extra beam: pip install 'sscd_jax[beam]'") from error

FILES = "files.jsonl"  # in the folder of the plan, with one line for each shard


@dataclass(frozen=True)
class Work:
    """The options of a pipeline, which every worker gets.

    Attributes:
        images: where the images are, as the user gave it.
        weights: the weights of the network, at a path that every worker can read.
        out: the folder of descriptors, which every worker can write to.
        preset: how images are resized and normalized; None for the preset that the network is for.
        dtype: the type of the vectors in the files.
        batch_size: the number of images in a batch over the devices of a worker; None for the default of
            `write_descriptors`.
        max_pixels: images with more pixels are not read.
        max_errors: the largest number of images that a disk or a network fails to deliver, see `write_descriptors`.
        retry: whether images that could not be read are tried again.
    """

    images: str
    weights: str
    out: str
    preset: Preset | None = None
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int | None = None
    max_pixels: int = MAX_PIXELS
    max_errors: int | None = None
    retry: bool = False


@dataclass(frozen=True)
class Files:
    """The files of a shard.

    Attributes:
        number: the number of the shard.
        names: the files' names relative to the folder of images.
        paths: the files' paths.
    """

    number: int
    names: Sequence[str]
    paths: Sequence[str]


def plan_files(work: Work, shard_size: int) -> str:
    """Adds shards to the plan for files that it does not have yet.

    Args:
        work: the options of the pipeline.
        shard_size: the number of image files in a shard.

    Returns:
        The path of the plan, a text file whose lines are the JSON of `Files`.

    Raises:
        ValueError: `list_files` raises it, two files give the same ids, or the folder was written by something else.
    """
    out = epath.Path(work.out)
    path = out / PLAN / FILES
    FOLDER.check(out)
    lines = path.read_text().splitlines() if path.exists() else []
    planned = [json.loads(line) for line in lines]
    known = {name for one in planned for name in one["names"]}
    numbers = {one["number"] for one in planned}
    embedded: set[str] = set()  # ids that `sscd-jax embed` has planned, and their folders, which may be archives
    plan = Plan(out)
    for number in plan.numbers():
        if number not in numbers:
            numbers.add(number)
            ids = plan.ids(number)
            embedded |= {*ids, *(f"{parent}/" for one in ids for parent in _parents(one))}
    archives: list[tuple[str, str]] = []
    images: list[tuple[str, str]] = []
    stems: dict[str, str] = {}
    for name, place in zip(*list_files(work.images), strict=True):
        stem, is_archive = names.escape(names.stem(name)), place.lower().endswith(ARCHIVES)
        if stem in stems:
            raise ValueError(
                f"{stems[stem]} and {name} in {work.images} give the same ids: rename or remove one of them"
            )
        stems[stem] = name
        if name not in known and (f"{stem}/" if is_archive else stem) not in embedded:
            (archives if is_archive else images).append((name, place))
    if mixed := {parent for stem in stems for parent in _parents(stem)} & {*stems}:
        raise ValueError(f"{work.images} has {stems[mixed.pop()]} and a folder of that name, which give the same ids")
    groups = [[archive] for archive in archives]
    groups += [images[start : start + shard_size] for start in range(0, len(images), shard_size)]
    for number, group in enumerate(groups, max(numbers, default=-1) + 1):
        lines.append(json.dumps(asdict(Files(number, *zip(*group, strict=True)))))
    path.parent.mkdir(parents=True, exist_ok=True)
    # The launcher need not have the weights, which made_by.json names: workers write that.
    create_file(path.with_name("format.json"), json.dumps({"format": FORMAT, "version": VERSION}))
    text = "".join(f"{line}\n" for line in lines)
    replace_file(path, lambda file: file.write(text.encode()))
    return str(path)


def _parents(one: str) -> list[str]:
    """Returns the folders above an image, any of which may be the archive that the image is in."""
    parts = one.split("/")
    return ["/".join(parts[:count]) for count in range(1, len(parts))]


def _read(work: Work) -> tuple[SSCD, Any, Preset]:
    """Returns the network, its variables, and the preset of a pipeline."""
    read = weights.read(work.weights)
    return read.model, read.variables, work.preset or choose(None, default=read.preset)


class EmbedShard(beam.DoFn):
    """Embeds the files of a shard and writes its descriptors; yields its number, their count and their length."""

    def __init__(self, work: Work) -> None:
        self.work = work

    def setup(self) -> None:
        distributed.start()
        self.model, self.variables, self.preset = _read(self.work)
        self.provenance = made_by(self.model, self.variables, self.preset, self.work.images)

    def process(self, files: Files) -> Iterator[tuple[int, int, int]]:
        # A runner may give a shard to two workers at once. They write the same under different temporary names.
        place = location(self.work.images)
        shards = Shards(self.work.out, self.provenance, self.work.dtype, place, check=False)
        again = set()
        if self.work.retry and shards.is_complete(files.number):
            again = {error["id"] for error in shards.errors(files.number) if "id" in error}
        if again or not shards.is_complete(files.number):
            source, refused = _unique(open_files(self.work.images, files.names, files.paths))
            shards.plan.add_shard(files.number, source.ids)
            size = self.work.batch_size or default_batch_size()
            options: dict[str, Any] = {"mesh": sharding.create_local_mesh(), "batch_size": size}
            options |= {"max_pixels": self.work.max_pixels, "errors": refused, "again": again}
            for done, errors in compute_shards(
                self.model, self.variables, Reader(source), self.preset, shards, [files.number], **options
            ):
                beam.metrics.Metrics.counter("sscd_jax", "embedded").inc(done - len(errors))
                beam.metrics.Metrics.counter("sscd_jax", "unreadable").inc(len(errors))
        yield files.number, len(shards.ids(files.number)), output_dims(self.model)


def _unique(source: Source) -> tuple[Source, list[dict[str, str]]]:
    """Splits a source into images that can be embedded, and the path and reason of those that `embed` would refuse.

    A pipeline reports these as unreadable images, so that one bad archive does not end it.
    """
    seen: set[str] = set()
    kept: list[int] = []
    errors = []
    for index, one in enumerate(source.ids):
        if one in seen or not is_line(one):
            reason = "another image has the same id" if one in seen else UNNAMABLE
            errors.append({"path": ascii(source.paths[index])[1:-1], "reason": reason, "kind": NAME})
        else:
            seen.add(one)
            kept.append(index)
    paths = [source.paths[index] for index in kept]
    return Source(source.name, [source.ids[index] for index in kept], paths, lambda k: source.load(kept[k])), errors


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
        max_not_read=max_not_read(images, work.max_errors),
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
        | "read the plan" >> beam.io.ReadFromText(files)
        | "parse" >> beam.Map(lambda line: Files(**json.loads(line)))
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
        images: A folder (searched recursively), a text file of paths, a .tar file or a .parquet file. Workers must be
            able to read it.
        weights: Weights of any format, at a path that workers can read.
        out: Folder for the descriptors, which workers can write to.
        preset: How images are resized and normalized. By default as the network was trained for, or else small_288.
        custom: The preset that --preset custom selects.
        batch_size: Number of images in a batch over the devices of a worker. By default 1 on a CPU and 128 for each
            accelerator.
        dtype: Type of the descriptors in the files.
        shard_size: Number of images in a shard. It does not apply to archives, each of which is one shard.
        max_pixels: Images with more pixels are reported and left out.
        max_errors: Number of images that the disk or the network may fail to deliver. With more, the pipeline fails. By
            default 100, or 1 % of the images if that is more.
        retry: Try again to embed the images that could not be read.
        options: Options of Beam.
    """
    if is_bundled(images) or images.startswith("tfds:"):
        raise ValueError(f"{images}: a pipeline reads folders, text files of paths, .tar and .parquet files")
    for option, value in (("--shard-size", shard_size), ("--batch-size", batch_size), ("--max-pixels", max_pixels)):
        if value is not None and value < 1:
            raise ValueError(f"{option} is {value}; it must be positive")
    chosen = None if (preset, custom) == (None, CUSTOM) else choose(preset, custom)
    work = Work(images, weights, out, chosen, dtype, batch_size, max_pixels, max_errors, retry)
    files = plan_files(work, shard_size)
    with beam.Pipeline(options=PipelineOptions(list(options))) as pipeline:
        build(pipeline, work, files) | beam.Map(print)


def main(arguments: Sequence[str]) -> None:
    """Runs the command. Errors that the user can mend are one line on stderr and exit status 1."""
    split = list(arguments).index("--") if "--" in arguments else len(arguments)
    try:
        tyro.cli(partial(run, options=tuple(arguments[split + 1 :])), args=arguments[:split], prog="sscd_jax.beam")
    except (ValueError, OSError) as error:
        print(f"sscd_jax.beam: {error}", file=sys.stderr)
        sys.exit(1)
