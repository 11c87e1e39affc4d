"""Opens sources of images: folders, lists of paths, tar and Parquet files, packs, TFDS data sets, the bundled sample.

Every source is read by index in any order. A training run can therefore start at any step, and a run that is resumed
sees exactly the examples that it would have seen without the interruption.
"""

import bisect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from sscd_jax.data import storage
from sscd_jax.data.archives import IMAGE_EXTENSIONS, Archive, open_archive
from sscd_jax.data.image_source import Source, read_file
from sscd_jax.data.pack_reader import MADE_BY, Pack, is_pack

ARCHIVES = (".tar", ".parquet")


def open_source(source: str, *, split: str = "train", data_dir: str | None = None) -> Source:
    """Opens a source of images.

    The ids of its images are:
      * paths without the extension, relative to the folder or to the folder of the text file. A tar file counts as a
        folder: the id of b/1.jpg in a.tar is "a/b/1".
      * "FILE/ROW" for images of a Parquet file.
      * the ids of the images that were packed, for a pack.
      * the text feature image_id of TFDS examples, if there is one and it is unique, or else "SPLIT/INDEX".

    Args:
        source: a folder (searched recursively), a text file of paths, an archive, a pack, "tfds:NAME", or "sample".
            Archives are tar files in webdataset's layout and Parquet files with a column of encoded images; folders and
            lists may contain them. All of these may be in a store, as gs://BUCKET/NAME. A TFDS data set must have been
            prepared.
        split: the split of a TFDS data set.
        data_dir: the folder of TFDS data sets; by default the one that TFDS uses. For "tfds:ImageFolder", the folder of
            images.

    Raises:
        ValueError: there is no such source, or it has no image; the error says what to do.
        OSError: a store does not answer.
        ImportError: the source is a Parquet file and the extra parquet is not installed.
    """
    if source.startswith("tfds:"):
        from sscd_jax.data.tfds import open_tfds

        return open_tfds(source, split, data_dir)
    if source == "sample":
        from sscd_jax.data.sample import photograph_paths

        photographs = photograph_paths()
        files = [str(path) for path in photographs.values()]
        return Source(source, list(photographs), files, files=files)
    if is_pack(source):
        pack = Pack(source)
        return Source(source, pack.ids, [f"{source}/{image_id}" for image_id in pack.ids], pack.read, pack.shards)
    names, paths = list_files(source)
    if paths == [source] and source.lower().endswith(".parquet"):
        open_archive(source)  # raises where it has no images; in a folder, such a file is reported and skipped
    opened = open_files(source, names, paths)
    if not len(opened):
        raise ValueError(f"no images in {source}: looked for the extensions {', '.join(IMAGE_EXTENSIONS)}")
    return opened


def list_files(source: str) -> tuple[list[str], list[str]]:
    """Lists the files of a folder, of a list of paths, or of a single archive, which `open_files` opens.

    Returns:
        The names of images and archives, relative to the folder or as in the list, and their paths.

    Raises:
        ValueError: there is no such file or folder, it has no image, or it is a pack or contains one.
        OSError: a store does not answer.
    """
    if storage.is_folder(source):
        return _folder(source)
    if not storage.exists(source):
        raise ValueError(
            f"{source}: no such folder or file; give a folder, a text file of paths, a .tar or .parquet file, "
            "tfds:NAME, or sample"
        )
    if source.lower().endswith(ARCHIVES):
        return [os.path.basename(source)], [source]
    if source.lower().endswith((".tar.gz", ".tgz")):
        raise ValueError(f"{source}: compressed tar files cannot be read at random: decompress it")
    return _list(source)


def _folder(folder: str) -> tuple[list[str], list[str]]:
    folder = folder.rstrip("/") if storage.in_store(folder) else str(Path(folder))  # ./photos becomes photos
    paths = []
    for parent, names in _walk(folder):
        if MADE_BY in names:
            raise ValueError(f"{parent} is a pack, which is not read as a folder of tar files: name the pack itself")
        paths += [os.path.join(parent, name) for name in names if name.lower().endswith(IMAGE_EXTENSIONS + ARCHIVES)]
    paths.sort()
    if not paths:
        extensions = ", ".join(IMAGE_EXTENSIONS + ARCHIVES)
        raise ValueError(f"no images in {folder}: looked in it and below for the extensions {extensions}")
    prefix = os.path.join(folder, "")
    return [path.removeprefix(prefix) for path in paths], paths


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Yields folders and the names of their files. Links to folders are followed, but not to a folder above."""
    if storage.in_store(folder):
        yield from _walk_store(folder)
        return
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_report):
        here = os.path.join(os.path.realpath(parent), "")
        folders[:] = [name for name in folders if not here.startswith(_target(os.path.join(parent, name)))]
        yield parent, names


def _walk_store(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Does the same in a store. (tf.io.gfile.walk makes a request for each image, to ask whether it is a folder.)"""
    try:
        listed = storage.list_folder(folder)
        files = {name for name in listed if name.lower().endswith((*IMAGE_EXTENSIONS, *ARCHIVES, MADE_BY))}
        others = [name for name in listed if name not in files]
        folders = [name for name in others if name.endswith("/") or storage.is_folder(os.path.join(folder, name))]
    except OSError as error:
        _report(OSError(error.errno, error.strerror or str(error), folder))
        return
    yield folder, sorted(files)
    for name in folders:
        yield from _walk_store(os.path.join(folder, name.rstrip("/")))


def _target(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), "")


def _report(error: OSError) -> None:
    print(f"cannot search {error.filename}, whose images are left out: {error.strerror}", file=sys.stderr)


def _list(file: str) -> tuple[list[str], list[str]]:
    try:
        lines = storage.read_bytes(file).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not a text file of paths in UTF-8: name a folder or a list of paths") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"no paths in {file}: it should have one on each line")
    return names, [name if "://" in name else os.path.join(os.path.dirname(file), name) for name in names]


def open_files(source: str, names: Sequence[str], paths: Sequence[str]) -> Source:
    """Opens images and archives as one source. An archive is replaced by the images in it.

    Args:
        source: the name of the source.
        names: the names of the files, which become the ids, without their extensions.
        paths: the paths of the files.

    Raises:
        ImportError: a file is a Parquet file and the extra parquet is not installed.
    """
    if not any(path.lower().endswith(ARCHIVES) for path in paths):
        return Source(source, [os.path.splitext(name)[0] for name in names], paths, files=paths)
    ids: list[str] = []
    places: list[str] = []
    firsts: list[int] = []  # the index of the first image of each file
    readers: list[Callable[[int], bytes]] = []
    for name, path in zip(tqdm(names, desc="listing", unit="file", dynamic_ncols=True), paths, strict=True):
        stem = os.path.splitext(name)[0]
        firsts.append(len(ids))
        try:
            archive = open_archive(path)
        except ValueError as error:  # a Parquet file of something else
            archive = _unreadable(str(error))
        if archive:
            ids += [f"{stem}/{inside}" for inside in archive.names]
            places += [f"{path}/{inside}" for inside in archive.names]
            readers.append(archive.read)
        else:
            ids.append(stem)
            places.append(path)
            readers.append(partial(read_file, path))

    def record(index: int) -> bytes:
        file = bisect.bisect_right(firsts, index) - 1
        return readers[file](index - firsts[file])

    return Source(source, ids, places, record, paths)


def _unreadable(reason: str) -> Archive:
    def fail(_: int) -> bytes:
        raise OSError(reason)

    return Archive(["?"], fail)
