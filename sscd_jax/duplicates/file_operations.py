"""Moves single files, links them, and brings them back, so that their content is on the disk at every moment.

Each function may be interrupted anywhere. `settle` then finds out how far it came, and removes what it left.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import stat

from sscd_jax.duplicates.journal import State, Step, flush_names
from sscd_jax.files import flush

_CANNOT_LINK = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_CHUNK = 2**20


def move(step: Step, source: str, target: str) -> None:
    """Moves a file to a place where nothing is, also on another file system. Missing folders are created.

    Args:
        step: the step, of which `source` and `target` are the two paths, in either order.
        source: the file.
        target: its new path.

    Raises:
        FileExistsError: something is at the new path.
        OSError: the file cannot be moved, and is where it was.
    """
    _make_folder(os.path.dirname(target))
    try:
        _rename(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_to_other_disk(step, source, target)


def link(step: Step) -> None:
    """Replaces a file by a hard link to the one that is kept.

    Raises:
        OSError: their contents differ, or the link cannot be made; the file is as it was.
    """
    if not same_content(step.path, step.to):
        raise OSError("its content is no longer that of the file that its group keeps")
    temporary = step.beside(step.path)
    try:
        os.link(step.to, temporary, follow_symlinks=False)
        os.replace(temporary, step.path)
    except OSError as error:
        if error.errno == errno.EXDEV:
            raise OSError("it is on another file system than the file that its group keeps") from error
        raise
    finally:
        _discard(temporary)


def bring_back(step: Step) -> None:
    """Brings back a file that was moved, or makes a hard link a file of its own, with its permissions and time.

    Raises:
        FileExistsError: something is at the original place.
        OSError: the file is gone or has changed, or cannot be written; nothing has changed.
    """
    there = step.to if step.kind == "move" else step.path
    if not _is_of(step, there):
        raise OSError(f"{there} has changed since")
    if step.kind == "move":
        move(step, there, step.path)
        return
    temporary = step.beside(step.path)
    try:
        _copy(step, step.path, temporary)
        os.replace(temporary, step.path)
    except BaseException:
        _discard(temporary)
        raise


def settle(step: Step, state: State) -> State:
    """Finds out how far an interrupted step came, and removes what it left. An incomplete step is taken back.

    Args:
        step: the step.
        state: what was announced: "begun" or "undoing".

    Returns:
        "done" if the file is where it was moved to, or is a link; "left" if it is where it was.

    Raises:
        OSError: a file cannot be read or removed, or is in neither place; the step is as before.
    """
    source, target = (step.path, step.to) if state == "begun" else (step.to, step.path)
    before: State = "left" if state == "begun" else "done"
    after: State = "done" if state == "begun" else "left"
    if step.kind == "link":
        with contextlib.suppress(FileNotFoundError):
            os.unlink(step.beside(step.path))
        replaced = os.path.lexists(step.path) and os.lstat(step.path).st_ino != step.inode
        return before if state == "undoing" or not replaced else after  # to undo it again does no harm
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        os.unlink(step.beside(target))
    if not os.path.lexists(target):
        os.lstat(source)
        return before
    if not os.path.lexists(source):
        return after
    if same_content(source, target):
        os.unlink(target)
        return before
    return after if _is_of(step, target) else before


def is_back(step: Step) -> bool:
    """Returns whether a file that was moved is at its original place again, because somebody moved it back."""
    if step.kind != "move" or os.path.lexists(step.to):
        return False
    try:
        return _is_of(step, step.path)
    except OSError:  # there is none, or it cannot be read
        return False


def same_content(a: str, b: str) -> bool:
    """Returns whether two paths are regular files with the same bytes."""
    found = os.lstat(a), os.lstat(b)
    if not all(stat.S_ISREG(one.st_mode) for one in found) or found[0].st_size != found[1].st_size:
        return False
    if os.path.samestat(*found):
        return True
    with open(a, "rb") as one, open(b, "rb") as other:
        while data := one.read(_CHUNK):
            if data != other.read(_CHUNK):
                return False
        return not other.read(1)


def _is_of(step: Step, path: str) -> bool:
    """Returns whether a path is the file of a step. Other file systems may have rounded its time."""
    found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode) or found.st_size != step.size:
        return False
    if found.st_mtime_ns == step.time:
        return True
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == step.sha256


def _rename(source: str, target: str) -> None:
    """Renames a file. `os.rename` would replace what is at the new path; a hard link never does."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _CANNOT_LINK:
            raise
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        os.rename(source, target)
        return
    _unlink_or_discard(source, target)


def _move_to_other_disk(step: Step, source: str, target: str) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
    temporary = step.beside(target)
    try:
        _copy(step, source, temporary)
        _rename(temporary, target)
        flush_names(os.path.dirname(target))
    except BaseException:
        _discard(temporary)
        raise
    _unlink_or_discard(source, target)


def _copy(step: Step, source: str, target: str) -> None:
    """Copies a file to a new path, on the disk and compared, with the permissions, owner and time of the step."""
    shutil.copyfile(source, target, follow_symlinks=False)
    with contextlib.suppress(OSError):  # file systems without permissions, owners or attributes
        shutil.copystat(source, target)
    with contextlib.suppress(OSError):
        os.chown(target, step.user, step.group)
    with contextlib.suppress(OSError):
        os.chmod(target, step.mode)
    with contextlib.suppress(OSError):
        os.utime(target, ns=(os.lstat(source).st_atime_ns, step.time))
    flush(target)
    if not same_content(source, target):
        raise OSError(f"its copy {target} has other bytes: the disk may be broken, or the file is being changed")


def _unlink_or_discard(source: str, target: str) -> None:
    """Removes a file whose content is at `target`, or, where that is not possible, the latter."""
    try:
        os.unlink(source)
    except FileNotFoundError:  # another program, or a network file system that asked twice, has removed it
        return
    except OSError:
        if same_content(source, target):
            os.unlink(target)
        raise


def _make_folder(folder: str) -> None:
    """Creates a folder and those above it, on the disk."""
    if os.path.isdir(folder):
        return
    above = os.path.dirname(folder)
    _make_folder(above)
    with contextlib.suppress(FileExistsError):  # of another process, or a file, about which the next call complains
        os.mkdir(folder)
    flush_names(above)


def _discard(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
