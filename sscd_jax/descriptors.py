"""Descriptors with their ids and where they come from, in memory and on disk.

On disk a set is a folder: `vectors-00000.npy` (float32 or float16, memory-mappable) beside `ids-00000.txt` (one a line)
for each shard, and `manifest.json`, which is written last.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

MANIFEST = "manifest.json"
DTYPES = ("float32", "float16")


@dataclass(frozen=True)
class Provenance:
    """What made the descriptors.

    Attributes:
        weights: SHA-256 of the weights, or a word for what has none.
        preset: name of the preset that resized and normalized the images.
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
        """Writes the folder `path`, in one shard, under a temporary name first; a set that is there is replaced.

        Raises:
            ValueError: `path` is there and is not a set of descriptors, an id has a line break, or there is nothing.
        """
        folder = Path(path)
        if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise ValueError(f"{folder} is there already and is not a set of descriptors: name another folder")
        if not len(self.ids):
            raise ValueError(f"there are no descriptors to write to {folder}")
        if bad := next((i for i in self.ids if not is_line(i)), None):
            raise ValueError(f"the id {bad!r} has a line break, or is no Unicode: rename that image")
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        np.save(unfinished / f"vectors-{shard_name(0)}.npy", self.vectors, allow_pickle=False)
        (unfinished / f"ids-{shard_name(0)}.txt").write_text("".join(f"{i}\n" for i in self.ids), encoding="utf-8")
        made = manifest([len(self.ids)], self.vectors.shape[1], "float32", self.provenance)
        (unfinished / MANIFEST).write_text(json.dumps(made, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a folder; one shard of float32 is memory-mapped, others are joined in memory, as float32.

        Raises:
            ValueError: the folder is not a complete set of descriptors; names the file.
        """
        made = read_manifest(path)
        shards = list(read_shards(path))
        ids = [i for shard, _ in shards for i in shard]
        if len(shards) == 1 and made["dtype"] == "float32":
            vectors = shards[0][1]
        else:
            vectors = np.concatenate([np.empty((0, made["dims"]), np.float32), *(v for _, v in shards)])
        return cls(ids, vectors, Provenance(**made["provenance"]))


def is_line(text: str) -> bool:
    """Whether a text can be a line of a file; names of files need not."""
    return "\n" not in text and "\r" not in text and not any(0xD800 <= ord(c) < 0xE000 for c in text)


def shard_name(number: int) -> str:
    """Of the files of a shard."""
    return f"{number:05d}"


def manifest(
    counts: Sequence[int], dims: int, dtype: str, provenance: Provenance, *, errors: int = 0
) -> dict[str, Any]:
    """What manifest.json says of shards of so many vectors, and of so many images that have none."""
    return {
        "format": 2,
        "count": sum(counts),
        "dims": dims,
        "dtype": dtype,
        "errors": errors,
        "shards": [{"name": shard_name(number), "count": count} for number, count in enumerate(counts)],
        "provenance": {
            "weights": provenance.weights,
            "preset": provenance.preset,
            "details": dict(provenance.details),
        },
    }


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What `manifest` made.

    Raises:
        ValueError: there is none, or it is damaged.
    """
    file = Path(path) / MANIFEST
    try:
        made = json.loads(file.read_text())
        Provenance(**made["provenance"])
        if made["dtype"] not in DTYPES or made["count"] != sum(shard["count"] for shard in made["shards"]):
            raise ValueError("it contradicts itself")
        made["dims"] + 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file}: {error}; not a complete set of descriptors, write it anew with `sscd-jax embed`"
        ) from error
    return made


def read_shards(path: str | os.PathLike[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """The shards of a folder one after the other: ids, and their vectors, memory-mapped, float32 or float16 [n, D].

    Raises:
        ValueError: the folder is not a complete set of descriptors; names the file.
    """
    folder, made = Path(path), read_manifest(path)
    for shard in made["shards"]:
        file = folder / f"vectors-{shard['name']}.npy"
        try:
            vectors = np.load(file, mmap_mode="r", allow_pickle=False)
            file = folder / f"ids-{shard['name']}.txt"
            ids = file.read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: {error}; write the descriptors anew") from error
        found = len(ids), str(vectors.dtype), vectors.shape
        if found != (shard["count"], made["dtype"], (shard["count"], made["dims"])):
            raise ValueError(
                f"shard {shard['name']} of {folder} has {found[0]} ids and {found[1]} vectors {list(found[2])}, its "
                f"manifest says {made['dtype']} {[shard['count'], made['dims']]}: write the descriptors anew"
            )
        yield ids, vectors


def check_same_provenance(**sets: Descriptors) -> None:
    """Raises ValueError where descriptors of different weights or presets would be compared; names both."""
    (first_name, first), *others = sets.items()
    for name, other in others:
        if other.provenance != first.provenance:
            raise ValueError(
                f"{first_name} are of {first.provenance}, {name} are of {other.provenance}: "
                "embed both with the same weights and preset"
            )
