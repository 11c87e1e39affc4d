"""Atomic writing of files and folders, and the folder of caches.

Data is written under a temporary name in the same folder, flushed to the disk, and then renamed. A reader sees the old
file or the new one and never a part of it, and a process that is killed or a computer that is switched off leaves the
old file as it was. (The rename itself is not flushed: after a power failure, the old file may be there again.)
"""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import platformdirs

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT)


def cache_folder(name: str) -> Path:
    """Returns the folder for one kind of cached files, below the user's cache folder.

    Args:
        name: the kind of files, such as "weights".

    Returns:
        The path, such as ~/.cache/sscd_jax/weights on Linux, where $XDG_CACHE_HOME is honored. It may not exist yet.
    """
    return platformdirs.user_cache_path("sscd_jax", appauthor=False) / name


@contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary path to write to. When the block ends, that file replaces `path`.

    After an error in the block, the temporary file is removed and `path` is unchanged. A symbolic link stays, and the
    file that it points to is replaced. A file that is replaced keeps its permissions. A device or a pipe cannot be
    replaced and is written to directly.

    Args:
        path: the file. Its folder must exist.

    Raises:
        OSError: the file cannot be written; the error names `path`.

    Examples:
        >>> with atomic_file("vectors.npy") as temporary, temporary.open("wb") as file:
        ...     np.save(file, vectors)
    """
    target = Path(os.path.realpath(path))
    special = target.exists() and not target.is_file() and not target.is_dir()
    temporary = target if special else _beside(target)
    try:
        yield temporary
        if not special:
            _flush(temporary)
            with contextlib.suppress(OSError):  # there is none, or its file system has no permissions
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
    except BaseException as error:
        if not special:
            with contextlib.suppress(OSError):
                temporary.unlink()
        _name(error, temporary, path)
        raise


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a new temporary folder to fill. When the block ends, it replaces `path`, which is removed if it exists.

    The caller first checks that an existing folder may be replaced. After an error in the block, the temporary folder
    is removed and `path` is unchanged. No system replaces a folder that is not empty in one step: a process that is
    killed between the two renames leaves the old folder under a temporary name.

    Args:
        path: the folder. Missing folders above it are created.

    Raises:
        OSError: the folder cannot be written; the error names `path`.
    """
    target = Path(os.path.realpath(path))
    temporary, replaced = _beside(target), _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        written = [file for file in temporary.rglob("*") if file.is_file() and not file.is_symlink()]
        with ThreadPoolExecutor(16) as pool:  # a disk flushes many files together in the time of a few
            list(pool.map(_flush, written))
        if target.is_dir():
            target.rename(replaced)
        try:
            temporary.rename(target)
        except BaseException:
            if replaced.exists():
                replaced.rename(target)
            raise
        shutil.rmtree(replaced, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name(error, temporary, path)
        raise


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Writes a file atomically.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Writes a text file atomically, as UTF-8 with line feeds on every system.

    Raises:
        OSError: the file cannot be written; the error names `path`.
    """
    write_bytes(path, text.encode("utf-8"))


def is_full(error: BaseException) -> bool:
    """Returns whether an error means a full disk or an exhausted quota.

    Libraries in C++ raise errors of other types, whose messages contain the operating system's words.
    """
    return getattr(error, "errno", None) in _FULL or any(os.strerror(code) in str(error) for code in _FULL)


def temporary_name(name: str) -> str:
    """Returns a name for a temporary file beside one of this name, which no other process uses."""
    return f".{name[:40]}.{uuid.uuid4().hex[:12]}.tmp"  # systems allow 255 bytes, and a character has up to four


def is_temporary(name: str) -> bool:
    """Returns whether a file of this name was left by a process that was killed while it wrote."""
    return _TEMPORARY.fullmatch(name) is not None


def _beside(path: Path) -> Path:
    return path.with_name(temporary_name(path.name))


def _flush(path: Path) -> None:
    """Waits until the content of a file is on the disk."""
    # Windows flushes only what may be written; elsewhere a file that was copied may be read-only.
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(error: BaseException, temporary: Path, path: str | os.PathLike[str]) -> None:
    """Makes an error name `path` where it names the temporary path, or no file although the disk is full."""
    if not isinstance(error, OSError):
        return
    if str(error.filename).startswith(str(temporary)) or (
        error.filename is None and error.errno in (*_FULL, errno.EFBIG)
    ):
        inside = str(error.filename or temporary).removeprefix(str(temporary))  # where it is a folder
        error.filename = os.fspath(path) + inside
        del error.filename2  # a rename has two names
