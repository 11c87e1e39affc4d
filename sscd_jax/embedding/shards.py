"""The folder of descriptors that `embed` writes: planned first, then computed and written shard by shard.

    plan/made_by.json           what is embedded, and how; descriptors of any other kind are refused
    plan/00000.txt ...          ids of the images of a shard, fixed before any is embedded; a checksum at the end
    vectors-00000-HASH.npy      their descriptors, without those of images that could not be read
    ids-00000-HASH.txt          ids of the rows
    images-00000-HASH.npy       size, time and hash of the content of the image of each row (see `saved_rows.IMAGE`)
    errors-00000-HASH.jsonl     the images that could not be read, and why; only if there are any
    shard-00000.json            the names and hashes of these files; written last, so the shard is complete if it exists
    saved-00000-*.npz           rows of a shard that is being computed, removed when the shard is complete
    manifest.json, errors.jsonl written when all shards are complete

The plan makes the work resumable and shareable: whoever continues it, alone or beside others, computes the same shards.
HASH is the hash of the content: two processes that write the same shard at once never replace each other's files, and
the one file that they both write, shard-00000.json, names a complete set of files of one of them. Files are written
under temporary names first (see `sscd_jax.files`); leftovers are removed at the end.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from operator import methodcaller
from typing import Any

import numpy as np
from etils import epath

from sscd_jax.descriptors import (
    FOLDER,
    MANIFEST,
    Provenance,
    content_name,
    hash_bytes,
    hash_npy,
    load_npy,
    manifest,
    shard_name,
    to_lines,
    write_npy,
)
from sscd_jax.embedding.plan import Plan, at_once, replace_file
from sscd_jax.embedding.saved_rows import SavedRows

KINDS = {"vectors": "npy", "ids": "txt", "images": "npy", "errors": "jsonl"}


class Shards:
    """The shards of a folder, as one of the processes that may work on it sees them.

    Args:
        folder: the folder of descriptors, on disk or in a store; it is created if it does not exist.
        provenance: the weights, the preset and the computation of the descriptors.
        dtype: the type of the vectors in the files, float32 or float16.
        source: where the images come from, an absolute path if it is one. A folder that holds descriptors of another
            source is refused.
        moved: whether the source of the folder is replaced by `source`, because the images were moved.
        check: whether to check all files of the folder. One process in many may leave that to the one that began.

    Raises:
        ValueError: the folder holds something else, or descriptors of another kind.
    """

    def __init__(
        self,
        folder: epath.PathLike,
        provenance: Provenance,
        dtype: str,
        source: str,
        *,
        moved: bool = False,
        check: bool = True,
    ) -> None:
        self.folder, self.provenance, self.dtype = epath.Path(folder), provenance, dtype
        self.plan, self.saved = Plan(self.folder), SavedRows(self.folder)
        if check:
            FOLDER.check(self.folder)
        complete = self.complete() if check else set()
        self.plan.begin(provenance, dtype, source, is_new=check and not complete, moved=moved)
        if complete and (lost := complete.difference(self.plan.numbers())):
            path = self.plan.path(min(lost))
            raise ValueError(f"{path} is damaged or missing, and its shard is complete; name another folder")

    def complete(self) -> set[int]:
        """Returns the numbers of the shards that are complete."""
        numbers = self._numbers(r"shard-(\d+)\.json")
        return {n for n, is_complete in zip(numbers, at_once(self.is_complete, numbers), strict=True) if is_complete}

    def is_complete(self, number: int) -> bool:
        """Returns whether a shard is complete."""
        return self.record(number) is not None

    def record(self, number: int) -> dict[str, Any] | None:
        """Returns what shard-00000.json says of a shard; None if the shard is not complete."""
        try:
            made = json.loads((self.folder / f"shard-{shard_name(number)}.json").read_text())
            assert made["name"] == shard_name(number)
            assert all(FOLDER.has(made[kind]["file"]) for kind in KINDS if made[kind])
        except (FileNotFoundError, ValueError, LookupError, TypeError, AssertionError):
            return None  # a file that a killed process has left, on a file system whose renaming is not atomic
        return made

    def write(
        self,
        number: int,
        ids: Sequence[str],
        vectors: np.ndarray,
        images: np.ndarray,
        errors: Sequence[Mapping[str, Any]],
        *,
        replace: bool = False,
    ) -> None:
        """Writes a shard, unless it is complete already.

        Args:
            number: the number of the shard.
            ids: the ids of the n images that have a descriptor.
            vectors: float32 [n, D], the descriptors.
            images: `IMAGE` [n], what was embedded.
            errors: for each image that has none: id, path, reason and what else is known.
            replace: whether a complete shard is replaced.

        Raises:
            OSError: a file cannot be written, for example because the disk is full; the error names it.
        """
        if replace or not self.is_complete(number):  # otherwise another process was faster and wrote the same
            arrays = {"vectors": vectors.astype(self.dtype), "images": np.ascontiguousarray(images)}
            texts = {"ids": to_lines(ids)} | ({"errors": _json_lines(errors)} if errors else {})
            try:
                self._write(number, len(ids), arrays, texts, replace=replace)
            except FileNotFoundError:  # another process was faster, has finished, and removed our temporary files
                if not self.is_complete(number):
                    raise
        self.saved.remove({number})

    def _write(
        self, number: int, count: int, arrays: Mapping[str, np.ndarray], texts: Mapping[str, bytes], *, replace: bool
    ) -> None:
        record: dict[str, Any] = {"name": shard_name(number), "count": count} | dict.fromkeys(KINDS)
        for kind, array in arrays.items():
            record[kind] = self._named(kind, number, hash_npy(array))
            replace_file(self.folder / record[kind]["file"], partial(write_npy, array=array))
        for kind, text in texts.items():
            record[kind] = self._named(kind, number, hash_bytes(text))
            replace_file(self.folder / record[kind]["file"], methodcaller("write", text))
        if replace or not self.is_complete(number):
            made = json.dumps(record, indent=2).encode()
            replace_file(self.folder / f"shard-{shard_name(number)}.json", methodcaller("write", made))

    def _named(self, kind: str, number: int, sha256: str) -> dict[str, str]:
        return {"file": content_name(kind, number, sha256, KINDS[kind]), "sha256": sha256}

    def undo(self, number: int) -> None:
        """Marks a shard as unwritten, so that it is computed again."""
        (self.folder / MANIFEST).unlink(missing_ok=True)
        (self.folder / f"shard-{shard_name(number)}.json").unlink(missing_ok=True)

    def finish(
        self,
        dims: int,
        errors: Sequence[Mapping[str, Any]] = (),
        *,
        probe: Sequence[Sequence[float]] = (),
        max_not_read: int | None = None,
    ) -> dict[str, Any] | None:
        """Writes and returns the manifest if all shards are complete; returns None while some are not.

        Args:
            dims: the length of a descriptor.
            errors: path and reason of images without a descriptor that are in no shard.
            probe: descriptors of known images, which show how near another computation comes; see `collection.probe`.
            max_not_read: the largest number of images that a disk or a network failed to deliver; None for any number.

        Raises:
            ValueError: no image could be read, or a file of vectors is damaged; the error says what to do.
            OSError: more images than `max_not_read` were not read from a disk or a network; or a file cannot be
                written, for example because the disk is full. The error names the file.
        """
        numbers = self.plan.numbers()
        shards = [one for one in at_once(self.record, numbers) if one is not None]
        if len(shards) < len(numbers):
            return None
        lost = not_read = 0

        def join(file: Any) -> None:  # part by part: the errors of a large collection may not fit into memory
            nonlocal lost, not_read
            with_errors = (number for number, one in zip(numbers, shards, strict=True) if one["errors"])
            for some in itertools.chain([errors], map(self.errors, with_errors)):
                file.write(_json_lines(some))
                lost += len(some)
                not_read += sum(error["kind"] == "read" for error in some)

        path = self.folder / "errors.jsonl"
        if errors or any(one["errors"] for one in shards):
            replace_file(path, join)
        else:
            path.unlink(missing_ok=True)  # left by an earlier call
        if max_not_read is not None and not_read > max_not_read:
            raise OSError(
                f"{not_read} images could not be read from the disk or the network; {path} lists them. Fix that and "
                f"rerun the command with --retry; --max-errors {not_read} leaves them out"
            )
        at_once(partial(self._check_size, dims=dims), numbers)
        if not any(one["count"] for one in shards):
            raise ValueError(f"no image could be read: {path} says why")
        details = {**self.provenance.details} | ({"probe": probe} if len(probe) else {})
        made_by = Provenance(self.provenance.weights, self.provenance.preset, details, self.provenance.computation)
        made = manifest(shards, dims, self.dtype, made_by, errors=lost, not_read=not_read)
        replace_file(self.folder / MANIFEST, lambda file: file.write(json.dumps(made, indent=2).encode()))
        self._tidy(made)
        return made

    def _tidy(self, made: Mapping[str, Any]) -> None:
        """Removes what killed or slower processes have left, but no file that another process may be writing now."""
        numbers = {int(one["name"]) for one in made["shards"]}
        self.saved.remove(numbers)
        written = [
            path for path in self.folder.iterdir() if (m := _CONTENT.match(path.name)) and int(m[1] or m[2]) in numbers
        ]
        # The records are read after the listing, and a complete shard's is not replaced but on purpose.
        used = {one[kind]["file"] for one in made["shards"] for kind in ("vectors", "ids")}
        records = [one for one in at_once(self.record, numbers) if one]
        used |= {one[kind]["file"] for one in records for kind in KINDS if one[kind]}
        for path in written:
            if path.name.startswith(".") or path.name not in used:
                path.unlink(missing_ok=True)
        for path in self.plan.folder.glob(".*.tmp"):
            match = _TEMPORARY.fullmatch(path.name)
            if match and path.with_name(match[1]).exists():
                path.unlink(missing_ok=True)

    def ids(self, number: int) -> list[str]:
        """Returns the ids of the vectors of a complete shard."""
        return self._text(number, "ids").decode().split("\n")[:-1]

    def vectors(self, number: int) -> np.ndarray:
        """Returns the vectors of a complete shard, float32 [n, D]."""
        return self._array(number, "vectors").astype(np.float32)

    def images(self, number: int) -> np.ndarray:
        """Returns what was embedded, `IMAGE` [n], of a complete shard."""
        return self._array(number, "images")

    def errors(self, number: int) -> list[dict[str, Any]]:
        """Returns path and reason of each image of a complete shard that could not be read."""
        return [json.loads(line) for line in self._text(number, "errors").decode().split("\n")[:-1]]

    def _file(self, number: int, kind: str) -> dict[str, str] | None:
        record = self.record(number)
        if record is None:
            raise ValueError(f"shard {shard_name(number)} of {self.folder} is not complete")
        return record[kind]

    def _text(self, number: int, kind: str) -> bytes:
        if not (there := self._file(number, kind)):
            return b""
        text = (self.folder / there["file"]).read_bytes()
        if hash_bytes(text) != there["sha256"]:
            raise ValueError(self._damaged(number, there["file"], "its SHA-256 is not the one that was recorded"))
        return text

    def _array(self, number: int, kind: str) -> np.ndarray:
        there = self._file(number, kind)
        assert there
        try:
            array = load_npy(self.folder / there["file"])
            if hash_npy(array) != there["sha256"]:
                raise ValueError("its SHA-256 is not the one that was recorded")
        except (OSError, ValueError) as error:
            raise ValueError(self._damaged(number, there["file"], error)) from error
        return array

    def _check_size(self, number: int, dims: int) -> None:
        """Checks that the file of vectors of a complete shard has as many as the shard."""
        record = self.record(number)
        assert record
        path = self.folder / record["vectors"]["file"]
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                shape, _, dtype = np.lib.format.read_array_header_1_0(file)
                is_complete = path.stat().length == file.tell() + record["count"] * dims * dtype.itemsize
            if not is_complete or (shape, dtype) != ((record["count"], dims), np.dtype(self.dtype)):
                raise ValueError(f"it has {dtype} {list(shape)} by its header")
        except (OSError, ValueError) as error:
            raise ValueError(self._damaged(number, path.name, error)) from error

    def _damaged(self, number: int, name: str, error: object) -> str:
        hint = f"remove shard-{shard_name(number)}.json beside it and rerun the command"
        return f"{self.folder / name} is damaged: {error}; {hint}"

    def _numbers(self, pattern: str) -> set[int]:
        """Returns the numbers in the names of files, from one listing of the folder."""
        listed = self.folder.iterdir() if self.folder.exists() else ()
        return {int(match[1]) for path in listed if (match := re.fullmatch(pattern, path.name))}


_CONTENT = re.compile(rf"(?:{'|'.join(KINDS)})-(\d+)-[0-9a-f]{{16}}\.|\.(?:{'|'.join(KINDS)}|shard)-(\d+).*\.tmp")
_TEMPORARY = re.compile(r"\.+(.+?)\.[0-9a-f]{12}\.tmp.*")  # as files.py and `create_file` name them


def _json_lines(rows: Sequence[Mapping[str, Any]]) -> bytes:
    # Names of files need not be valid Unicode; bytes that are not become escapes, which JSON has too.
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "backslashreplace")
