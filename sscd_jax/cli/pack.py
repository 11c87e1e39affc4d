"""The command that packs images for object stores: a thin call into the package."""

import json

import tyro


def pack(
    source: tyro.conf.Positional[str],
    out: str,
    shard_mib: float = 1024,
    split: str | None = None,
    data_dir: str | None = None,
    retry: bool = False,
) -> None:
    """Put images into a few large files: an object store is slow with many small ones.

    Wherever images are read, OUT then stands for SOURCE: same order, same ids, same bytes, and training sees the same
    batches. An image that cannot be read is reported and keeps its place, empty. After an interruption the same
    command goes on. The large files are tar files, which tar and webdataset read.

    Args:
        source: A folder (searched recursively), a text file of paths, a .tar (webdataset) or .parquet file, folders and
            lists of these, another pack, tfds:NAME, or sample; on disk or in a store, as gs://BUCKET/NAME.
        out: New folder for it, on disk or in a store: 00000.tar and so on, index.npz, errors.jsonl if images could
            not be read.
        shard_mib: Size of a file, in MiB; the last is smaller, and one with a single image may be larger.
        split: Split of a TFDS data set; by default train.
        data_dir: Where TFDS data sets are kept; by default where TFDS puts them.
        retry: Read again the images that could not be read before, and write their files anew.
    """
    from sscd_jax.data import pack_writer
    from sscd_jax.data.sources import open_source

    if (split or data_dir) and not source.startswith("tfds:"):
        raise ValueError(f"--split and --data-dir are for tfds:NAME, not for {source}")
    opened = open_source(source, split=split or "train", data_dir=data_dir)
    print(json.dumps(pack_writer.pack(opened, out, shard_bytes=int(shard_mib * 2**20), retry=retry), indent=2))
