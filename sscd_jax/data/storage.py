"""Access to files by path: on disk, or in a store (gs:// or any other scheme of TensorFlow) through tf.io.gfile."""

import contextlib
import io
import os
import posixpath
import re
import shutil
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from sscd_jax.files import atomic_file, temporary_name

PART_BYTES = 8 << 20  # what one request of `copy_to_disk` reads at least
_PARTS_AT_ONCE = 8
_READAHEAD = "GCS_READAHEAD_BUFFER_SIZE_BYTES"


SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")  # also with one slash, as pathlib leaves it


class DamagedError(OSError):
    """The bytes arrived and are not those of an image, so that another attempt would find the same."""


def in_store(path: str) -> bool:
    """Returns whether a path has a scheme, as gs://BUCKET/NAME has."""
    return "://" in path


def check_place(path: str, schemes: Collection[str] = ("gs",)) -> None:
    """Checks that files can be written below a path. A path with a scheme must be one in a store.

    Raises:
        ValueError: the path has another scheme than `schemes`, or it names no bucket, such as gs:/BUCKET/NAME.
    """
    scheme = SCHEME.match(path)
    if scheme and not (scheme[1] in schemes and re.match(r"file://|\w+://[^/]", path)):
        raise ValueError(f"{path}: give a folder on this machine, or one in a bucket, such as gs://BUCKET/FOLDER")


def is_folder(path: str) -> bool:
    """Returns whether there is a folder at this path.

    Raises:
        OSError: the store does not answer.
    """
    if not in_store(path):
        return os.path.isdir(path)
    with _os_errors():
        return _gfile().isdir(path)


def exists(path: str) -> bool:
    """Returns whether there is a file or a folder at this path.

    Raises:
        OSError: the store does not answer.
    """
    if not in_store(path):
        return os.path.exists(path)
    with _os_errors():
        return _gfile().exists(path)


def list_folder(folder: str) -> list[str]:
    """Returns the names of what is in a folder. In a store, names of folders may end in a slash.

    Raises:
        OSError: the folder cannot be listed.
    """
    if not in_store(folder):
        return os.listdir(folder)
    with _os_errors():
        return _gfile().listdir(folder)


def status(path: str) -> tuple[int, int]:
    """Returns the size of a file in bytes, and the time when it was written in nanoseconds since 1970.

    Raises:
        OSError: there is no such file.
    """
    if not in_store(path):
        found = os.stat(path)
        return found.st_size, found.st_mtime_ns
    with _os_errors():
        there = _gfile().stat(path)
        return there.length, there.mtime_nsec


def read_bytes(path: str) -> bytes:
    """Returns the content of a file.

    Raises:
        OSError: the file cannot be read.
    """
    if not in_store(path):
        return Path(path).read_bytes()
    import tensorflow as tf

    with _os_errors():
        return tf.io.read_file(path).numpy()  # one request; GFile makes one for each 512 KiB


def read_part(path: str, offset: int, length: int) -> bytes:
    """Returns `length` bytes of a file from an offset, or fewer where the file ends earlier.

    Raises:
        OSError: the file cannot be read.
    """
    if not in_store(path):
        with open(path, "rb", buffering=0) as file:
            file.seek(offset)
            parts = [file.read(length)]
            while parts[-1] and (left := length - sum(map(len, parts))):  # a read may return less than was asked for
                parts.append(file.read(left))
            return b"".join(parts)
    with _os_errors(), _gfile().GFile(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def copy_to_disk(path: str, local: str) -> None:
    """Copies a file from a store to the disk. It reads every byte once, in parts, several at a time.

    A part of gs:// is one request if `limit_readahead(PART_BYTES)` was called in time. TensorFlow repeats requests that
    fail for a passing reason, with growing pauses.

    Args:
        path: the file in the store.
        local: the new file on the disk, which gets the time of the one in the store.

    Raises:
        FileNotFoundError: there is no such file in the store.
        OSError: the store does not answer, the file was replaced meanwhile, or the disk is full; the error names both.
    """
    size, time = status(path)
    folder = os.path.dirname(local)
    part = max(PART_BYTES, int(os.environ.get(_READAHEAD, 0)) - 1)

    def copy(start: int) -> None:
        data = read_part(path, start, min(part, size - start))
        if len(data) != min(part, size - start):
            raise OSError(f"{len(data)} bytes were read at byte {start} of {size}: was it replaced meanwhile?")
        with open(local, "r+b") as file:
            file.seek(start)
            file.write(data)

    try:
        if (free := shutil.disk_usage(folder).free) < size:
            raise OSError(f"it has {size} bytes and {free} are free: set TMPDIR to a folder with more space")
        with open(local, "wb") as file, ThreadPoolExecutor(_PARTS_AT_ONCE) as pool:
            file.truncate(size)
            list(pool.map(copy, range(0, size, part)))
        if status(path) != (size, time):
            raise OSError("it was replaced meanwhile")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(f"{path} cannot be copied to {folder}: {error.strerror or error}") from error
    os.utime(local, ns=(time, time))


@contextlib.contextmanager
def open_file(path: str) -> Iterator[IO[bytes]]:
    """Opens a file to be read as bytes, from any position.

    Raises:
        OSError: the file cannot be opened or read.
    """
    if not in_store(path):
        with open(path, "rb") as file:
            yield file
        return
    with _os_errors(), _gfile().GFile(path, "rb") as file:
        yield io.BufferedReader(_Reader(file))


class _Reader(io.RawIOBase):
    """A GFile with the methods that pyarrow needs, which may also seek beyond its end."""

    def __init__(self, file: Any) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: lambda: 0, os.SEEK_CUR: self.tell, os.SEEK_END: self._file.size}[whence]()
        self._position = start + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Any) -> int:
        import tensorflow as tf

        try:
            if self._file.tell() != self._position:
                self._file.seek(self._position)
            data = self._file.read(len(buffer))
        except tf.errors.OutOfRangeError:
            return 0
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)


class _Writer(io.RawIOBase):
    """A GFile, which takes nothing but bytes, as a file that takes any buffer."""

    def __init__(self, file: Any) -> None:
        self._file = file
        file.write(b"")  # so that a file to which nothing is written exists, too

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(bytes(data))
        return len(data)


def make_folder(path: str) -> None:
    """Creates a folder and those above it, where they do not exist.

    Raises:
        OSError: the folder cannot be created.
    """
    if not in_store(path):
        os.makedirs(path, exist_ok=True)
        return
    with _os_errors():
        _gfile().makedirs(path)


@contextlib.contextmanager
def atomic_writer(path: str) -> Iterator[IO[bytes]]:
    """Opens a file to be written as bytes, which takes the place of `path` when the block ends without an error.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    if not in_store(path):
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            yield file
        return
    folder, name = posixpath.split(path)
    written = posixpath.join(folder, temporary_name(name))
    try:
        with _os_errors(), _gfile().GFile(written, "wb") as file, io.BufferedWriter(_Writer(file)) as buffered:
            yield buffered
        with _os_errors():
            _gfile().rename(written, path, overwrite=True)
    except BaseException as error:
        with contextlib.suppress(OSError):
            remove(written)
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


def write_bytes(path: str, data: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    with atomic_writer(path) as file:
        file.write(data)


def remove(path: str) -> None:
    """Removes a file.

    Raises:
        OSError: the file cannot be removed or does not exist.
    """
    if not in_store(path):
        os.remove(path)
        return
    with _os_errors():
        _gfile().remove(path)


def limit_readahead(size: int = 512 << 10) -> None:
    """Limits how many bytes tf.io.gfile reads ahead from gs://, which are 64 MiB otherwise: more than an image has.

    GFile reads 512 KiB at a time, and one byte before them when it seeks. TensorFlow reads this setting when it is
    imported, so a program that imports TensorFlow before it reads gs:// must call this function first.

    Args:
        size: the number of bytes that one request reads at least, if the file has them. A setting that is there stays.
    """
    os.environ.setdefault(_READAHEAD, str(size + 1))


def _gfile() -> Any:
    limit_readahead()
    import tensorflow as tf

    return tf.io.gfile


@contextlib.contextmanager
def _os_errors() -> Iterator[None]:
    import tensorflow as tf

    try:
        yield
    except tf.errors.NotFoundError as error:
        raise FileNotFoundError(error.message or "there is no such file") from error
    except tf.errors.OpError as error:
        raise OSError(f"{type(error).__name__}: {error.message}") from error
