"""Turns the error of a full disk into one line that says what to do, whichever library notices it first."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from sscd_jax.files import is_full
from sscd_jax.training import orbax_workarounds


class FullDiskError(OSError):
    """There is no space left on the disk of a run."""


def check_room(folder: Path, needed: int) -> None:
    """Checks that a disk has `needed` bytes left. Quotas are not taken into account.

    Raises:
        FullDiskError: fewer than `needed` bytes are left.
    """
    left = shutil.disk_usage(folder).free
    if left < needed:
        raise FullDiskError(f"a checkpoint takes up to {needed / 1e6:.1f} MB, and {left / 1e6:.1f} MB are left")


@contextlib.contextmanager
def explained(folder: Path, remedy: Callable[[], str]) -> Iterator[None]:
    """Turns any error of a full disk into a FullDiskError that names the folder and the remedy.

    Args:
        folder: the folder to name.
        remedy: a function that returns what to do; it is called only after an error.

    Raises:
        FullDiskError: the disk is full. All other errors pass as they are.
    """
    try:
        with orbax_workarounds.quiet(is_full):
            yield
    except Exception as error:
        if not is_full(error) and not isinstance(error, FullDiskError):
            raise
        why = f" ({error})" if isinstance(error, FullDiskError) else ""
        raise FullDiskError(f"no space left on the disk of {folder}{why}: {remedy()}") from error
