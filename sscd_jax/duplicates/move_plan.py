"""Which files of a folder of duplicates are moved or replaced by links, and where to, from what the folder says."""

import csv
import errno
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sscd_jax.duplicates.journal import Journal

GROUPS, FILES, OTHER = "groups.csv", "files.jsonl", "other.jsonl"


@dataclass(frozen=True, slots=True)
class File:
    """A file as it was when the images were compared: its absolute path, bytes, time in nanoseconds, and SHA-256."""

    path: str
    size: int
    time: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Move:
    """A file that is to be moved to a path, or to become a hard link to it, and the file that its group keeps."""

    file: File
    kept: File
    to: str

    @property
    def path(self) -> str:
        """The path of the file."""
        return self.file.path


@dataclass(frozen=True, kw_only=True)
class Left:
    """The files that stay as they are.

    Attributes:
        skipped: the path of each file that could not be moved, linked or brought back, and why.
        before: the number of files that were moved by an earlier call.
        same: the number of files that are already the same file as the one that their group keeps.
        different: the number of files whose content is not that of the file that their group keeps.
        not_files: the number of images that are not files of their own, such as those in a tar file.
    """

    skipped: list[tuple[str, str]]
    before: int = 0
    same: int = 0
    different: int = 0
    not_files: int = 0


@dataclass(frozen=True, kw_only=True)
class Plan(Left):
    """What `apply` would do.

    Attributes:
        folder: the folder with groups.csv and files.jsonl.
        move_to: the folder to which files are moved, or None if they are replaced by hard links.
        roots: the folders in which the images were searched for, if they are known.
        moves: the files that would be moved or replaced.
    """

    folder: Path
    move_to: Path | None
    roots: tuple[Path, ...] | None
    moves: list[Move]

    @property
    def bytes(self) -> int:
        """The size of the files that would be moved or replaced."""
        return sum(move.file.size for move in self.moves)


def plan_moves(
    folder: Path, move_to: Path | None, *, roots: Sequence[Path] | None = None, journal: Journal | None = None
) -> Plan:
    """Finds out which files can be moved or replaced by hard links, and changes nothing.

    A file keeps its path below the deepest folder that all files of groups.csv have in common; those of other.jsonl,
    with which files.jsonl was compared and which all stay, do not count.

    Args:
        folder: the folder with groups.csv, files.jsonl, and other.jsonl, if there is one.
        move_to: the folder to which files are moved, or None to replace files by hard links.
        roots: the folders in which the images were searched for, to which nothing may be moved. If they are not known,
            the deepest folder that all files of files.jsonl have in common counts.
        journal: what was done before; by default it is read from the folder.

    Raises:
        ValueError: a file is missing or malformed, or files cannot be moved to `move_to`.
    """
    rows = _read_groups(folder / GROUPS)
    wanted = {path for path, _, _ in rows}
    files, common = _read_files(folder / FILES, wanted)
    others = _read_files(folder / OTHER, wanted)[0] if (folder / OTHER).is_file() else {}
    if move_to is not None:
        move_to = Path(os.path.abspath(move_to))
        _check_target(move_to, folder, ([Path(common)] if common != os.sep else []) if roots is None else roots)
    steps = (journal or Journal(folder)).steps.values()
    moved = {step.path for step, _ in steps if step.kind == "move"}
    begun = {(step.path, step.to) for step, state in steps if state != "done"}
    base = _common(path for path, _, _ in rows if path and path not in others)
    files = others | files
    moves: list[Move] = []
    skipped: list[tuple[str, str]] = []
    counts = {"before": 0, "same": 0, "different": 0, "not_files": 0}
    seen: set[str] = set()
    for path, is_kept, kept_path in rows:
        if is_kept or (path and path in seen):
            continue
        seen.add(path)
        if not path:
            counts["not_files"] += 1
            continue
        try:
            file, kept = _find(files, path, kept_path)
            if move_to is None and (file.size, file.sha256) != (kept.size, kept.sha256):
                counts["different"] += 1
                continue
            is_same = os.path.samestat(check_unchanged(file, kept), os.lstat(kept.path))
            if move_to is None and is_same:
                counts["same"] += 1
                continue
            to = kept.path if move_to is None else os.path.join(move_to, os.path.relpath(path, base))
            if move_to is not None and os.path.lexists(to) and (path, to) not in begun:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), to)
            moves.append(Move(file, kept, to))
        except OSError as error:
            if path in moved and not os.path.lexists(path):
                counts["before"] += 1
            else:
                skipped.append((path, reason(error, path)))
    return Plan(
        folder=folder,
        move_to=move_to,
        roots=None if roots is None else tuple(roots),
        moves=moves,
        skipped=skipped,
        **counts,
    )


def check_unchanged(file: File, kept: File) -> os.stat_result:
    """Checks that a file and the one that its group keeps are those that were compared.

    Returns:
        What the file system says about the file.

    Raises:
        OSError: one of them is gone, has changed, or is not a regular file, or both are one file with two paths.
    """
    try:
        there = os.lstat(kept.path)
    except OSError as error:
        raise OSError(f"the file that its group keeps cannot be seen: {kept.path}: {error.strerror}") from error
    if stat.S_ISLNK(there.st_mode):
        raise OSError(f"the file that its group keeps is a symbolic link: {kept.path}")
    if not _is(there, kept):
        raise OSError(f"the file that its group keeps has changed since the images were compared: {kept.path}")
    found = os.lstat(file.path)
    is_link = os.path.samestat(found, there)  # to the kept file, and so with its time
    if is_link and (found.st_nlink == 1 or os.path.realpath(file.path) == os.path.realpath(kept.path)):
        raise OSError(f"it is the file that its group keeps, by another path: {kept.path}")
    if not is_link and not _is(found, file):
        raise OSError("it has changed since the images were compared")
    return found


def reason(error: OSError, path: str) -> str:
    """Returns what an error says about a file, with the name of the other file, if the error is about that."""
    if not error.strerror:
        return str(error)
    other = error.filename2 or error.filename
    return error.strerror if other in (None, path) else f"{error.strerror}: {os.fspath(other)}"


def _is(found: os.stat_result, file: File) -> bool:
    return stat.S_ISREG(found.st_mode) and (found.st_size, found.st_mtime_ns) == (file.size, file.time)


def _find(files: dict[str, File], path: str, kept: str) -> tuple[File, File]:
    if not kept:
        raise OSError("the image that its group keeps is not a file of its own, and cannot be checked")
    for one in (path, kept):
        if one not in files:
            raise OSError(f"{FILES} says nothing about {one}")
    return files[path], files[kept]


def _read_groups(path: Path) -> list[tuple[str, bool, str]]:
    """Returns for each row of groups.csv the path, whether it is kept, and the path that its group keeps."""
    if not path.is_file():
        raise ValueError(f"there is no {path}: name a folder that `sscd-jax dedup` has written")
    rows: list[tuple[str, str, bool]] = []
    kept: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:  # -sig: of a spreadsheet
        reader = csv.DictReader(file)
        if missing := {"group", "keep", "path"} - set(reader.fieldnames or ()):
            raise ValueError(f"{path} has no column {sorted(missing)[0]!r}")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            keep, name = str(row["keep"]).lower(), row["path"] or ""
            if keep not in ("true", "false"):
                raise ValueError(f"{where}: keep must be true or false, and is {row['keep']!r}")
            if name and (not os.path.isabs(name) or os.path.normpath(name) != name):
                raise ValueError(f"{where}: {name!r} is not an absolute path")
            rows.append((row["group"], name, keep == "true"))
            if keep == "true":
                kept.setdefault(row["group"], name)
    if lost := next((group for group, _, _ in rows if group not in kept), None):
        raise ValueError(f"{path}: group {lost} keeps no image; set keep to true in one of its rows")
    return [(name, is_kept, kept[group]) for group, name, is_kept in rows]


def _read_files(path: Path, wanted: set[str]) -> tuple[dict[str, File], str]:
    """Returns those files of files.jsonl that are wanted, by their paths, and the folder common to all."""
    files: dict[str, File] = {}

    def paths() -> Iterator[str]:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    row = json.loads(line)
                    name = row["path"]
                    if name and row.get("file", True) and os.path.isabs(name):
                        yield name
                    if name in wanted and name:
                        files[name] = File(name, int(row["bytes"]), int(row["time"]), str(row["sha256"]))
                except (ValueError, LookupError, TypeError) as error:
                    raise ValueError(f"{path}, line {number}: not the line of a file ({error})") from error

    if not path.is_file():
        raise ValueError(f"there is no {path}: name a folder that `sscd-jax dedup` has written")
    return files, _common(paths())


def _common(paths: Iterable[str]) -> str:
    """Returns the deepest folder that all files have in common; the root of the system, if there are none."""
    common: str | None = None
    for path in paths:
        folder = os.path.dirname(path)
        if folder != common:
            common = folder if common is None else os.path.commonpath([common, folder])
    return common or os.sep


def _check_target(move_to: Path, folder: Path, roots: Sequence[Path]) -> None:
    if os.path.lexists(move_to) and not move_to.is_dir():
        raise ValueError(f"{move_to} is a file, not a folder: name another folder")
    real = Path(os.path.realpath(move_to))
    if real.is_relative_to(os.path.realpath(folder)):
        raise ValueError(
            f"files cannot be moved into {folder}, which is for the report: name a folder outside of {folder}"
        )
    for root in roots:
        if real.is_relative_to(os.path.realpath(root)):
            raise ValueError(
                f"files cannot be moved to {move_to}: the next search for duplicates in {root} would find them again; "
                f"name a folder outside of {root}"
            )
