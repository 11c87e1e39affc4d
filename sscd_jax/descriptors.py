"""Descriptors with their ids and where they come from, in memory and on disk.

On disk a set is a folder: `vectors-00000.npy` (float32, memory-mappable) beside `ids-00000.txt` (one a line) for each
shard, and `manifest.json`, which is written last.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Provenance:
    """What made the descriptors.

    Attributes:
        weights: SHA-256 of the weights, or a word for what has none.
        preset: name of the preset that resized and normalised the pictures.
        details: the preset's parameters, versions of packages and the like; not compared.
    """

    weights: str
    preset: str
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"weights {self.weights[:12]} with preset {self.preset}"


@dataclass(frozen=True)
class Descriptors:
    """Ids, their vectors, float32 [N, D], and what made them.

    Raises:
        ValueError: ids and vectors do not belong together, ids are not unique, or a vector is not finite.
    """

    ids: Sequence[str]
    vectors: np.ndarray
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise ValueError(f"vectors must be float32 [N, D], not {self.vectors.dtype} {list(self.vectors.shape)}")
        if len(self.ids) != len(self.vectors):
            raise ValueError(f"{len(self.ids)} ids for {len(self.vectors)} vectors")
        if len(set(self.ids)) != len(self.ids):
            (twice, _), *_ = Counter(self.ids).most_common(1)
            raise ValueError(f"the id {twice} is there more than once; ids must be unique")
        finite = np.isfinite(self.vectors).all(1)
        if not finite.all():
            raise ValueError(f"the vector of {self.ids[int(np.argmin(finite))]} is not finite")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the folder `path`, in one shard; see `write_shards`."""
        write_shards(path, [(self.ids, self.vectors)], self.provenance)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a folder; one shard is memory-mapped, several are joined in memory.

        Raises:
            ValueError: the folder is not a complete set of descriptors; names the file.
        """
        folder = Path(path)
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            provenance = Provenance(**manifest["provenance"])
            names, count, dims = manifest["shards"], manifest["count"], manifest["dims"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{folder / MANIFEST}: {error}; not a complete set of descriptors, write it anew with `sscd-jax embed`"
            ) from error
        ids: list[str] = []
        shards = []
        for name in names:
            file = folder / f"vectors-{name}.npy"
            try:
                shards.append(np.load(file, mmap_mode="r", allow_pickle=False))
                file = folder / f"ids-{name}.txt"
                ids += file.read_text(encoding="utf-8").split("\n")[:-1]
            except (OSError, ValueError) as error:
                raise ValueError(f"{file}: {error}; write the descriptors anew") from error
        vectors = shards[0] if len(shards) == 1 else np.concatenate([np.empty((0, dims), np.float32), *shards])
        if vectors.shape != (count, dims) or len(ids) != count:
            raise ValueError(
                f"{folder} has {len(ids)} ids and vectors {list(vectors.shape)}, its manifest says {[count, dims]}: "
                "write the descriptors anew"
            )
        return cls(ids, vectors, provenance)


def write_shards(
    path: str | os.PathLike[str],
    batches: Iterable[tuple[Sequence[str], np.ndarray]],
    provenance: Provenance,
    *,
    errors: Sequence[Mapping[str, str]] = (),
    shard_size: int = 1_000_000,
) -> int:
    """Writes a stream of (ids, vectors float32 [n, D]) as a folder, in constant memory, and returns how many.

    The folder is made under a temporary name and renamed when it is whole; one that is there already is replaced.

    Args:
        path: the folder.
        batches: the stream.
        provenance: what made the vectors.
        errors: what has no vector and why; may grow while the stream is read; goes to errors.jsonl, a line each.
        shard_size: vectors a shard, at least.

    Raises:
        ValueError: `path` is there and is not a set of descriptors, an id has a line break, or there is nothing.
    """
    folder = Path(path)
    if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} is there already and is not a set of descriptors: name another folder")
    unfinished = folder.with_name(f"{folder.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    names: list[str] = []
    count, dims = 0, 0
    pending: list[tuple[Sequence[str], np.ndarray]] = []

    def flush() -> None:
        name = f"{len(names):05d}"
        vectors = np.concatenate([v for _, v in pending])
        np.save(unfinished / f"vectors-{name}.npy", vectors, allow_pickle=False)
        ids = [i for shard_ids, _ in pending for i in shard_ids]
        if any("\n" in i or "\r" in i for i in ids):
            raise ValueError("an id has a line break: rename that picture")
        (unfinished / f"ids-{name}.txt").write_text("".join(f"{i}\n" for i in ids), encoding="utf-8")
        names.append(name)
        pending.clear()

    for ids, vectors in batches:
        pending.append((ids, vectors))
        count, dims = count + len(ids), vectors.shape[1]
        if sum(len(v) for _, v in pending) >= shard_size:
            flush()
    if pending:
        flush()
    if not count:
        shutil.rmtree(unfinished)
        raise ValueError(f"there are no descriptors to write to {folder}: could no picture be read?")
    manifest = {
        "format": 1,
        "count": count,
        "dims": dims,
        "dtype": "float32",
        "shards": names,
        "provenance": {
            "weights": provenance.weights,
            "preset": provenance.preset,
            "details": dict(provenance.details),
        },
    }
    if errors:
        (unfinished / "errors.jsonl").write_text("".join(json.dumps(error) + "\n" for error in errors))
    (unfinished / MANIFEST).write_text(json.dumps(manifest, indent=2))
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.rename(folder)
    return count


def check_same_provenance(**sets: Descriptors) -> None:
    """Raises ValueError where descriptors of different weights or presets would be compared; names both."""
    (first_name, first), *others = sets.items()
    for name, other in others:
        if other.provenance != first.provenance:
            raise ValueError(
                f"{first_name} are of {first.provenance}, {name} are of {other.provenance}: "
                "embed both with the same weights and preset"
            )
