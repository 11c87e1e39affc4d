"""Finds the images and archives in folders, on disk and in stores, and says what is left out and why."""

import contextlib
import functools
import mimetypes
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator

from sscd_jax.data import storage
from sscd_jax.data.names import ARCHIVES, IMAGE_EXTENSIONS, printable
from sscd_jax.data.pack_reader import MADE_BY
from sscd_jax.string_list import StringList

KNOWN = IMAGE_EXTENSIONS + ARCHIVES
# They begin like TIFF, and Pillow would read the small preview in them.
_RAW = (
    *(".3fr", ".arw", ".cr2", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mef", ".mos", ".nef", ".nrw", ".orf"),
    *(".pef", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw"),
)
_HEAD = 32  # bytes
_MAGIC = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n\x1a\n|GIF8[79]a|RIFF.{4}WEBP|BM.{12}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"
    rb"|II\*\0|MM\0\*|II\+\0|MM\0\+|\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51|P[1-6]\s"
    rb"|.{4}ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1|avi[fs])",
    re.DOTALL,
)


def is_image(head: bytes) -> bool:
    """Returns whether the first 32 bytes of a file are those of an image of a format that is read."""
    return _MAGIC.match(head) is not None


def list_folder(folder: str) -> StringList:
    """Returns the paths of the images and archives in a folder and below, in order.

    On disk, a file without an extension, or with one that is not known, is an image if its first bytes are those of
    one. In a store, where opening a file is a request, the extension alone decides. Links to folders are followed; each
    folder is entered once, by the path without links if there is one. One line on stderr says what was left out.

    Raises:
        ValueError: the folder contains a pack.
        OSError: a store does not answer.
    """
    left_out: Counter[str] = Counter()
    examples: dict[str, str] = {}

    def found() -> Iterator[str]:
        for parent, files in _walk_store(folder) if storage.in_store(folder) else _walk(folder):
            if MADE_BY in files:
                hint = "which is not read as a folder of tar files: name the pack itself"
                raise ValueError(f"{parent} is a pack, {hint}")
            for name, reason in files.items():
                path = os.path.join(parent, name)
                if reason:
                    left_out[reason] += 1
                    examples.setdefault(reason, printable(path.removeprefix(os.path.join(folder, ""))))
                else:
                    yield path

    paths = StringList.sorted(found())
    if left_out:
        parts = [f"{reason} ({count}, such as {examples[reason]})" for reason, count in left_out.most_common()]
        count = left_out.total()
        total = "1 file is" if count == 1 else f"{count} files are"
        print(f"{printable(folder)}: {total} left out: {'; '.join(parts)}", file=sys.stderr)
    return paths


def _walk(folder: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yields each folder, and for the name of each of its files the reason to leave it out, or "" if there is none."""
    entered: set[tuple[int, int]] = set()
    starts = [folder]
    while starts:  # first the folder itself, then what links in it lead to, then what links there lead to
        links: list[str] = []
        waiting = starts[::-1]
        while waiting:
            parent = waiting.pop()
            files: dict[str, str] = {}
            try:
                status = os.stat(parent)
                if (status.st_dev, status.st_ino) in entered:
                    continue
                entered.add((status.st_dev, status.st_ino))
                with os.scandir(parent) as entries:
                    for entry in entries:
                        if not _is_folder(entry):
                            files[entry.name] = _why_not(entry)
                        elif entry.is_symlink():
                            links.append(entry.path)
                        else:
                            waiting.append(entry.path)
            except OSError as error:
                _report(parent, error)
                continue
            yield parent, files
        starts = sorted(links)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with contextlib.suppress(OSError):  # as of a link to itself
        return entry.is_dir()
    return False


def _why_not(entry: os.DirEntry[str]) -> str:
    """Returns why a file on disk is left out, or "" if it is an image or an archive."""
    is_known = entry.name.lower().endswith(KNOWN)
    try:
        if not entry.is_file() and (not entry.is_symlink() or os.path.exists(entry.path)):
            return "not a regular file"
        if is_known:  # also a link to a file that is missing, which is reported as an image that cannot be read
            return ""
        if reason := _by_name(entry.name):
            return reason
        with open(entry.path, "rb", buffering=0) as file:
            return "" if is_image(file.read(_HEAD)) else "not an image by its first bytes"
    except OSError:
        return "" if is_known else "without an extension of an image, and cannot be opened"


def _by_name(name: str) -> str:
    if name.startswith("."):
        return "hidden, without an extension of an image"
    extension = os.path.splitext(name)[1].lower()
    if extension in _RAW:
        return "a raw file of a camera, which must be converted first"
    kind = _types().get(extension, "image/")
    return "" if kind.startswith("image/") or kind.endswith("octet-stream") else "not an image by its extension"


@functools.cache
def _types() -> dict[str, str]:
    return mimetypes.MimeTypes().types_map[True]  # those of Python, not those of this computer


def _walk_store(folder: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Does the same in a store. (tf.io.gfile.walk makes a request for each image, to ask whether it is a folder.)"""
    try:
        listed = storage.list_folder(folder)
        files = {name: "" for name in listed if name.lower().endswith((*KNOWN, MADE_BY))}
        others = [name for name in listed if name not in files]
        folders = [name for name in others if name.endswith("/") or storage.is_folder(os.path.join(folder, name))]
    except OSError as error:
        _report(folder, error)
        return
    reason = "without an extension of an image, and files in a store are not opened to see what they are"
    yield folder, dict(sorted(files.items())) | {name: reason for name in others if name not in folders}
    for name in folders:
        yield from _walk_store(os.path.join(folder, name.rstrip("/")))


def _report(folder: str, error: OSError) -> None:
    reason = error.strerror or str(error)
    print(f"cannot search {printable(folder)}, whose images are left out: {printable(reason)}", file=sys.stderr)
