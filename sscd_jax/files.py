"""Atomic writing of files and folders, and the folder of caches.

Data is written under a temporary name in the same folder, flushed to the disk, and then renamed. A reader sees the old
file or the new one and never a part of it, and a process that is killed or a computer that is switched off leaves the
old file as it was. (The rename itself is not flushed: after a power failure, the old file may be there again.)
"""

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

_TEMPORARY = re.compile(r"\..*\.[0-9a-f]{12}\.tmp")
# What numpy and zipfile raise where an .npz file is damaged. A RuntimeError says that it is encrypted, or of a later
# version.
NPZ_ERRORS = (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
_FULL = (errno.ENOSPC, errno.EDQUOT)
LOCK = ".lock"  # in folders in which one process works at a time
_OF_DESKTOPS = {".DS_Store", "Thumbs.db", "desktop.ini"}  # file managers leave them in any folder


@dataclass(frozen=True)
class FolderKind:
    """A kind of folder that this package writes, and how it tells its own folders from those of others.

    Attributes:
        format: the name of the format.
        version: its version.
        pattern: a regular expression of the paths of all files, relative to the folder, with slashes.
        markers: JSON files with the keys "format" and "version", one of which at least the folder has.
    """

    format: str
    version: int
    pattern: str
    markers: tuple[str, ...]

    def has(self, name: str) -> bool:
        """Returns whether a folder of this kind may contain a file of this relative path."""
        folder, _, last = name.rpartition("/")
        return re.fullmatch(self.pattern, name) is not None or (
            is_temporary(last) and (not folder or any(one.startswith(f"{folder}/") for one in self.markers))
        )

    def check(self, folder: Any) -> None:
        """Checks that a folder may be written to or replaced: it does not exist, is empty, or is ours.

        Args:
            folder: the path, a `pathlib.Path` or, in a store, an `epath.Path`.

        Raises:
            ValueError: it is a file, or holds something that this package did not write; the error names it.
        """
        if not folder.exists():
            return
        if not folder.is_dir():
            raise ValueError(f"{folder} is a file, not a folder: name another folder")
        begun = {marker.rpartition("/")[0] for marker in self.markers}  # a process was killed before it wrote more
        files = [
            name for name in list_files(folder) if name not in {*begun, LOCK} and not is_temporary(name.split("/")[-1])
        ]
        if not files:
            return
        marked = [self._mark(folder / name) for name in self.markers]
        if not any(marked):
            raise ValueError(
                f"{folder} exists already and is not a folder of {self.format}: it holds {files[0]}; name another "
                "folder"
            )
        for kind, version in filter(None, marked):
            if kind != self.format:
                raise ValueError(f"{folder} holds {kind}, not {self.format}: name another folder")
            if version != self.version:
                raise ValueError(
                    f"{folder} holds {kind}, version {version}, which this version of the package does not write: name "
                    "another folder"
                )
        if foreign := [name for name in files if not self.has(name)]:
            raise ValueError(
                f"{folder / foreign[0]} is in the way: this package did not write it, and it is in a folder of "
                f"{self.format}; move it elsewhere, or name another folder"
            )

    def begin(self, folder: Path) -> None:
        """Makes a folder with its first marker, or checks that it is one of ours.

        Raises:
            ValueError: it holds something else; the error names it.
        """
        self.check(folder)
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / self.markers[0]).exists():
            write_text(folder / self.markers[0], json.dumps({"format": self.format, "version": self.version}))

    @contextmanager
    def locked(self, folder: Path) -> Iterator[None]:
        """Begins a folder, and keeps other processes from working in it while the block runs.

        Raises:
            ValueError: it holds something else.
            OSError: another process is at work in it.
        """
        import filelock

        self.begin(folder)
        lock = filelock.FileLock(folder / LOCK, timeout=0)
        try:
            lock.acquire()
        except filelock.Timeout as error:
            raise OSError(f"another process is at work in {folder}: wait for it, or name another folder") from error
        try:
            yield
        finally:
            lock.release()

    def _mark(self, file: Any) -> tuple[Any, Any] | None:
        try:
            made = json.loads(file.read_text())
            return str(made["format"]), made.get("version")
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None


def check_file(path: Path, read: Callable[[Path], object]) -> None:
    """Checks that a file may be written or replaced: it does not exist, is empty, or is ours.

    Args:
        path: the file.
        read: reads the file, and raises an error if this package did not write it.

    Raises:
        ValueError: the file is something that this package did not write.
    """
    if not path.is_file() or not path.stat().st_size:
        return
    try:
        read(path)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} exists already and is not what would be written there: move it or name another place"
        ) from error


def list_files(folder: Any) -> list[str]:
    """Returns the paths of all files in a folder and below it, relative and with slashes, sorted.

    Links and empty folders count as files. Files that file managers leave in every folder are left out.

    Args:
        folder: a `pathlib.Path` or an `epath.Path`.
    """
    found: list[str] = []
    for path in folder.iterdir():
        if path.is_dir() and not (isinstance(path, Path) and path.is_symlink()):
            below = list_files(path)
            found += [f"{path.name}/{name}" for name in below] if below else [path.name]
        elif path.name not in _OF_DESKTOPS:
            found.append(path.name)
    return sorted(found)


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
        if not special:
            temporary.touch(exist_ok=False)  # libraries in C++ do not say why they cannot
        yield temporary
        if not special:
            flush(temporary)
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
def atomic_folder(path: str | os.PathLike[str], check: Callable[[Path], object]) -> Iterator[Path]:
    """Yields a new temporary folder to fill. When the block ends, it replaces `path`, if that exists.

    After an error in the block, the temporary folder is removed and `path` is unchanged. No system replaces a folder
    that is not empty in one step: a process that is killed between the two renames leaves the old folder under a
    temporary name. Files that appear in the old folder after `check` are not ours: they are kept, in the new folder.

    Args:
        path: the folder. Missing folders above it are created.
        check: raises an error if the folder exists and may not be replaced, as `FolderKind.check` does.

    Raises:
        OSError: the folder cannot be written; the error names `path`.
    """
    check(Path(path))
    target = Path(os.path.realpath(path))
    temporary, replaced = _beside(target), _beside(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
        yield temporary
        written = [file for file in temporary.rglob("*") if file.is_file() and not file.is_symlink()]
        with ThreadPoolExecutor(16) as pool:  # a disk flushes many files together in the time of a few
            list(pool.map(flush, written))
        check(Path(path))  # the block may have taken hours
        ours = list_files(target) if target.is_dir() else []
        if target.is_dir():
            target.rename(replaced)
        try:
            temporary.rename(target)
        except BaseException:
            if replaced.exists():
                replaced.rename(target)
            raise
        if replaced.exists():
            _remove_files(replaced, ours, rest_to=target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _name(error, temporary, path)
        raise


def _remove_files(folder: Path, names: list[str], *, rest_to: Path) -> None:
    """Removes files of a folder, moves what else it holds to another folder, and removes the folder."""
    for name in names:
        with contextlib.suppress(OSError):
            (folder / name).unlink() if not (folder / name).is_dir() else (folder / name).rmdir()
    for parent, folders, files in os.walk(folder, topdown=False):
        inside = Path(parent).relative_to(folder)
        for name in files:
            with contextlib.suppress(OSError):
                (rest_to / inside).mkdir(parents=True, exist_ok=True)
                if not (rest_to / inside / name).exists():
                    (Path(parent) / name).rename(rest_to / inside / name)
        for name in (*folders, "."):
            with contextlib.suppress(OSError):
                (Path(parent) / name).rmdir()


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


def flush(path: str | os.PathLike[str]) -> None:
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
