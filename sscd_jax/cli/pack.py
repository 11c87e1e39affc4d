"""The command that packs images for object stores: a thin call into the package."""

import json

from sscd_jax.cli.options import Images, open_images
from sscd_jax.data.names import IdRule


def pack(
    images: Images,
    out: str,
    shard_mib: float = 1024,
    split: str | None = None,
    data_dir: str | None = None,
    retry: bool = False,
    max_errors: int | None = None,
    ids: IdRule = "stem",
) -> None:
    """Copy images into a few large files, since object stores read many small files slowly.

    Every command reads OUT like IMAGES: it has the same ids and bytes in the same order, and training sees the same
    batches. An image that cannot be read is reported, and its place stays empty. The large files are tar files, which
    tar and webdataset read. Rerun the same command to resume an interrupted pack.

    Args:
        images: A folder (searched recursively), an image, a text file of paths or of addresses (https://...), a .tar
            (webdataset) or .parquet file, a folder or list of these, another pack, - for a list of paths on standard
            input, tfds:NAME for a prepared TFDS data set, or sample for the bundled photographs. Paths can be on disk
            or in an object store, such as gs://BUCKET/NAME.
        out: New folder for the pack, on disk or in an object store: 00000.tar and so on, index.npz, and errors.jsonl
            for unreadable images.
        shard_mib: Size of a tar file in MiB. The last file is smaller, and a file with a single image may be larger.
        split: Split of a TFDS data set. The default is train.
        data_dir: Folder that holds the TFDS data sets. By default, TFDS chooses it: ~/tensorflow_datasets.
        retry: Try again to read the images that could not be read before, and write their tar files again.
        max_errors: Number of images that the disk or the network may fail to deliver. With more, the command stops with
            exit status 1. By default 100, or 1 % of the images if that is more.
        ids: How images are named. stem drops the extension of the path, unless two images would then have the same id,
            as IMG_1.jpg and IMG_1.heic would. path keeps all extensions. Choose path if images with the same stem may
            be added later.
    """
    from sscd_jax.data import pack_writer

    source = open_images(images, split=split, data_dir=data_dir, ids=ids)
    shard_bytes = int(shard_mib * 2**20)
    summary = pack_writer.pack(source, out, shard_bytes=shard_bytes, retry=retry, max_errors=max_errors)
    print(json.dumps(summary, indent=2))
