"""Keeps what native libraries print away from the terminal: start-up lines of TensorFlow and XLA, libpng's warnings.

Such libraries write to file descriptor 2 and not to `sys.stderr`, so Python cannot filter them.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

# Waits for a line that says that all is well. If this process ends without it, because native code aborted or a signal
# ended it, the watcher shows what native code had to say.
_WATCHER = """
read -r well && exit
[ -s "$1" ] || { rm -f "$1"; exit; }
echo "sscd-jax ended unexpectedly. The last lines that native libraries printed, all of which are in $1:"
tail -n 20 "$1"
"""


@contextlib.contextmanager
def native_output_to_log(*, expected: tuple[type[BaseException], ...]) -> Iterator[None]:
    """Redirects file descriptor 2 to a temporary file; `sys.stderr` still reaches the terminal.

    The file is removed at the end. It is kept and named on the terminal after an unexpected exception, and after a
    process that ended early, for example by an abort in native code.

    Args:
        expected: Exceptions after which the file is removed, too.
    """
    try:
        shell = shutil.which("sh", path=os.defpath)
        if shell is None:
            raise FileNotFoundError("sh")
        terminal = os.dup(2)
        log, path = tempfile.mkstemp(prefix="sscd-jax-", suffix=".log")
    except OSError:  # no shell (Windows), descriptor 2 is closed, or the disk is full: use the terminal
        yield
        return
    watcher = subprocess.Popen(
        [shell, "-c", _WATCHER, "sh", path],
        stdin=subprocess.PIPE,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # so that Ctrl-C does not reach it
    )
    before = sys.stderr
    if shown := _is_descriptor_2(before):
        before.flush()
        sys.stderr = open(  # noqa: SIM115  (it stays open: logging handlers and threads may hold it)
            terminal, "w", buffering=1, encoding=before.encoding, errors=before.errors, closefd=False
        )
    os.dup2(log, 2)
    os.close(log)
    keep = False
    try:
        yield
    except Exception as error:
        keep = not isinstance(error, expected) and os.path.getsize(path) > 0
        if keep:
            error.add_note(f"What native libraries printed is in {path}")
        raise
    finally:
        os.dup2(terminal, 2)
        if shown:
            sys.stderr.flush()
            sys.stderr = before
        else:
            os.close(terminal)
        with contextlib.suppress(OSError):
            watcher.communicate(b"well\n")
        if not keep:
            os.unlink(path)


def _is_descriptor_2(stream: TextIO) -> bool:
    """Returns whether a stream writes to file descriptor 2, which that of a test or a notebook may not do."""
    try:
        return stream.fileno() == 2
    except (AttributeError, OSError, ValueError):
        return False
