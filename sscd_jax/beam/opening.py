"""Opens the files of a shard: an archive in a store is copied to the disk first, so that it is read once."""

import os
import posixpath
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from tempfile import TemporaryDirectory
from typing import Any

from sscd_jax.beam.plan import Files
from sscd_jax.data import names, storage
from sscd_jax.data.image_source import UNNAMABLE, Source
from sscd_jax.data.pack_reader import PARTS, part_path, read_image, read_index
from sscd_jax.data.parquet import close_files
from sscd_jax.data.sources import ARCHIVES, open_files
from sscd_jax.data.web import is_url
from sscd_jax.descriptors import is_line
from sscd_jax.embedding.reading import NAME, Reader


@dataclass(frozen=True)
class Opened:
    """The images of a shard.

    Attributes:
        reader: those that can be embedded.
        refused: path and reason of those that `sscd-jax embed` would refuse, such as a second one with the same id. A
            pipeline reports these as unreadable images, so that one bad archive does not end it.
    """

    reader: Reader
    refused: list[dict[str, Any]]


@contextmanager
def open_shard(images: str, files: Files, *, pack: bool) -> Iterator[Opened]:
    """Opens the files of a shard. A copy of an archive on the disk is removed when the block ends.

    Args:
        images: where the images are, as the user gave it.
        files: the files of the shard.
        pack: whether `images` is a pack.

    Raises:
        OSError: an archive cannot be copied to the disk; the error says why.
        ValueError: a shard of a pack is not the one that the pack's index describes.
    """
    path = files.paths[0]
    in_store = storage.in_store(path) and not is_url(path) and path.lower().endswith(ARCHIVES)
    with TemporaryDirectory(prefix="sscd_jax-", ignore_cleanup_errors=True) as folder:
        local = os.path.join(folder, posixpath.basename(path)) if in_store else path
        try:
            if in_store:
                storage.copy_to_disk(path, local)
        except FileNotFoundError:
            if pack:
                raise
            local = path  # it is gone since the plan was made: one image that cannot be read says so
        source, shown = _open_pack(images, path, local) if pack else _open_files(images, files, path, local)
        try:
            yield _check_ids(source, shown)
        finally:
            close_files()


def _open_pack(images: str, path: str, local: str) -> tuple[Source, list[str]]:
    """Returns the images of a tar file of a pack, and how messages call them."""
    number = int(names.stem(posixpath.basename(path)))
    try:
        index = read_index(part_path(images, number))
    except (ValueError, OSError) as error:
        raise ValueError(f"{error}; {images} needs all files of the pack, also those in {PARTS}/") from error
    size, _ = storage.status(local)
    if size != index.sizes.sum():
        raise ValueError(f"{path} has {size} bytes and should have {index.sizes.sum()}: was it packed again just now?")
    read = partial(read_image, index, tar=local, shard=path)
    return Source(images, index.ids, [local] * len(index.ids), read), [f"{images}/{one}" for one in index.ids]


def _open_files(images: str, files: Files, path: str, local: str) -> tuple[Source, list[str]]:
    """Returns the images of other files, of which an archive is at `local`, and how messages call them."""
    paths = [local] if local != path else files.paths
    source = open_files(images, files.names, paths)
    if files.ids:
        source = replace(source, ids=files.ids)
    return source, [path + one.removeprefix(local) for one in source.paths] if local != path else [*source.paths]


def _check_ids(source: Source, shown: list[str]) -> Opened:
    """Leaves out the images that cannot be embedded because of their ids."""
    seen: set[str] = set()
    kept: list[int] = []
    refused = []
    for index, one in enumerate(source.ids):
        if one in seen or not is_line(one):
            reason = "another image has the same id" if one in seen else UNNAMABLE
            refused.append({"path": ascii(shown[index])[1:-1], "reason": reason, "kind": NAME})
        else:
            seen.add(one)
            kept.append(index)
    ids, paths = ([values[index] for index in kept] for values in (source.ids, source.paths))
    # The reader knows the copies, whose damage is no fault of the network; messages name the files in the store.
    record = None if source.record is None else lambda k: source.load(kept[k])
    reader = Reader(Source(source.name, ids, paths, record, source.files))
    reader.source = replace(reader.source, paths=[shown[index] for index in kept])
    return Opened(reader, refused)
