r"""The journal of what was moved or linked, by which `apply` and `undo` survive being killed.

DIR/moves.jsonl only grows. A step is announced before its file is touched, and the line is on the disk by then:

    {"step": 7, "state": "begun", "kind": "move", "path": ..., "to": ..., "size": ..., "time": ..., ...}
    {"step": 7, "state": "done"}

Later lines give the step another state: "undoing" announces that its file is brought back, and "left" says that the
file is where it was. A step that is "begun" or "undoing" when the process ends was interrupted: what is on the disk
says how far it came.
"""

import contextlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import FileIO
from pathlib import Path
from typing import Any, Literal, Self

from filelock import FileLock, Timeout

from sscd_jax.files import LOCK, flush

JOURNAL = "moves.jsonl"

Kind = Literal["move", "link"]
State = Literal["begun", "done", "undoing", "left"]


@dataclass(frozen=True, slots=True)
class Step:
    """A file that is moved, or replaced by a hard link, and what it was before.

    Attributes:
        number: the number of the step in the journal.
        kind: "move" or "link".
        path: the absolute path of the file.
        to: where it is moved to, or the file that it becomes a link to.
        temporary: a file name that no other file has, for what is written before it gets its place.
        size: its size in bytes.
        time: when it was modified, in nanoseconds.
        mode: its permissions.
        user: the number of its owner.
        group: the number of its owner's group.
        inode: the number of the file in its file system.
        sha256: the SHA-256 of its content when the images were compared, hexadecimal.
    """

    number: int
    kind: Kind
    path: str
    to: str
    temporary: str
    size: int
    time: int
    mode: int
    user: int
    group: int
    inode: int
    sha256: str

    def __post_init__(self) -> None:
        texts = (self.path, self.to, self.temporary, self.sha256)
        numbers = (self.number, self.size, self.time, self.mode, self.user, self.group, self.inode)
        if not all(isinstance(one, str) for one in texts) or not all(isinstance(one, int) for one in numbers):
            raise ValueError("a text or a number is of another type")
        if self.kind not in ("move", "link") or not os.path.isabs(self.path) or not os.path.isabs(self.to):
            raise ValueError("the kind is unknown, or a path is not absolute")
        if not re.fullmatch(r"\.[^/]*\.tmp", self.temporary):
            raise ValueError("the temporary file is none")

    def beside(self, path: str) -> str:
        """Returns the path of the temporary file in the folder of a file."""
        return os.path.join(os.path.dirname(path), self.temporary)


class Journal:
    """The steps in the journal of a folder, and their states, without those that are "left".

    Attributes:
        path: the file.
        steps: each step by its number, with its state, in the order in which they were announced.
        next: the number of the next step.
    """

    def __init__(self, folder: Path) -> None:
        """Reads the journal, if there is one. A last line that was not written completely is no part of it.

        Raises:
            ValueError: another line is broken.
        """
        self.path = folder / JOURNAL
        self.steps: dict[int, tuple[Step, State]] = {}
        self.next = 0
        self._length = 0
        self._file: FileIO | None = None
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    return
                try:
                    self._add(json.loads(line))
                except (ValueError, LookupError, TypeError) as error:
                    raise ValueError(
                        f"{self.path}: line {number} is broken ({error}); it says where files were moved to, so repair "
                        "it, or take it from a backup"
                    ) from error
                self._length += len(line)

    def write(self, steps: Sequence[Step], state: State) -> None:
        """Gives steps a state. What is announced by it ("begun" or "undoing") is on the disk when this returns.

        Raises:
            OSError: the journal cannot be written; the error names it.
        """
        assert self._file is not None, "the journal was opened for reading only"
        lines = [{"step": one.number, "state": state} | (_details(one) if state == "begun" else {}) for one in steps]
        data = memoryview("".join(json.dumps(line) + "\n" for line in lines).encode("ascii"))
        try:
            while data:  # a full disk takes a part
                data = data[self._file.write(data) :]
            if state in ("begun", "undoing"):
                os.fsync(self._file.fileno())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        for line in lines:
            self._add(line)

    def _add(self, line: dict[str, Any]) -> None:
        number, state = line["step"], line["state"]
        if state == "begun":
            self.steps[number] = Step(number, **{k: v for k, v in line.items() if k not in ("step", "state")}), state
        elif state == "left":
            self.steps.pop(number)
        elif state in ("done", "undoing"):
            self.steps[number] = self.steps[number][0], state
        else:
            raise ValueError(f"the state {state!r} is unknown")
        self.next = max(self.next, number + 1)

    @contextmanager
    def _opened(self) -> Iterator[Self]:
        is_new = not self.path.exists()
        with FileIO(self.path, "ab") as self._file:
            self._file.truncate(self._length)
            if is_new:
                flush_names(self.path.parent)
            yield self
            os.fsync(self._file.fileno())


@contextmanager
def open_journal(folder: Path) -> Iterator[Journal]:
    """Yields the journal of a folder for writing, in which no other process is at work meanwhile.

    Args:
        folder: the folder, which must exist.

    Raises:
        BlockingIOError: another process is at work there: it moves files, or finds duplicates.
        OSError: the folder cannot be written.
        ValueError: a line of the journal is broken.
    """
    lock = FileLock(folder / LOCK)
    try:
        held = lock.acquire(blocking=False)
    except Timeout as error:
        raise BlockingIOError(
            f"another process is at work in {folder}, finding or moving duplicates: wait until it has ended"
        ) from error
    with held, Journal(folder)._opened() as journal:
        yield journal


def flush_names(folder: str | os.PathLike[str]) -> None:
    """Waits until the names of the files in a folder are on the disk, where the file system can do that."""
    with contextlib.suppress(OSError):
        flush(folder)


def _details(step: Step) -> dict[str, Any]:
    details = asdict(step)
    del details["number"]
    return details
