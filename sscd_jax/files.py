"""Files and folders that are written whole or not at all, and the folder of caches.

What is written gets a temporary name in the same folder, is flushed to the disk, and is then renamed: a reader sees the
old file or the new one, never a part, and a process that is killed leaves what was there before.
"""

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs


def cache_folder(name: str) -> Path:
    """The folder for one kind of files that are made or fetched once, below the user's cache folder.

    Args:
        name: the kind of files, as "weights".

    Returns:
        The path, as ~/.cache/sscd_jax/weights on Linux, where $XDG_CACHE_HOME is honored; it may not exist yet.
    """
    return platformdirs.user_cache_path("sscd_jax", appauthor=False) / name


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path to write to; on leaving, the file there takes the place of `path`.

    After an error within, the temporary file is removed and `path` is as before.

    Args:
        path: the file; its folder must exist.

    Raises:
        OSError: the file cannot be written; names `path`.

    Example:
        >>> with atomic_file("vectors.npy") as temporary, temporary.open("wb") as file:
        ...     np.save(file, vectors)
    """
    path = Path(path)
    temporary = _temporary_name(path)
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        raise _naming(error, temporary, path) from error.__cause__


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a new temporary folder to fill; on leaving it takes the place of `path`, which is removed if it is there.

    The caller checks before that what is there may be replaced. After an error within, the temporary folder is removed
    and `path` is as before.

    Args:
        path: the folder; the one above it is made where it is missing.

    Raises:
        OSError: the folder cannot be written; names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary_name(path)
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _flush(file)
        replaced = _temporary_name(path)
        if path.exists():
            path.rename(replaced)  # a folder that is not empty cannot be replaced by one rename
        temporary.rename(path)
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _naming(error, temporary, path) from error.__cause__


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a file whole or not at all, as UTF-8 with line feeds on every system.

    Raises:
        OSError: it cannot be written; names `path`.
    """
    write_bytes(path, text.encode("utf-8"))


def _temporary_name(path: Path) -> Path:
    """A name beside `path` that no other process takes."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def _flush(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _naming(error: BaseException, temporary: Path, path: Path) -> BaseException:
    """The error, which speaks of the path that was asked for where it named the temporary one."""
    if isinstance(error, OSError) and error.filename is not None and str(error.filename).startswith(str(temporary)):
        error.filename = str(path)
    return error
