"""The commands that make descriptors: thin calls into the package."""

import json
from pathlib import Path
from typing import Annotated, Literal

import tyro

from sscd_jax.cli.options import Images, open_images
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose


def embed(
    images: Images,
    weights: str,
    out: Path,
    preset: PresetName = "small_288",
    custom: Preset = CUSTOM,
    batch_size: int | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    shard: str | None = None,
    distributed: bool = False,
    shard_size: int | None = None,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    workers: int | None = None,
    retry: bool = False,
    split: str | None = None,
    data_dir: str | None = None,
) -> None:
    """Compute the descriptors of images and write them to OUT.

    Images that cannot be read are skipped, and listed in OUT/errors.jsonl. Run the same command again to resume an
    interrupted one, or to embed images that were added to IMAGES since.

    Args:
        images: A folder (searched recursively), a text file of paths, a .tar (webdataset) or .parquet file, a folder or
            list of these, tfds:NAME for a prepared TFDS data set, or sample for the bundled photographs.
        weights: Name of published weights, such as sscd_disc_mixup, a training run, one of its checkpoints
            (RUN/checkpoints/STEP), or a file of any format that `sscd-jax weights convert` reads.
        out: Folder for the descriptors: .npy shards, ids, manifest.json, and errors.jsonl for unreadable images.
        preset: How images are resized and normalized. small_288 resizes the short side to 288 pixels, skew_320 resizes
            to 320 x 320, long_800 resizes the long side to 800, and dcr_224 takes the central 224 x 224 after resizing
            the short side to 256, with mean and std 0.5. custom uses the options --custom.*. Only descriptors of the
            same preset can be compared.
        custom: The preset that is used with --preset custom.
        batch_size: Number of images in a batch, which is divided among the devices of this process. Batches of long
            images are smaller, so that they take the same memory. By default, 128 per accelerator; on a CPU, 1, with
            as many batches side by side as there are cores.
        dtype: Data type of the descriptors in the files. float16 takes half the space.
        shard: I/N, as 0/4: this process takes the I-th of N shares; start all N with the same other options.
        distributed: The same for the processes of a TPU pod, or of a SLURM or Open MPI job: each takes the share of its
            number.
        shard_size: Number of images in a file of descriptors. An interruption loses the work on at most one such file.
            By default, 128 batches, or 1024 images if that is more.
        max_pixels: Largest number of pixels (width x height) of an image. Larger images are skipped and reported.
        strict: Stop at the first image that cannot be read, instead of skipping it.
        workers: Number of threads that decode images; by default, one per core.
        retry: Try again to read the images that could not be read before.
        split: Split of a TFDS data set; by default, train.
        data_dir: Folder that holds the TFDS data sets. By default, TFDS chooses it: ~/tensorflow_datasets.
    """
    from sscd_jax import weights as known_weights
    from sscd_jax.distributed import join_hosts
    from sscd_jax.embedding.collection import write_descriptors

    chosen, share = choose(preset, custom), _share(shard) if shard else None
    if distributed:
        join_hosts()
    source = open_images(images, split=split, data_dir=data_dir)
    model, variables = known_weights.load(weights)
    summary = write_descriptors(
        model,
        variables,
        source,
        chosen,
        out,
        batch_size=batch_size,
        dtype=dtype,
        shard=share,
        shard_size=shard_size,
        max_pixels=max_pixels,
        strict=strict,
        workers=workers,
        retry=retry,
    )
    print(json.dumps(summary, indent=2))


def descriptors_export(
    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")],
    out: Path,
    references: Path | None = None,
) -> None:
    """Write descriptors as one file for other tools. The extension of OUT chooses the format.

    .npy is one array that numpy can memory-map, with the ids in OUT.ids.txt. .faiss is an index for inner products
    whose labels are row numbers. .parquet has the columns id and vector, for Arrow and pandas. .hdf5 has the data sets
    vectors and image_names, which the code of ISC2021 reads; with --references it is a submission to ISC2021, with
    query, reference, query_ids and reference_ids.

    Args:
        folder: Folder that `sscd-jax embed` wrote.
        out: File to write: .npy, .faiss, .parquet or .hdf5.
        references: Folder with the descriptors of the references, for a submission to ISC2021 whose queries are in
            FOLDER.
    """
    from sscd_jax.embedding.export import export_descriptors

    export_descriptors(folder, out, references=references)
    print(out)


def _share(text: str) -> tuple[int, int]:
    """I/N as numbers."""
    try:
        part, parts = map(int, text.split("/"))
    except ValueError as error:
        raise ValueError(f"--shard {text}: it is I/N, as 0/4") from error
    return part, parts
