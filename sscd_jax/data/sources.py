"""Opens sources of images: folders, lists of paths, tar and Parquet files, packs, TFDS data sets, the bundled sample.

Every source is read by index in any order. A training run can therefore start at any step, and a run that is resumed
sees exactly the examples that it would have seen without the interruption.
"""

import bisect
import codecs
import itertools
import os
import stat
import sys
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from sscd_jax.data import folders, storage
from sscd_jax.data.archives import open_archive, unread
from sscd_jax.data.image_source import Source, read_file
from sscd_jax.data.names import ARCHIVES, IMAGE_EXTENSIONS, IdRule, printable, stem, unique_ids
from sscd_jax.data.pack_reader import Pack, is_pack
from sscd_jax.data.web import is_url
from sscd_jax.string_list import MappedStrings, StringList

STDIN = "-"
_READ = 1 << 20  # bytes that are decoded at once
SAMPLE = "sample"


def open_source(source: str, *, split: str = "train", data_dir: str | None = None, ids: IdRule = "stem") -> Source:
    """Opens a source of images.

    The ids of its images are:
      * paths without the extensions of images and archives, relative to the folder or to the folder of the text file. A
        tar file counts as a folder: the id of b/1.jpg in a.tar is "a/b/1". Images that would have the same id keep
        their extensions; see `unique_ids`. Line breaks and control characters are escaped; see `escape`.
      * "FILE/ROW" for images of a Parquet file.
      * the ids of the images that were packed, for a pack.
      * the text feature image_id of TFDS examples, if there is one and it is unique, or else "SPLIT/INDEX".

    Args:
        source: a folder (searched recursively), an image, a text file of paths, an archive, a pack, "tfds:NAME", "-"
            for a list of paths on standard input, or "sample" for the bundled photographs, if there is no file or
            folder of this name. Archives are tar files in webdataset's layout and Parquet files with a column of
            encoded images; folders and lists may contain them. All of these may be in a store, as gs://BUCKET/NAME.
            Images, also those in a list, may be at web addresses, as https://HOST/NAME. Paths in a list are separated
            by line breaks, or by zero bytes if it has any. A TFDS data set must have been prepared.
        split: the split of a TFDS data set.
        data_dir: the folder of TFDS data sets; by default the one that TFDS uses. For "tfds:ImageFolder", the folder of
            images.
        ids: "stem" for the ids above; "path" for paths that keep all extensions, as "a.tar/b/1.jpg". Packs and TFDS
            data sets have ids of their own.

    Raises:
        ValueError: there is no such source, or it has no image; the error says what to do.
        OSError: a store does not answer.
        ImportError: the source is a Parquet file and the extra parquet is not installed.
    """
    if source.startswith("tfds:"):
        from sscd_jax.data.tfds import open_tfds

        return open_tfds(source, split, data_dir)
    if is_bundled(source):
        return open_sample()
    if source == SAMPLE:
        print(f"{SAMPLE} is what has this name in the current folder, not the bundled photographs", file=sys.stderr)
    if source != STDIN and not is_url(source) and is_pack(source):
        pack = Pack(source)
        return Source(source, pack.ids, MappedStrings(pack.ids, lambda one: f"{source}/{one}"), pack.read, pack.shards)
    names, paths = list_files(source)
    if paths == [source] and source.lower().endswith(".parquet"):
        open_archive(source)  # raises where it has no images; in a folder, such a file is reported and skipped
    opened = open_files(source, names, paths, ids=ids)
    if not len(opened):
        raise ValueError(f"no images in {source}: looked for the extensions {', '.join(IMAGE_EXTENSIONS)}")
    return opened


def open_sources(names: Sequence[str], **options: Any) -> Source:
    """Opens several sources as one. The ids of each begin with its label: those of a folder a/photos with "photos/".

    A label is the last part of a path without the extension; sources that would have the same one get a number. A
    single source is opened as `open_source` does it, without a label.

    Args:
        names: the sources, each as for `open_source`.
        options: further options of `open_source`.

    Raises:
        ValueError: as `open_source`; or a source is given twice.
    """
    if len(names) == 1:
        return open_source(names[0], **options)
    labels: list[str] = []
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"{printable(name)} is given twice: remove one of the two")
        label = stem(os.path.basename(name.rstrip("/")) or name)
        same = sum(one == label or one.startswith(f"{label} ") for one in labels)
        labels.append(f"{label} {same + 1}" if same else label)
    opened = [open_source(name, **options) for name in names]
    ids, paths = StringList(), StringList()
    for label, source in zip(labels, opened, strict=True):
        has_it = all(one.startswith(f"{label}/") for one in source.ids)  # those of a tar file have
        ids.extend(one if has_it else f"{label}/{one}" for one in source.ids)
        paths.extend(source.paths)
    ends = list(itertools.accumulate(map(len, opened)))

    def record(index: int) -> bytes:
        number = bisect.bisect_right(ends, index)
        return opened[number].load(index - ends[number] + len(opened[number]))

    files = [file for source in opened for file in source.files]
    return Source(", ".join(names), ids, paths, None if all(s.record is None for s in opened) else record, files)


def is_bundled(source: str) -> bool:
    """Returns whether a source is the bundled photographs: it is "sample", and no file or folder here has this name."""
    return source == SAMPLE and not os.path.exists(source)


def open_sample() -> Source:
    """Opens the bundled photographs.

    Raises:
        FileNotFoundError: the extra demo is not installed; the error says what to install.
    """
    from sscd_jax.data.sample import photograph_paths

    photographs = photograph_paths()
    files = [str(path) for path in photographs.values()]
    return Source(SAMPLE, list(photographs), files, files=files, regular=True)


def list_files(source: str) -> tuple[Sequence[str], Sequence[str]]:
    """Lists the files of a folder, of a list of paths, or of a single archive or image, which `open_files` opens.

    Returns:
        The names of images and archives, relative to the folder or as in the list, and their paths.

    Raises:
        ValueError: there is no such file or folder, it has no image, or it is a pack or contains one.
        OSError: a store does not answer.
    """
    if source == STDIN:
        if sys.stdin.isatty():
            raise ValueError(
                f"{STDIN} reads paths from standard input, which is a terminal: pipe a list of paths into it"
            )
        return _list(source, sys.stdin.buffer.read())
    if is_url(source):
        return [source], [source]
    if storage.is_folder(source):
        return _folder(source)
    if not storage.exists(source):
        raise ValueError(
            f"{printable(source)}: no such folder or file; give a folder, an image, a text file of paths, a .tar or "
            ".parquet file, tfds:NAME, or sample"
        )
    if source.lower().endswith((".tar.gz", ".tgz")):
        raise ValueError(f"{source}: compressed tar files cannot be read at random: decompress it")
    if source.lower().endswith(folders.KNOWN) or _is_image(source):
        if not storage.in_store(source) and not os.path.isfile(source):
            raise ValueError(f"{printable(source)} is not a regular file")
        return [os.path.basename(source)], [source]
    if not storage.in_store(source) and stat.S_ISCHR(os.stat(source).st_mode):  # such as /dev/zero, without an end
        raise ValueError(f"{printable(source)} is a device; for a list of paths on standard input, give {STDIN}")
    return _list(source, storage.read_bytes(source))


def _is_image(path: str) -> bool:
    """Returns whether a file on disk begins like an image. A pipe, which can be read only once, is taken for a list."""
    if storage.in_store(path) or not os.path.isfile(path):
        return False
    with open(path, "rb") as file:
        return folders.is_image(file.read(32))


def _folder(folder: str) -> tuple[Sequence[str], Sequence[str]]:
    folder = folder.rstrip("/") if storage.in_store(folder) else str(Path(folder))  # ./photos becomes photos
    paths = folders.list_folder(folder)
    if not paths:
        extensions = ", ".join(folders.KNOWN)
        opened = "" if storage.in_store(folder) else ", and at the first bytes of files with unknown extensions"
        raise ValueError(
            f"no images in {printable(folder)}: looked in it and below for the extensions {extensions}{opened}"
        )
    prefix = os.path.join(folder, "")
    return MappedStrings(paths, lambda path: path.removeprefix(prefix)), paths


def _list(file: str, data: bytes) -> tuple[Sequence[str], Sequence[str]]:
    by_zeros = b"\0" in data  # as find -print0 separates names, which may have line breaks
    names = StringList(_lines(data, by_zeros=by_zeros))
    folder = "" if file == STDIN else os.path.dirname(file)
    paths: Sequence[str] = names
    if folder:
        paths = MappedStrings(names, lambda name: name if "://" in name else os.path.join(folder, name))
    if (by_zeros or not _is_unicode(data)) and not any(map(_may_exist, paths)):
        raise ValueError(f"{printable(file)} is not a text file of paths: name a folder, an image or a list of paths")
    if not names:
        raise ValueError(
            f"no paths in {'standard input' if file == STDIN else printable(file)}: it should have one on each line"
        )
    return names, paths


def _lines(data: bytes, *, by_zeros: bool) -> Iterator[str]:
    """Yields the names in a list, without splitting all of it at once."""
    start = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    while start < len(data):
        end = data.find(b"\0" if by_zeros else b"\n", start)
        end = len(data) if end < 0 else end
        line = data[start:end].decode("utf-8", "surrogateescape")
        if line := line if by_zeros else line.strip():
            yield line
        start = end + 1


def _is_unicode(data: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(data), _READ):
            decoder.decode(data[start : start + _READ])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _may_exist(path: str) -> bool:
    try:
        return storage.in_store(path) or os.path.lexists(path)
    except OSError:  # it is too long for a path
        return False


def open_files(source: str, names: Sequence[str], paths: Sequence[str], *, ids: IdRule = "stem") -> Source:
    """Opens images and archives as one source. An archive is replaced by the images in it.

    Args:
        source: the name of the source.
        names: the names of the files, from which the ids are made.
        paths: the paths of the files.
        ids: as for `open_source`.

    Raises:
        ImportError: a file is a Parquet file and the extra parquet is not installed.
    """
    if not any(path.lower().endswith(ARCHIVES) for path in paths):
        regular = os.path.isdir(source) or all(storage.in_store(path) and not is_url(path) for path in paths)
        return Source(source, unique_ids(MappedStrings(names, stem), names, ids), paths, files=paths, regular=regular)
    stems, full, places = StringList(), StringList(), StringList()  # `full` are names with all extensions
    firsts = array("q")  # the index of the first image of each file
    readers: dict[int, Callable[[int], bytes]] = {}  # of the files that are archives
    for name, path in zip(tqdm(names, desc="listing", unit="file", dynamic_ncols=True), paths, strict=True):
        firsts.append(len(stems))
        try:
            archive = open_archive(path)
        except ValueError as error:  # a Parquet file of something else
            archive = unread(storage.DamagedError(str(error)))
        if archive:
            stems.extend(f"{stem(name)}/{stem(inside)}" for inside in archive.names)
            full.extend(f"{name}/{inside}" for inside in archive.names)
            places.extend(f"{path}/{stem(inside)}" for inside in archive.names)
            readers[len(firsts) - 1] = archive.read
        else:
            stems.append(stem(name))
            full.append(name)
            places.append(path)

    def record(index: int) -> bytes:
        file = bisect.bisect_right(firsts, index) - 1
        return readers[file](index - firsts[file]) if file in readers else read_file(places[index])

    return Source(source, unique_ids(stems, full, ids), places, record, paths)
