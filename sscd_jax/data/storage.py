"""Files by their paths: on disk, or in a store (gs://, any scheme that TensorFlow knows) through tf.io.gfile."""

import contextlib
import io
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any


def in_store(path: str) -> bool:
    """Whether it has a scheme, as gs://BUCKET/NAME."""
    return "://" in path


def is_folder(path: str) -> bool:
    """Whether it is a folder.

    Raises:
        OSError: the store cannot be asked.
    """
    if not in_store(path):
        return os.path.isdir(path)
    with _os_errors():
        return _gfile().isdir(path)


def exists(path: str) -> bool:
    """Whether it is a file or a folder.

    Raises:
        OSError: the store cannot be asked.
    """
    if not in_store(path):
        return os.path.exists(path)
    with _os_errors():
        return _gfile().exists(path)


def names(folder: str) -> list[str]:
    """Of what is in a folder; of a store's, those of folders may end in a slash.

    Raises:
        OSError: it cannot be listed.
    """
    if not in_store(folder):
        return os.listdir(folder)
    with _os_errors():
        return _gfile().listdir(folder)


def status(path: str) -> tuple[int, int]:
    """Bytes of a file, and when it was written, in nanoseconds.

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
    """A whole file.

    Raises:
        OSError: it cannot be read.
    """
    if not in_store(path):
        return Path(path).read_bytes()
    import tensorflow as tf

    with _os_errors():
        return tf.io.read_file(path).numpy()  # one request, where GFile makes one for each 512 KiB


def read_part(path: str, offset: int, length: int) -> bytes:
    """Bytes of a file from an offset; fewer where it ends before. Threads may call it side by side.

    Raises:
        OSError: it cannot be read.
    """
    if not in_store(path):
        with open(path, "rb", buffering=0) as file:
            return os.pread(file.fileno(), length, offset)
    with _os_errors(), _gfile().GFile(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


@contextlib.contextmanager
def open_file(path: str, mode: str) -> Iterator[IO[Any]]:
    """A file to read or write in binary, by the modes rb and wb.

    Raises:
        OSError: it cannot be opened, read or written.
    """
    if not in_store(path):
        with open(path, mode) as file:
            yield file
        return
    with _os_errors(), _gfile().GFile(path, mode) as file:
        yield io.BufferedReader(_Reader(file)) if mode == "rb" else file


class _Reader(io.RawIOBase):
    """A GFile with what pyarrow asks of a file, and that can be put beyond its end."""

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


def make_folder(path: str) -> None:
    """Makes a folder and those above it; it may be there.

    Raises:
        OSError: it cannot be made.
    """
    if not in_store(path):
        os.makedirs(path, exist_ok=True)
        return
    with _os_errors():
        _gfile().makedirs(path)


def write_whole(path: str, write: Callable[[IO[bytes]], Any]) -> None:
    """Writes a file under another name, and renames it when it is whole: it is never there in part.

    Raises:
        OSError: it cannot be written.
    """
    unfinished = f"{path}.unfinished-{uuid.uuid4().hex}"
    try:
        with open_file(unfinished, "wb") as file:
            write(file)
            if not in_store(path):
                file.flush()
                os.fsync(file.fileno())
        if in_store(path):
            with _os_errors():
                _gfile().rename(unfinished, path, overwrite=True)
        else:
            os.replace(unfinished, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            remove(unfinished)
        if isinstance(error, OSError):
            raise OSError(f"{path} cannot be written: {error.strerror or error}") from error
        raise


def remove(path: str) -> None:
    """Removes a file.

    Raises:
        OSError: it cannot be removed, or is not there.
    """
    if not in_store(path):
        os.remove(path)
        return
    with _os_errors():
        _gfile().remove(path)


def limit_readahead() -> None:
    """Limits what tf.io.gfile reads ahead from gs://, by default 64 MiB, where an image may be all that is wanted.

    GFile reads 512 KiB at a time, and one byte before them when it seeks. TensorFlow reads this setting when it is
    imported, so a program that imports TensorFlow before it reads gs:// must call this function first.
    """
    os.environ.setdefault("GCS_READAHEAD_BUFFER_SIZE_BYTES", str(512 * 1024 + 1))


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
