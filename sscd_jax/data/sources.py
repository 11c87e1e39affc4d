"""Where images come from: folders, lists of paths, tar and Parquet files, TFDS data sets, the bundled sample.

A source is read at random by index, so that any step of a run can be reached at once and a restored run sees just the
examples that it would have seen.
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
    """A folder (searched recursively), a text file of paths, an archive, a pack, "tfds:NAME", or "sample".

    Archives are tar files in webdataset's layout and Parquet files with a column of encoded images; folders and lists
    can hold them too. All these may be in a store, as gs://BUCKET/NAME. TFDS data sets were prepared before. Ids are
    paths without the ending, relative to the folder or to the text file, as if a tar file were a folder; of Parquet
    files "FILE/ROW", of packs those of what was packed, of TFDS examples their text image_id where they have one that
    is unique, else "SPLIT/INDEX".

    Args:
        source: what to open.
        split: of a TFDS data set.
        data_dir: where TFDS data sets are; by default where TFDS puts them. For "tfds:ImageFolder" the folder.

    Raises:
        ValueError: there is no such source, or no image in it; says what to do.
        OSError: a store cannot be asked.
        ImportError: it is a Parquet file, and the extra parquet is not installed.
    """
    if source.startswith("tfds:"):
        from sscd_jax.data.tfds import open_prepared

        return open_prepared(source, split, data_dir)
    if source == "sample":
        from sscd_jax.data.sample import photograph_paths

        photographs = photograph_paths()
        files = [str(path) for path in photographs.values()]
        return Source(source, list(photographs), files, files=files)
    if is_pack(source):
        pack = Pack(source)
        return Source(source, pack.ids, [f"{source}/{one}" for one in pack.ids], pack.read, pack.shards)
    names, paths = list_files(source)
    if paths == [source] and source.lower().endswith(".parquet"):
        open_archive(source)  # that it has no images is an error here, and one line among others in a folder
    opened = open_files(source, names, paths)
    if not len(opened):
        raise ValueError(f"no images in {source}: looked for names that end in {', '.join(IMAGE_EXTENSIONS)}")
    return opened


def list_files(source: str) -> tuple[list[str], list[str]]:
    """Names and paths of the images and archives of a folder, a list or an archive; `open_files` opens them.

    Raises:
        ValueError: there is no such file or folder, or no image in it; or it is a pack, or holds one.
        OSError: a store cannot be asked.
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
    folder = folder.rstrip("/") if storage.in_store(folder) else str(Path(folder))  # photos for ./photos
    paths = []
    for parent, names in _walk(folder):
        if MADE_BY in names:
            raise ValueError(f"{parent} is a pack, which is not read as a folder of tar files: give it by itself")
        paths += [os.path.join(parent, name) for name in names if name.lower().endswith(IMAGE_EXTENSIONS + ARCHIVES)]
    paths.sort()
    if not paths:
        endings = ", ".join(IMAGE_EXTENSIONS + ARCHIVES)
        raise ValueError(f"no images in {folder}: looked in it and below for names that end in {endings}")
    prefix = os.path.join(folder, "")
    return [path.removeprefix(prefix) for path in paths], paths


def _walk(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Folders and the names of their files; links to folders are followed, but not to one that they are in."""
    if storage.in_store(folder):
        yield from _walk_store(folder)
        return
    for parent, folders, names in os.walk(folder, followlinks=True, onerror=_report):
        here = os.path.join(os.path.realpath(parent), "")
        folders[:] = [one for one in folders if not here.startswith(_target(os.path.join(parent, one)))]
        yield parent, names


def _walk_store(folder: str) -> Iterator[tuple[str, list[str]]]:
    """The same in a store. tf.io.gfile.walk asks for each name whether it is a folder's, a request for each image."""
    try:
        listed = storage.names(folder)
        files = {one for one in listed if one.lower().endswith((*IMAGE_EXTENSIONS, *ARCHIVES, MADE_BY))}
        others = [one for one in listed if one not in files]
        folders = [one for one in others if one.endswith("/") or storage.is_folder(os.path.join(folder, one))]
    except OSError as error:
        _report(OSError(error.errno, error.strerror or str(error), folder))
        return
    yield folder, sorted(files)
    for one in folders:
        yield from _walk_store(os.path.join(folder, one.rstrip("/")))


def _target(folder: str) -> str:
    return os.path.join(os.path.realpath(folder), "")


def _report(error: OSError) -> None:
    print(f"{error.filename} cannot be searched, its images are left out: {error.strerror}", file=sys.stderr)


def _list(file: str) -> tuple[list[str], list[str]]:
    try:
        lines = storage.read_bytes(file).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text file of paths in UTF-8: give a folder, or a list of paths") from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise ValueError(f"no paths in {file}: it should have one a line")
    return names, [name if "://" in name else os.path.join(os.path.dirname(file), name) for name in names]


def open_files(source: str, names: Sequence[str], paths: Sequence[str]) -> Source:
    """Files of images by names that become ids, with archives among them replaced by what is in them.

    Raises:
        ImportError: one is a Parquet file, and the extra parquet is not installed.
    """
    if not any(path.lower().endswith(ARCHIVES) for path in paths):
        return Source(source, [os.path.splitext(name)[0] for name in names], paths, files=paths)
    ids: list[str] = []
    places: list[str] = []
    firsts: list[int] = []  # index of the first image of each file
    readers: list[Callable[[int], bytes]] = []
    for name, path in zip(tqdm(names, desc="listing", unit="file", dynamic_ncols=True), paths, strict=True):
        stem = os.path.splitext(name)[0]
        firsts.append(len(ids))
        try:
            archive = open_archive(path)
        except ValueError as error:  # a table of something else, which a folder may hold
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
