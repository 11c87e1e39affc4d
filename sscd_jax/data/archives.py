"""Reads images by index from tar files in webdataset's layout and from Parquet files, without unpacking them.

An image that cannot be read raises an OSError that says why; the other images of the archive are not affected.
"""

import posixpath
import tarfile
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sscd_jax.data import storage
from sscd_jax.data.names import IMAGE_EXTENSIONS
from sscd_jax.data.parquet import Column
from sscd_jax.string_list import StringList

MAX_BYTES = 1 << 30  # larger encoded images are refused


@dataclass(frozen=True)
class Archive:
    """The images of an archive.

    Attributes:
        names: the names of the images in the archive.
        read: a function that returns the bytes of the k-th image, or raises OSError if it cannot be read.
    """

    names: Sequence[str]
    read: Callable[[int], bytes]


def open_archive(path: str) -> Archive | None:
    """Opens an archive. Returns None if the extension is not that of an archive.

    Raises:
        ValueError: a Parquet file has no column of images, or several of which none is named image.
        ImportError: the file is a Parquet file and the extra parquet is not installed.
    """
    lower = path.lower()
    if lower.endswith(".tar"):
        return _tar(path)
    if lower.endswith(".parquet"):
        return _parquet(path)
    return None


def _tar(path: str) -> Archive:
    """Opens a tar file in webdataset's layout. Members without an image's extension are skipped."""
    names = StringList()
    offsets, sizes = array("q"), array("q")
    reasons: dict[int, str] = {}  # why images cannot be read

    def add(name: str, place: tuple[int, int] | str) -> None:
        if isinstance(place, str):
            reasons[len(names)], place = place, (0, 0)
        names.append(name)
        offsets.append(place[0])
        sizes.append(place[1])

    try:
        length, _ = storage.status(path)
        with storage.open_file(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if not member.name.lower().endswith(IMAGE_EXTENSIONS) or member.isdir():
                    continue
                name = posixpath.normpath(member.name)
                if name.startswith(("/", "../")):
                    add(name, "its name leads out of the archive")
                elif not member.isreg() or member.issparse():
                    add(name, "it is a link or a special file in the archive")
                elif member.size > MAX_BYTES:
                    add(name, f"it has {member.size} bytes, more than {MAX_BYTES}")
                elif member.offset_data + member.size > length:
                    add(name, "the archive is truncated")
                else:
                    add(name, (member.offset_data, member.size))
            file.seek(archive.offset)
            if any(file.read(tarfile.BLOCKSIZE)):  # tarfile mistakes damage for the end, a block of zeros
                raise tarfile.ReadError(f"no header at byte {archive.offset}")
    except OSError as error:
        if not names:
            return unread(error)
        # Not to be taken for the end of the archive.
        raise OSError(f"{path} cannot be listed: {error}; rerun the command when the file can be read") from error
    except Exception as error:  # tarfile raises many types; how many images follow is not known
        add("?", f"the archive is damaged after {len(names)} images: {error}")

    def read(k: int) -> bytes:
        if k in reasons:
            raise storage.DamagedError(reasons[k])
        return storage.read_part(path, offsets[k], sizes[k])

    return Archive(names, read)


def _parquet(path: str) -> Archive:
    """Opens a Parquet file with a column of encoded images: binary, or a struct with a field `bytes` (Hugging Face)."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"{posixpath.basename(path)}: Parquet needs the extra parquet: pip install 'sscd_jax[parquet]'"
        ) from error
    try:
        with storage.open_file(path) as opened:
            file = pyarrow.parquet.ParquetFile(opened)
            schema, counts = file.schema_arrow, _row_counts(file)
    except OSError as error:
        return unread(error)
    except Exception as error:  # pyarrow raises many types on damaged metadata
        return unread(storage.DamagedError(f"the archive cannot be read: {error}"))
    columns = {}
    for field in schema:
        if pyarrow.types.is_struct(field.type):
            if any(inner.name == "bytes" and _is_binary(inner.type) for inner in field.type):
                columns[field.name] = f"{field.name}.bytes"
        elif _is_binary(field.type):
            columns[field.name] = field.name
    name = "image" if "image" in columns else next(iter(columns), "")
    if name != "image" and len(columns) != 1:
        found = ", ".join(columns) or "none"
        raise ValueError(
            f"{posixpath.basename(path)} needs a column of encoded images (binary, or a struct with a field bytes): "
            f"one named image, or only one; found {found}"
        )
    column = Column(path, name, columns[name], counts)
    return Archive(StringList(f"{row:08d}" for row in range(len(column))), column.read)


def unread(error: OSError) -> Archive:
    """Returns an archive that cannot be opened: one image, which says why."""

    def fail(_: int) -> bytes:
        raise error

    return Archive(["?"], fail)


def _row_counts(file: Any) -> list[int]:
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def _is_binary(kind: Any) -> bool:
    import pyarrow

    return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)
