"""The commands that make descriptors: thin calls into the package."""

import json
from pathlib import Path
from typing import Literal

import tyro

from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.presets import CUSTOM, Preset, PresetName, choose


def embed(
    images: tyro.conf.Positional[str],
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
    """Write the descriptors of images. Those that cannot be read are reported in OUT/errors.jsonl and left out.

    The same command again goes on where it was, and embeds what IMAGES has gained.

    Args:
        images: A folder (searched recursively), a text file of paths, a .tar (webdataset) or .parquet file, folders and
            lists of these, tfds:NAME, or sample.
        weights: A training run, one of its checkpoints (RUN/checkpoints/STEP), a file of weights of any format that
            `sscd-jax weights convert` reads, or the name of fetched weights, as sscd_disc_mixup.
        out: Folder for the descriptors: .npy shards, ids, manifest.json, errors.jsonl if images could not be read.
        preset: How images are resized and normalized: small_288, short side to 288 pixels; skew_320, to 320 x 320;
            long_800, long side to 800; dcr_224, the center 224 x 224 of short side 256, mean and std 0.5; custom.
        custom: The preset custom.
        batch_size: Images a batch, over the devices of this process; long images are fewer, so that memory stays
            the same. By default 1 on a CPU, as many being computed side by side as it has cores, and 128 for
            each accelerator.
        dtype: Of the descriptors in the files.
        shard: I/N, as 0/4: this process takes the I-th of N shares; start all N with the same other options.
        distributed: The same for the processes of a TPU pod, or of a SLURM or Open MPI job: each takes the share of its
            number.
        shard_size: Images in a file, and at most computed anew after an interruption; by default 128 batches, or
            1024.
        max_pixels: Larger images are reported and left out.
        strict: Stop at the first image that cannot be read.
        workers: Threads that decode; by default one for each core.
        retry: Compute again the parts with images that could not be read before.
        split: Split of a TFDS data set; by default train.
        data_dir: Where TFDS data sets are kept; by default where TFDS puts them.
    """
    from sscd_jax import weights as known_weights
    from sscd_jax.data.sources import open_source
    from sscd_jax.distributed import join_processes
    from sscd_jax.embedding.collection import write_descriptors

    chosen, share = choose(preset, custom), _share(shard) if shard else None
    if (split or data_dir) and not images.startswith("tfds:"):
        raise ValueError(f"--split and --data-dir are for tfds:NAME, not for {images}")
    if distributed:
        join_processes()
    source = open_source(images, split=split or "train", data_dir=data_dir)
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


def descriptors_export(folder: tyro.conf.Positional[Path], out: Path, references: Path | None = None) -> None:
    """Write descriptors as one file for other tools, by the ending of its name.

    .npy: one array that numpy can memory-map, with the ids beside it in OUT.ids.txt. .faiss: an index for inner
    products, whose labels are the rows. .parquet: columns id and vector, for Arrow and pandas. .hdf5: vectors and
    image_names, as the code of ISC2021 reads them; with --references a submission to it: query, reference, query_ids,
    reference_ids.

    Args:
        folder: A folder that `sscd-jax embed` wrote.
        out: The file to write.
        references: A second folder, for a submission whose queries are the first.
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
