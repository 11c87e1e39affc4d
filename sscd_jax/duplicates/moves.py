"""Moves duplicates to another folder, or replaces them by hard links, and brings them back. Nothing is deleted.

Every file is announced in a journal before it is touched (see `sscd_jax.duplicates.journal`). So both functions can be
killed at any moment: calling `apply` again continues, and `undo` brings back what was done.
"""

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from sscd_jax.duplicates.file_operations import bring_back, is_back, link, move, settle
from sscd_jax.duplicates.journal import JOURNAL, Journal, Step, open_journal
from sscd_jax.duplicates.move_plan import Left, Move, Plan, check_unchanged, plan_moves, reason
from sscd_jax.files import is_full, temporary_name

_BLOCK = 32  # files that are announced together: a disk takes milliseconds to flush the journal
_Item = TypeVar("_Item", Move, Step)
_Skipped = list[tuple[str, str]]  # the path of each file that stays where it is, and why


@dataclass(frozen=True, kw_only=True)
class Result(Left):
    """What `apply` or `undo` has done.

    Attributes:
        done: the number of files that were moved, replaced or brought back.
        bytes: their size.
    """

    done: int
    bytes: int


def apply(plan: Plan) -> Result:
    """Moves files, or replaces them by hard links, and goes on where an earlier call was interrupted.

    The plan is made again from what is on the disk now, and each file is checked once more right before.

    Args:
        plan: what is to be done, of `plan_moves`.

    Raises:
        BlockingIOError: another process is doing the same.
        OSError: the disk is full, or the folder of the plan or the one to move to cannot be written. What was done is
            in the journal. An error about a single file is reported in the result instead.
        ValueError: the folder has changed since the plan was made, and is malformed.
    """
    with open_journal(plan.folder) as journal:
        skipped = _settle(journal)
        plan = plan_moves(plan.folder, plan.move_to, roots=plan.roots, journal=journal)
        skipped += plan.skipped
        if plan.moves and plan.move_to is not None:
            plan.move_to.mkdir(parents=True, exist_ok=True)
        done = size = 0
        for block in _blocks(plan.moves, "link" if plan.move_to is None else "move"):
            steps = list(_steps(block, plan, journal.next, skipped))
            journal.write([step for step, _ in steps], "begun")
            for step, one in steps:
                is_done = _try(step.path, step.to, skipped, _do, step, one)
                journal.write([step], "done" if is_done else "left")
                done, size = done + is_done, size + is_done * step.size
        return Result(
            done=done,
            bytes=size,
            skipped=skipped,
            before=plan.before,
            same=plan.same,
            different=plan.different,
            not_files=plan.not_files,
        )


def undo(folder: Path) -> Result:
    """Brings back all files that were moved, and makes hard links files of their own, the last one first.

    Nothing is overwritten: a file whose place is taken, or that has changed since it was moved, is reported and stays
    where it is, and a later call tries it again.

    Args:
        folder: the folder with the journal.

    Raises:
        BlockingIOError: another process is doing the same.
        OSError: the disk is full, or the folder cannot be written. What was done is in the journal. An error about a
            single file is reported in the result instead.
        ValueError: there is no such folder, or the journal is broken.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one that `sscd-jax dedup` has written")
    if not (folder / JOURNAL).exists():
        return Result(done=0, bytes=0, skipped=[])
    with open_journal(folder) as journal:
        skipped = _settle(journal)
        done = size = 0
        moved = [step for step, state in reversed(journal.steps.values()) if state == "done"]
        for block in _blocks(moved, "undo"):
            if by_hand := [step for step in block if is_back(step)]:
                journal.write(by_hand, "left")
            steps = [
                one for one in block if one not in by_hand and _try(one.path, one.path, skipped, _check_place, one)
            ]
            journal.write(steps, "undoing")
            for step in steps:
                is_done = _try(step.path, step.path, skipped, bring_back, step)
                journal.write([step], "left" if is_done else "done")
                done, size = done + is_done, size + is_done * step.size
        return Result(done=done, bytes=size, skipped=skipped)


def _settle(journal: Journal) -> _Skipped:
    """Brings all interrupted steps to an end; returns those of which this is not possible, and why."""
    skipped: _Skipped = []
    for step, state in list(journal.steps.values()):
        if state == "done":
            continue
        try:
            ended = settle(step, state)
        except OSError as error:
            _note(error, step.path, step.path, skipped)
            continue
        journal.write([step], ended)
    return skipped


def _steps(moves: Sequence[Move], plan: Plan, number: int, skipped: _Skipped) -> Iterator[tuple[Step, Move]]:
    """Yields the steps that can be announced, with numbers from `number` on."""
    for one in moves:
        try:
            found = check_unchanged(one.file, one.kept)
            if plan.move_to is not None and os.path.lexists(one.to):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), one.to)
        except OSError as error:
            _note(error, one.path, one.to, skipped)
            continue
        step = Step(
            number=number,
            kind="link" if plan.move_to is None else "move",
            path=one.path,
            to=one.to,
            temporary=temporary_name("moves"),
            size=found.st_size,
            time=found.st_mtime_ns,
            mode=stat.S_IMODE(found.st_mode),
            user=found.st_uid,
            group=found.st_gid,
            inode=found.st_ino,
            sha256=one.file.sha256,
        )
        yield step, one
        number += 1


def _do(step: Step, one: Move) -> None:
    check_unchanged(one.file, one.kept)
    if step.kind == "link":
        link(step)
    else:
        move(step, step.path, step.to)


def _check_place(step: Step) -> None:
    """Checks that a moved file can be brought back.

    Raises:
        OSError: it is gone, or something is at its original place.
    """
    if step.kind == "move" and os.path.lexists(step.path):
        raise OSError(f"another file is at its place now: it stays at {step.to}")
    os.lstat(step.to if step.kind == "move" else step.path)


def _try(path: str, written: str, skipped: _Skipped, function: Callable[..., None], *arguments: object) -> bool:
    """Calls a function, notes an error, and returns whether there was none."""
    try:
        function(*arguments)
    except OSError as error:
        _note(error, path, written, skipped)
        return False
    return True


def _note(error: OSError, path: str, written: str, skipped: _Skipped) -> None:
    """Adds a path and an error to `skipped`.

    Raises:
        OSError: the disk is full; the error names the path that is written.
    """
    if is_full(error):
        raise OSError(error.errno or errno.ENOSPC, error.strerror or str(error), written) from error
    skipped.append((path, reason(error, path)))


def _blocks(items: Sequence[_Item], name: str) -> Iterator[list[_Item]]:
    """Yields what is announced together, in which no file occurs twice, and shows how far it is."""
    with tqdm(total=len(items), desc=name, unit="file", dynamic_ncols=True, leave=False, delay=1) as bar:
        block: dict[str, _Item] = {}
        for item in items:
            if len(block) == _BLOCK or item.path in block:
                yield list(block.values())
                bar.update(len(block))
                block = {}
            block[item.path] = item
        if block:
            yield list(block.values())
