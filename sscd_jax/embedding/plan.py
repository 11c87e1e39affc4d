"""The plan of a folder of descriptors: what is embedded there and how, and which image is in which shard.

It is fixed before anything is embedded. Processes that share the work, and those that resume it, follow the same plan.
"""

import json
import os
import re
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TypeVar

import numpy as np
from etils import epath

from sscd_jax import files
from sscd_jax.data import storage
from sscd_jax.descriptors import FORMAT, VERSION, hash_bytes, is_line, shard_name, to_lines
from sscd_jax.provenance import Provenance
from sscd_jax.string_list import Lookup

PLAN = "plan"
T = TypeVar("T")


class Plan:
    """The plan in `folder`/plan: made_by.json, and for each shard a file of ids with a checksum at its end.

    A file of the plan is never replaced by another process. One that is not complete, because a process was killed on a
    file system whose renaming is not atomic, is written again.

    Args:
        folder: the folder of descriptors, on disk or in a store.
    """

    def __init__(self, folder: epath.Path) -> None:
        self.folder = folder / PLAN

    def begin(self, provenance: Provenance, dtype: str, source: str, *, is_new: bool, moved: bool) -> None:
        """Writes what is embedded and how, or checks that what is there is the same.

        Args:
            provenance: the weights, the preset and the computation of the descriptors.
            dtype: the type of the vectors in the files, float32 or float16.
            source: where the images come from, an absolute path if it is one.
            is_new: whether the folder has no complete shard.
            moved: whether the source that is there is replaced by `source`, because the images were moved.

        Raises:
            ValueError: the folder holds descriptors of another kind.
        """
        made_by = {name: getattr(provenance, name) for name in ("weights", "preset", "computation")}
        made_by |= {"dtype": dtype, "source": source}
        network = {"network": provenance.details.get("network")}  # for the message below; the hash has it, too
        path = self.folder / "made_by.json"
        text = json.dumps({"format": FORMAT, "version": VERSION} | made_by | network, indent=2)
        self.folder.mkdir(parents=True, exist_ok=True)
        if is_new and not self.numbers() and _is_torn_json(path):
            path.unlink()
        create_file(path, text)
        try:
            read = json.loads(path.read_text())
            there = {name: read[name] for name in made_by}
        except (ValueError, LookupError, TypeError) as error:
            raise ValueError(f"{path} is damaged: {error!r}; name another folder") from error
        if there == made_by:
            return
        if there | {"source": source} != made_by or not moved:
            hint = "name another folder for the descriptors"
            if there | {"source": source} == made_by:
                hint += ", or give --moved if these are the same images in another place"
            before, now = (_told(one) for one in (there, made_by))
            written = Provenance(there["weights"], there["preset"], {"network": read.get("network")})
            differences = written.differences(provenance)
            raise ValueError(f"{self.folder.parent} holds descriptors of {before}, not of {now}{differences}: {hint}")
        replace_file(path, lambda file: file.write(text.encode()))

    def add(self, ids: Lookup, shard_size: int) -> int:
        """Adds the ids that are not in the plan yet as new shards, and returns the number of these ids.

        Args:
            ids: the ids of the images. Those that have a line break are left out.
            shard_size: the number of images in each new shard; the last one may have fewer.

        Raises:
            ValueError: another process is planning other images at the same time.
        """
        numbers = self.numbers()  # listed once: another process may be planning the same images
        is_new = np.fromiter(map(is_line, ids.strings), bool, len(ids.strings))
        for number in numbers:
            is_new[(found := ids.find(self.ids(number)))[found >= 0]] = False
        new = np.flatnonzero(is_new)
        for number, start in enumerate(range(0, len(new), shard_size), max(numbers, default=-1) + 1):
            self.add_shard(number, [ids.strings[index] for index in new[start : start + shard_size].tolist()])
        return len(new)

    def add_shard(self, number: int, ids: Sequence[str], *, replace: bool = False) -> None:
        """Adds a shard to the plan, unless the plan already has it with the same ids.

        Args:
            number: the number of the shard.
            ids: the ids of its images.
            replace: whether other ids that the plan has for this shard are replaced.

        Raises:
            ValueError: the plan has this shard with other ids.
        """
        path, text = self.path(number), _with_checksum(ids)
        if replace or (path.exists() and not _is_complete(path.read_bytes())):
            replace_file(path, lambda file: file.write(text.encode()))
        elif create_file(path, text) != text:
            raise ValueError(f"{path} was written by another process for other images: were images added just now?")

    def numbers(self) -> list[int]:
        """Returns the numbers of the shards of the plan whose files are complete, in ascending order."""
        listed = self.folder.iterdir() if self.folder.exists() else ()
        found = {int(match[1]) for path in listed if (match := re.fullmatch(r"(\d{5,})\.txt", path.name))}
        complete = at_once(lambda number: _is_complete(self.path(number).read_bytes()), found)
        return sorted(number for number, is_complete in zip(found, complete, strict=True) if is_complete)

    def is_of_other_images(self, ids: Lookup) -> bool:
        """Returns whether the plan has images, and none of these."""
        numbers = self.numbers()
        return bool(numbers) and all((ids.find(self.ids(number)) < 0).all() for number in numbers)

    def ids(self, number: int) -> list[str]:
        """Returns the ids of the images that the plan puts into a shard.

        Raises:
            ValueError: the file is damaged.
        """
        text = self.path(number).read_bytes()
        if not _is_complete(text):
            raise ValueError(f"{self.path(number)} is damaged; name another folder")
        return text.decode().split("\n")[:-2]

    def path(self, number: int) -> epath.Path:
        """Returns the path of the file of a shard."""
        return self.folder / f"{shard_name(number)}.txt"


def at_once(function: Callable[[int], T], numbers: Collection[int]) -> list[T]:
    """Returns the results of a function for each shard, called by threads, as each may wait for a store's answer."""
    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(function, numbers))


def _told(made_by: dict[str, str]) -> str:
    return "{source} by weights {weights:.12} with preset {preset} in {dtype}, computed in {computation}".format(
        **made_by
    )


def _with_checksum(ids: Sequence[str]) -> str:
    lines = to_lines(ids)
    return f"{lines.decode()}# {len(ids)} {hash_bytes(lines)[:16]}\n"


def _is_complete(text: bytes) -> bool:
    """Returns whether the last line of a file of the plan is the checksum of the others."""
    end = text.rfind(b"\n", 0, -1) + 1  # without copies, as 32 threads may do this for long files
    expected = f"# {text.count(10, 0, end)} {hash_bytes(memoryview(text)[:end])[:16]}\n"
    return text[end:] == expected.encode()


def _is_torn_json(path: epath.Path) -> bool:
    try:
        json.loads(path.read_bytes())
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def create_file(path: epath.Path, text: str) -> str:
    """Writes a file unless it exists, and returns what it contains then.

    Raises:
        OSError: the file cannot be written; the error names it.
    """
    if path.exists():
        return path.read_text(encoding="utf-8")
    if storage.in_store(os.fspath(path)):  # which has no links
        replace_file(path, lambda file: file.write(text.encode()))
        return path.read_text(encoding="utf-8")
    mine = path.with_name(files.temporary_name(path.name))
    replace_file(mine, lambda file: file.write(text.encode()), name=path)
    try:
        os.link(mine, path)  # unlike a renaming, it replaces nothing
    except FileNotFoundError:  # another process was faster, has finished, and removed the temporary file
        if not path.exists():
            raise
    except OSError:  # another process was faster, or the file system has no links
        if not path.exists():
            mine.replace(path)
    mine.unlink(missing_ok=True)
    return path.read_text(encoding="utf-8")


def replace_file(path: epath.Path, write: Callable[[IO[bytes]], object], *, name: epath.Path | None = None) -> None:
    """Writes a file, on disk or in a store, under a temporary name first; one that exists is replaced.

    Args:
        path: the file.
        write: writes the contents to an open binary file.
        name: what errors call the file.

    Raises:
        OSError: the file cannot be written; the error names it and says what to do.
    """
    try:
        with storage.atomic_writer(os.fspath(path)) as file:
            write(file)
    except FileNotFoundError:  # another process has finished, and removed the temporary file
        if not path.exists():
            raise
    except OSError as error:
        reason = str(error.strerror or error).removeprefix(f"{path} cannot be written: ")
        reason = f"{name or path} cannot be written: {reason}; rerun the command to resume when it can be"
        raise OSError(reason) from error
