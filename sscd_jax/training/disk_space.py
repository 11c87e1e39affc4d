"""A disk that is full: one line that says what to do, whoever noticed it first."""

import contextlib
import errno
import logging
import os
import shutil
import sys
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


class _Noticed(logging.Filter):
    """Leaves out of Orbax's log the full disk that its threads find, with tracebacks, and keeps the first of them."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if error is None or not is_full(error):
            return True
        self.error = self.error or error
        return False


_NOTICED = _Noticed()


def raise_noticed() -> None:
    """Raises what a thread of Orbax has found within `explained`, which Orbax itself raises later."""
    if _NOTICED.error:
        raise _NOTICED.error


@contextlib.contextmanager
def _only_first_of_a_save() -> Iterator[None]:
    """Leaves out the tracebacks of all arrays of a save but the first that fails: Orbax is deaf to the others then."""
    before = sys.unraisablehook

    def hook(other: "sys.UnraisableHookArgs") -> None:
        if str(other.exc_value) != "Event loop is closed":
            before(other)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = before  # but after an error it stays: threads may be late


@contextlib.contextmanager
def explained(folder: Path, remedy: Callable[[], str]) -> Iterator[None]:
    """Within it a full disk is a FullDiskError that names the folder and the remedy, whatever it was before."""
    _NOTICED.error = None
    logging.getLogger("absl").addFilter(_NOTICED)  # and stays: threads may be late
    try:
        with _only_first_of_a_save():
            yield
    except Exception as error:
        if not is_full(error) and not isinstance(error, FullDiskError):
            raise
        why = f" ({error})" if isinstance(error, FullDiskError) else ""
        raise FullDiskError(f"no space left on the disk of {folder}{why}: {remedy()}") from error
