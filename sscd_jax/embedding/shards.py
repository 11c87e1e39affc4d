"""The folder of descriptors that `embed` writes: planned first, then computed and written shard by shard.

    plan/made_by.json           weights, preset, dtype and source; descriptors of any other kind are refused
    plan/00000.txt ...          ids of the images of a shard, fixed before any of them is embedded
    vectors-00000.npy           their descriptors, without those of images that could not be read
    ids-00000.txt               ids of the rows; written last, so the shard is complete if this file exists
    errors-00000.jsonl          the images that could not be read, and why; only if there are any
    saved-00000-*.npz           rows of a shard that is being computed, removed when the shard is complete
    manifest.json, errors.jsonl written when all shards are complete

The plan makes the work resumable and shareable: whoever continues it, alone or beside others, computes the same shards.
Files are written under temporary names first (see `sscd_jax.files`); leftovers are removed at the end.
"""

import contextlib
import io
import itertools
import json
import os
import re
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from sscd_jax import files
from sscd_jax.data.storage import in_store
from sscd_jax.descriptors import MANIFEST, Provenance, manifest, shard_name, write_npy

PLAN = "plan"


class Shards:
    """The shards of a folder, as one of the processes that may work on it sees them.

    Args:
        folder: the folder of descriptors, on disk or in a store; it is created if it does not exist.
        provenance: the weights and the preset of the descriptors.
        dtype: the type of the vectors in the files, float32 or float16.
        source: where the images come from, an absolute path if it is one. A folder that holds descriptors of another
            source is refused.

    Raises:
        ValueError: the folder holds something else, or descriptors of another kind.
    """

    def __init__(self, folder: epath.PathLike, provenance: Provenance, dtype: str, source: str) -> None:
        folder = epath.Path(folder)
        self.folder, self.provenance, self.dtype = folder, provenance, dtype
        self.process = uuid.uuid4().hex
        self._saves = itertools.count()
        made_by = {"weights": provenance.weights, "preset": provenance.preset, "dtype": dtype, "source": source}
        path = folder / PLAN / "made_by.json"
        if not path.is_file():
            if folder.exists() and any(f for f in folder.iterdir() if f.name != PLAN):
                raise ValueError(f"{folder} exists already and was not written by embed: name another folder")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._create(path, json.dumps(made_by, indent=2))
        try:
            there = json.loads(path.read_text())
            if there.keys() != made_by.keys():
                raise ValueError("it lacks what embed writes")
        except (ValueError, AttributeError) as error:
            raise ValueError(f"{path} is damaged: {error}; name another folder") from error
        if there != made_by:
            before, now = (
                "{source} by weights {weights:.12} with preset {preset} in {dtype}".format(**({"source": "?"} | m))
                for m in (there, made_by)
            )
            raise ValueError(f"{folder} holds descriptors of {before}, not of {now}: name another folder")

    def plan(self, ids: Sequence[str], shard_size: int) -> int:
        """Adds the ids that are not in the plan yet as new shards, and returns the number of these ids.

        Args:
            ids: the ids of the images; none has a line break.
            shard_size: the number of images in each new shard; the last one may have fewer.

        Raises:
            ValueError: another process is planning other images at the same time, or the plan is damaged.
        """
        complete = self.complete()
        numbers = self.numbers()  # listed once: another process may be planning the same images
        for number in complete:
            if number not in numbers or len(self.ids(number)) > len(self.planned(number)):
                raise ValueError(f"{self.folder / PLAN} is damaged: shard {shard_name(number)}; name another folder")
        known = {i for number in numbers for i in self.planned(number)}
        new = [i for i in ids if i not in known]
        for number, start in enumerate(range(0, len(new), shard_size), max(numbers, default=-1) + 1):
            self.plan_shard(number, new[start : start + shard_size])
        return len(new)

    def plan_shard(self, number: int, ids: Sequence[str]) -> None:
        """Adds a shard to the plan, unless the plan already has it with the same ids.

        Raises:
            ValueError: the plan has this shard with other ids.
        """
        path, text = self.folder / PLAN / f"{shard_name(number)}.txt", "".join(f"{i}\n" for i in ids)
        if self._create(path, text) != text:
            raise ValueError(f"{path} was written by another process for other images: were images added just now?")

    def numbers(self) -> list[int]:
        """Returns the numbers of all shards of the plan, in ascending order."""
        return sorted(self._numbers(f"{PLAN}/*.txt"))

    def planned(self, number: int) -> list[str]:
        """Returns the ids of the images that the plan puts into a shard."""
        return _lines(self.folder / PLAN / f"{shard_name(number)}.txt")

    def complete(self) -> set[int]:
        """Returns the numbers of the shards that are complete, from one listing of the folder."""
        return set(self._numbers("ids-*.txt"))

    def is_complete(self, number: int) -> bool:
        """Returns whether a shard is complete."""
        return (self.folder / f"ids-{shard_name(number)}.txt").is_file()

    def save(self, number: int, rows: Sequence[int], vectors: np.ndarray) -> None:
        """Saves some rows of a shard that is not complete yet, so that an interruption does not lose them.

        Each call writes a new file. `write` removes all of the shard.

        Args:
            number: the number of the shard.
            rows: n positions among the `planned` ids.
            vectors: float32 [n, D], their descriptors.
        """
        data = io.BytesIO()
        np.savez(data, rows=np.asarray(rows, np.int64), vectors=vectors)
        name = f"saved-{shard_name(number)}-{self.process}-{next(self._saves)}.npz"
        replace_file(self.folder / name, lambda file: file.write(data.getbuffer()))

    def saved(self, number: int) -> dict[int, np.ndarray]:
        """Returns what processes have saved of a shard: from a position among the planned ids to float32 [D].

        A damaged file is ignored, so that its rows are computed again.
        """
        found: dict[int, np.ndarray] = {}
        for path in self.folder.glob(f"saved-{shard_name(number)}-*.npz"):
            with (
                contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error),
                np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data,
            ):
                found.update(zip(data["rows"].tolist(), data["vectors"], strict=True))
        return found

    def partial(self) -> set[int]:
        """Returns the numbers of the shards of which rows are saved, from one listing of the folder."""
        return {int(match[1]) for path in self.folder.glob("saved-*") if (match := _SAVED.match(path.name))}

    def write(self, number: int, ids: Sequence[str], vectors: np.ndarray, errors: Sequence[Mapping[str, str]]) -> None:
        """Writes a shard, unless it is complete already.

        Args:
            number: the number of the shard.
            ids: the ids of the n images that have a descriptor.
            vectors: float32 [n, D], the descriptors.
            errors: path and reason of each image that has none.

        Raises:
            OSError: a file cannot be written, for example because the disk is full; the error names it.
        """
        if not self.is_complete(number):  # otherwise another process was faster and wrote the same
            name = shard_name(number)
            path = self.folder / f"errors-{name}.jsonl"
            if errors:
                replace_file(path, lambda file: file.write(_json_lines(errors)))
            else:
                path.unlink(missing_ok=True)  # left by an attempt that was interrupted
            vectors = vectors.astype(self.dtype)
            replace_file(self.folder / f"vectors-{name}.npy", lambda file: write_npy(file, vectors))
            text = "".join(f"{i}\n" for i in ids)
            replace_file(self.folder / f"ids-{name}.txt", lambda file: file.write(text.encode()))
        self._remove_saved({number})

    def undo(self, number: int) -> None:
        """Marks a shard as unwritten, so that it is computed again."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        (self.folder / f"ids-{shard_name(number)}.txt").unlink(missing_ok=True)

    def finish(
        self, dims: int, errors: Sequence[Mapping[str, str]] = (), counts: Mapping[int, int] | None = None
    ) -> dict[str, Any] | None:
        """Writes and returns the manifest if all shards are complete; returns None while some are not.

        Args:
            dims: the length of a descriptor.
            errors: path and reason of images without a descriptor that are in no shard.
            counts: the number of vectors of the shards for which it is known; those of the others are read.

        Raises:
            ValueError: no image could be read, or a file of vectors is damaged; the error says what to do.
            OSError: a file cannot be written, for example because the disk is full; the error names it.
        """
        numbers = self.numbers()
        if not self.complete().issuperset(numbers):
            return None
        lost, parts = 0, sorted(self._numbers("errors-*.jsonl"))

        def join(file: Any) -> None:  # part by part: the errors of a large collection may not fit into memory
            nonlocal lost
            for some in itertools.chain([errors], map(self.errors, parts)):
                file.write(_json_lines(some))
                lost += len(some)

        path = self.folder / "errors.jsonl"
        if errors or parts:
            replace_file(path, join)
        else:
            path.unlink(missing_ok=True)  # left by an earlier call
        counts = counts or {}
        rows = [counts[number] if number in counts else self._count(number, dims) for number in numbers]
        if not any(rows):
            raise ValueError(f"no image could be read: {path} says why")
        made = manifest(rows, dims, self.dtype, self.provenance, errors=lost)
        replace_file(self.folder / MANIFEST, lambda file: file.write(json.dumps(made, indent=2).encode()))
        self._tidy({*numbers})
        return made

    def _tidy(self, complete: set[int]) -> None:
        """Removes what killed processes have left, but no file that another process may be writing now."""
        for folder in (self.folder, self.folder / PLAN):
            for path in folder.glob(".*.tmp"):
                match = _TEMPORARY.fullmatch(path.name)
                if match and path.with_name(match[1]).exists():
                    path.unlink(missing_ok=True)
        self._remove_saved(complete)

    def _remove_saved(self, complete: set[int]) -> None:
        """Removes the saved rows of shards that are complete."""
        for path in itertools.chain(self.folder.glob("saved-*"), self.folder.glob(".saved-*.tmp")):
            match = _SAVED.match(path.name)
            if match and int(match[1]) in complete:
                path.unlink(missing_ok=True)

    def ids(self, number: int) -> list[str]:
        """Returns the ids of the vectors of a complete shard."""
        return _lines(self.folder / f"ids-{shard_name(number)}.txt")

    def errors(self, number: int) -> list[dict[str, str]]:
        """Returns path and reason of each image of a complete shard that could not be read."""
        path = self.folder / f"errors-{shard_name(number)}.jsonl"
        return [json.loads(line) for line in _lines(path)] if path.is_file() else []

    def _count(self, number: int, dims: int) -> int:
        """Returns the number of vectors of a complete shard, after a check that the file holds as many."""
        count, name = len(self.ids(number)), shard_name(number)
        path = self.folder / f"vectors-{name}.npy"
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                is_complete = path.stat().length == file.tell() + count * dims * dtype.itemsize
            if not is_complete or (shape, dtype) != ((count, dims), np.dtype(self.dtype)):
                raise ValueError(f"it has {dtype} {list(shape)} by its header")
        except (OSError, ValueError) as error:
            hint = f"remove ids-{name}.txt beside it and rerun the command"
            raise ValueError(f"{path} is damaged: {error}; {hint}") from error
        return count

    def _numbers(self, pattern: str) -> list[int]:
        """Returns the numbers in the names of files, from one listing of their folder."""
        folder, name = (self.folder / pattern).parent, epath.Path(pattern).name
        names = [path.stem.split("-")[-1] for path in folder.glob(name)]
        return [int(number) for number in names if number.isdecimal()]

    def _create(self, path: epath.Path, text: str) -> str:
        """Writes a file unless it exists, and returns what it contains then."""
        if not path.exists():
            mine = path.with_name(f".{path.name}.{self.process}.tmp")
            try:
                with _naming(path), _atomic_file(mine) as temporary:
                    temporary.write_bytes(text.encode())
            except FileNotFoundError:  # another process was faster, has finished, and removed the temporary file
                if not path.exists():
                    raise
            try:
                os.link(mine, path)  # unlike a renaming, it replaces nothing
            except OSError:  # another process was faster, or the file system has no links, or it is a store
                if not path.exists():
                    mine.replace(path)
            mine.unlink(missing_ok=True)
        return path.read_text(encoding="utf-8")


_SAVED = re.compile(r"\.?saved-(\d+)-")
_TEMPORARY = re.compile(r"\.+(.+?)\.[0-9a-f]{12,32}\.tmp.*")  # as files.py and `_create` name them


def replace_file(path: epath.Path, write: Callable[[Any], Any]) -> None:
    """Writes a file, on disk or in a store, under a temporary name first; one that exists is replaced.

    Args:
        path: the file.
        write: writes the contents to an open binary file.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    try:
        with _naming(path), _atomic_file(path) as temporary, temporary.open("wb") as file:
            write(file)
    except FileNotFoundError:  # another process has finished, and removed the temporary file
        if not path.exists():
            raise


@contextlib.contextmanager
def _naming(path: epath.Path) -> Iterator[None]:
    """Makes errors of writing a file, such as a full disk, say which file it is and what to do."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror or error}; rerun the command to resume when it can be"
        raise OSError(reason) from error


@contextlib.contextmanager
def _atomic_file(path: epath.Path) -> Iterator[epath.Path]:
    """Does the same as `files.atomic_file`, also in a store."""
    if not in_store(os.fspath(path)):
        with files.atomic_file(path) as local:
            yield epath.Path(local)
        return
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _lines(path: epath.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}; name another folder") from error


def _json_lines(rows: Sequence[Mapping[str, str]]) -> bytes:
    # Names of files need not be valid Unicode; bytes that are not become escapes, which JSON has too.
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")
