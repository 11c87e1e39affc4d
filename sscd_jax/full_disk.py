"""A disk that is full: one line that says what to do, whoever noticed it first."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

_CODES = (errno.ENOSPC, errno.EDQUOT)


class FullDiskError(OSError):
    """There is no room on the disk of a run."""


def is_full(error: BaseException) -> bool:
    """Whether an error is of a full disk or a used-up quota; libraries in C++ have the system's words in theirs."""
    return getattr(error, "errno", None) in _CODES or any(os.strerror(code) in str(error) for code in _CODES)


def check_room(folder: Path, needed: int) -> None:
    """Raises FullDiskError where fewer than `needed` bytes are left; quotas are not seen."""
    left = shutil.disk_usage(folder).free
    if left < needed:
        raise FullDiskError(f"a checkpoint takes up to {needed / 1e6:.1f} MB, and {left / 1e6:.1f} MB are left")


@contextlib.contextmanager
def explained(folder: Path, remedy: Callable[[], str]) -> Iterator[None]:
    """Within it a full disk is a FullDiskError that names the folder and the remedy, whatever it was before."""
    # Orbax logs with their tracebacks the errors of its threads that it raises as well.
    logging.getLogger("absl").addFilter(_is_another)
    try:
        yield
    except Exception as error:
        if not is_full(error) and not isinstance(error, FullDiskError):
            raise
        why = f" ({error})" if isinstance(error, FullDiskError) else ""
        raise FullDiskError(f"no space left on the disk of {folder}{why}: {remedy()}") from error


def _is_another(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    return error is None or not is_full(error)
