"""The commands that make and export descriptors."""

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sscd_jax.cli.options import Images, open_images, preset_for
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.names import IdRule
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose


def embed(
    images: Images,
    weights: str,
    out: str,
    preset: PresetName | None = None,
    custom: Preset = CUSTOM,
    batch_size: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    shard: str | None = None,
    shard_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    max_errors: int | None = None,
    workers: int | None = None,
    retry: bool = False,
    update: bool = False,
    prune: bool = False,
    moved: bool = False,
    split: str | None = None,
    data_dir: str | None = None,
    ids: IdRule = "stem",
    isolate: bool = False,
) -> None:
    """Embed images: write their descriptors to the folder OUT.

    Images that cannot be read are listed in OUT/errors.jsonl and left out. Rerun the same command to resume, and to
    embed images that were added to IMAGES; an interruption loses at most a minute of work. Processes of a TPU pod, or
    of a Slurm or Open MPI job, find one another and share the work; other processes share it by --shard.

    Args:
        images: A folder (searched recursively), an image, a text file of paths or of addresses (https://...), a .tar
            (webdataset) or .parquet file, a folder or list of these, a pack, - for a list of paths on standard input,
            tfds:NAME for a prepared TFDS data set, or sample for the bundled photographs.
        weights: A training run, one of its checkpoints (RUN/checkpoints/STEP), a file of weights of any format that
            `sscd-jax weights convert` reads, or the name of fetched weights, such as sscd_disc_mixup.
        out: Folder for the descriptors, on disk or in a bucket, gs://BUCKET/NAME. It gets .npy shards, ids,
            manifest.json, and errors.jsonl if images could not be read.
        preset: How images are resized and normalized. The default is the preset that the network is for, which its run
            or its file says, or small_288 if it is not known. small_288 resizes the short side to 288 pixels; skew_320
            resizes to 320 x 320; long_800 resizes the long side to 800; dcr_224 resizes the short side to 256, takes
            the center 224 x 224, and normalizes with mean and std 0.5; custom does what the --custom options say.
        custom: The preset that --preset custom selects.
        batch_size: Number of images in a batch over the devices of this process. Batches of long images hold fewer, so
            that memory stays the same. By default 1 on a CPU, which computes as many batches at a time as it has
            cores, and 128 for each accelerator.
        dtype: Type of the descriptors in the files. float16 halves their size.
        shard: I/N, such as 0/4: compute only share I of N, counted from 0. Give it if N processes share the work and
            JAX does not connect them by itself, and start all of them with the same other options. 0/1 makes a process
            of a connected job compute everything.
        shard_size: Number of images in each pair of .npy and ids files. By default 128 batches, but at least 1024, and
            so many that there are at most 256 pairs.
        max_pixels: Images with more pixels are reported and left out.
        strict: Stop at the first image that cannot be read.
        max_errors: Number of images that the disk or the network may fail to deliver. With more, the command stops with
            exit status 1. Images that are delivered and damaged are not counted. By default 100, or 1 % of the images
            if that is more.
        workers: Number of threads that decode images. The default is one for each core.
        retry: Try again to embed the images that could not be read.
        update: Embed again the images whose size or time of change differs from what it was when they were embedded.
        prune: Remove the descriptors of images that are no longer in IMAGES.
        moved: Accept that IMAGES is another path than before, because the same images are in another place now.
        split: Split of a TFDS data set. The default is train.
        data_dir: Folder that holds the TFDS data sets. By default, TFDS chooses it: ~/tensorflow_datasets.
        ids: How images are named. stem drops the extension of the path, unless two images would then have the same id,
            as IMG_1.jpg and IMG_1.heic would. path keeps all extensions. Choose path if images with the same stem may
            be added later.
        isolate: Decode in processes of their own, each with 60 seconds for an image, so that a decoder that crashes or
            never ends costs one image only. It needs the extra isolate, and takes somewhat longer.
    """
    from sscd_jax import weights as known_weights
    from sscd_jax.distributed import join_processes_if_any
    from sscd_jax.embedding.collection import write_descriptors

    choose(preset, custom)  # a wrong option is an error before anything is loaded
    share = _share(shard) if shard else None
    if share is None:
        join_processes_if_any()
    source = open_images(images, split=split, data_dir=data_dir, ids=ids)
    read = known_weights.read(weights)
    summary = write_descriptors(
        read.model,
        read.variables,
        source,
        preset_for(read, preset, custom),
        out,
        batch_size=batch_size,
        dtype=dtype,
        shard=share,
        shard_size=shard_size,
        max_pixels=max_pixels,
        strict=strict,
        max_errors=max_errors,
        workers=workers,
        retry=retry,
        update=update,
        prune=prune,
        moved=moved,
        isolate=isolate,
    )
    print(json.dumps(summary, indent=2))


def descriptors_export(
    folder: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FOLDER")],
    out: Path,
    references: str | None = None,
) -> None:
    """Write descriptors as one file for other tools. The extension of OUT chooses the format.

    .npy is one array that numpy can memory-map. .faiss is an index for inner products whose labels are row numbers.
    Both have the ids of the rows in OUT.ids.txt, and the provenance in OUT.json. .parquet has the columns id and
    vector, for Arrow and pandas. .hdf5 has the data sets vectors and image_names, which the code of ISC2021 reads; with
    --references it is a submission to ISC2021, with query, reference, query_ids and reference_ids. An earlier export is
    replaced, and any other file is an error.

    Args:
        folder: Folder that `sscd-jax embed` wrote, on disk or in a store.
        out: File to write: .npy, .faiss, .parquet or .hdf5.
        references: Folder with the descriptors of the references, for a submission to ISC2021 whose queries are in
            FOLDER.
    """
    from sscd_jax.embedding.export import export_descriptors

    export_descriptors(folder, out, references=references)
    print(out)


def _share(text: str) -> tuple[int, int]:
    """Parses I/N."""
    try:
        part, parts = map(int, text.split("/"))
    except ValueError as error:
        raise ValueError(f"--shard {text}: give I/N, such as 0/4") from error
    return part, parts
