"""The folder of descriptors that `embed` writes: planned first, then shard by shard, each whole or not there.

    plan/made_by.json           weights, preset, dtype and source: descriptors of another kind are refused
    plan/00000.txt ...          ids of the images of a shard, fixed before any is embedded
    vectors-00000.npy           their descriptors, less those that could not be read
    ids-00000.txt               ids of the rows; written last of a shard, and says that it is whole
    errors-00000.jsonl          the rest, and why; only where there is any
    manifest.json, errors.jsonl when all shards are whole

The plan is what makes it resumable and shareable: whoever continues, alone or beside others, computes the same shards.
Names end in `.unfinished-...` while a process writes a file; what killed ones leave is removed at the end.
"""

import itertools
import json
import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from sscd_jax.descriptors import MANIFEST, Provenance, manifest, shard_name

PLAN = "plan"


class Shards:
    """The shards of a folder that one of several processes works on.

    Args:
        folder: of the descriptors; made if it is not there.
        provenance: what makes the vectors.
        dtype: of the vectors, float32 or float16.
        source: of the images, an absolute path if it is one; descriptors of another are refused.

    Raises:
        ValueError: the folder holds something else, or descriptors of another kind.
    """

    def __init__(self, folder: epath.PathLike, provenance: Provenance, dtype: str, source: str) -> None:
        folder = epath.Path(folder)
        self.folder, self.provenance, self.dtype = folder, provenance, dtype
        self.process = uuid.uuid4().hex
        made_by = {"weights": provenance.weights, "preset": provenance.preset, "dtype": dtype, "source": source}
        path = folder / PLAN / "made_by.json"
        if not path.is_file():
            if folder.exists() and any(f for f in folder.iterdir() if f.name != PLAN):
                raise ValueError(f"{folder} is there already and was not written by embed: name another folder")
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
        """Adds the ids, one a line, that are not in the plan yet as new shards, and returns how many these are.

        Raises:
            ValueError: another process plans other images at the same time, or the plan is damaged.
        """
        whole = self.whole()
        numbers = self.numbers()  # looked at once: another process may be planning the same
        for number in whole:
            if number not in numbers or len(self.ids(number)) > len(self.planned(number)):
                raise ValueError(f"{self.folder / PLAN} is damaged: shard {shard_name(number)}; name another folder")
        known = {i for number in numbers for i in self.planned(number)}
        new = [i for i in ids if i not in known]
        for number, start in enumerate(range(0, len(new), shard_size), max(numbers, default=-1) + 1):
            self.plan_shard(number, new[start : start + shard_size])
        return len(new)

    def plan_shard(self, number: int, ids: Sequence[str]) -> None:
        """Adds a shard to the plan, or does nothing if it is there with these ids.

        Raises:
            ValueError: it is there with other ids.
        """
        path, text = self.folder / PLAN / f"{shard_name(number)}.txt", "".join(f"{i}\n" for i in ids)
        if self._create(path, text) != text:
            raise ValueError(f"{path} is of another process, and plans other images: were some added just now?")

    def numbers(self) -> list[int]:
        """Of all shards of the plan."""
        return sorted(self._numbers(f"{PLAN}/*.txt"))

    def planned(self, number: int) -> list[str]:
        """Ids of a shard."""
        return _lines(self.folder / PLAN / f"{shard_name(number)}.txt")

    def whole(self) -> set[int]:
        """Numbers of the shards that have been written, by one look at the folder."""
        return set(self._numbers("ids-*.txt"))

    def is_whole(self, number: int) -> bool:
        """Whether a shard has been written."""
        return (self.folder / f"ids-{shard_name(number)}.txt").is_file()

    def write(self, number: int, ids: Sequence[str], vectors: np.ndarray, errors: Sequence[Mapping[str, str]]) -> None:
        """Writes a shard, if it is not there: ids and their vectors, float [n, D], and what has none."""
        if self.is_whole(number):  # another process was faster, and wrote the same
            return
        name = shard_name(number)
        path = self.folder / f"errors-{name}.jsonl"
        if errors:
            self._replace(path, lambda file: file.write(_json_lines(errors)))
        elif path.exists():  # of an attempt that was cut short here
            path.unlink()
        vectors = vectors.astype(self.dtype)
        self._replace(self.folder / f"vectors-{name}.npy", lambda file: np.save(file, vectors, allow_pickle=False))
        text = "".join(f"{i}\n" for i in ids)
        self._replace(self.folder / f"ids-{name}.txt", lambda file: file.write(text.encode()))

    def undo(self, number: int) -> None:
        """Takes it that a shard has not been written."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        (self.folder / f"ids-{shard_name(number)}.txt").unlink(missing_ok=True)

    def finish(
        self, dims: int, errors: Sequence[Mapping[str, str]] = (), counts: Mapping[int, int] | None = None
    ) -> dict[str, Any] | None:
        """Writes the manifest if all shards are whole, and returns it; None while some are not.

        Args:
            dims: length of a descriptor.
            errors: besides those of the shards.
            counts: vectors of each shard of which that is known; the others are read.

        Raises:
            ValueError: no image could be read, or a file of vectors is damaged; says what to do.
        """
        numbers = self.numbers()
        if not self.whole().issuperset(numbers):
            return None
        lost, parts = 0, sorted(self._numbers("errors-*.jsonl"))

        def join(file: Any) -> None:  # one part after the other: of a large collection all may not fit into memory
            nonlocal lost
            for some in itertools.chain([errors], map(self.errors, parts)):
                file.write(_json_lines(some))
                lost += len(some)

        path = self.folder / "errors.jsonl"
        if errors or parts:
            self._replace(path, join)
        else:
            path.unlink(missing_ok=True)  # of a time when there were some
        counts = counts or {}
        rows = [counts[number] if number in counts else self._count(number, dims) for number in numbers]
        if not any(rows):
            raise ValueError(f"no image could be read: {path} says why")
        made = manifest(rows, dims, self.dtype, self.provenance, errors=lost)
        self._replace(self.folder / MANIFEST, lambda file: file.write(json.dumps(made, indent=2).encode()))
        for folder in (self.folder, self.folder / PLAN):  # what killed processes left
            for path in folder.glob("*.unfinished-*"):
                if path.with_name(path.name.split(".unfinished-")[0]).exists():  # else one is being written now
                    path.unlink(missing_ok=True)
        return made

    def ids(self, number: int) -> list[str]:
        """Of the vectors of a shard that is whole."""
        return _lines(self.folder / f"ids-{shard_name(number)}.txt")

    def errors(self, number: int) -> list[dict[str, str]]:
        """What could not be read of a shard that is whole: path and reason."""
        path = self.folder / f"errors-{shard_name(number)}.jsonl"
        return [json.loads(line) for line in _lines(path)] if path.is_file() else []

    def _count(self, number: int, dims: int) -> int:
        """Vectors of a shard, where the file has them all."""
        count, name = len(self.ids(number)), shard_name(number)
        path = self.folder / f"vectors-{name}.npy"
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                whole = path.stat().length == file.tell() + count * dims * dtype.itemsize
            if not whole or (shape, dtype) != ((count, dims), np.dtype(self.dtype)):
                raise ValueError(f"it has {dtype} {list(shape)} by its header")
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} is damaged: {error}; remove ids-{name}.txt beside it, and start again") from error
        return count

    def _numbers(self, pattern: str) -> list[int]:
        """Of files by their names, in one look at their folder."""
        folder, name = (self.folder / pattern).parent, epath.Path(pattern).name
        names = [path.stem.split("-")[-1] for path in folder.glob(name)]
        return [int(number) for number in names if number.isdecimal()]

    def _replace(self, path: epath.Path, write: Callable[[Any], Any]) -> None:
        unfinished = self._unfinished(path)
        _write(unfinished, write)
        try:
            unfinished.replace(path)
        except FileNotFoundError:  # another process has finished, and tidied up
            if not path.exists():
                raise

    def _unfinished(self, path: epath.Path) -> epath.Path:
        return path.with_name(f"{path.name}.unfinished-{self.process}")

    def _create(self, path: epath.Path, text: str) -> str:
        """Writes a file if there is none, and returns what is in it then."""
        if not path.exists():
            unfinished = self._unfinished(path)
            _write(unfinished, lambda file: file.write(text.encode()))
            try:
                os.link(unfinished, path)  # unlike a renaming, it replaces nothing
            except OSError:  # another process was faster; else a file system without links, or no local one
                if not path.exists():
                    unfinished.replace(path)
            unfinished.unlink(missing_ok=True)
        return path.read_text(encoding="utf-8")


def _write(path: epath.Path, write: Callable[[Any], Any]) -> None:
    try:
        with path.open("wb") as file:
            write(file)
            file.flush()
            if hasattr(file, "fileno"):  # a local file
                os.fsync(file.fileno())
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror or error}; the same command goes on when it can be"
        raise OSError(reason) from error


def _lines(path: epath.Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")[:-1]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}; name another folder") from error


def _json_lines(rows: Sequence[Mapping[str, str]]) -> bytes:
    # Names of files need not be Unicode; what is not becomes an escape that JSON has too.
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")
