"""Descriptors with their ids and their provenance, in memory and on disk.

On disk, a set of descriptors is a folder. Each shard has `vectors-00000.npy` (float32 or float16, memory-mappable) and
`ids-00000.txt` (one id a line); `manifest.json` describes all shards and is written last.
"""

import json
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import numpy as np

from sscd_jax.files import atomic_folder

MANIFEST = "manifest.json"
DTYPES = ("float32", "float16")
_BLOCK = 4096  # rows that are written at once


@dataclass(frozen=True)
class Provenance:
    """What made the descriptors. Only descriptors of equal provenance can be compared.

    Attributes:
        weights: the SHA-256 of the weights, or a name for methods without weights.
        preset: the name of the preset that resized and normalized the images.
        details: further facts, such as the preset's parameters and the versions of packages; they are not compared.
    """

    weights: str
    preset: str
    details: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __str__(self) -> str:
        return f"weights {self.weights[:12]} with preset {self.preset}"


@dataclass(frozen=True)
class Descriptors:
    """A set of descriptors.

    Attributes:
        ids: N unique names of images.
        vectors: float32 [N, D], the descriptor of each.
        provenance: the weights and the preset that made them.

    Raises:
        ValueError: there are not as many ids as vectors, ids are not unique, or a vector is not finite.

    Examples:
        >>> found = Descriptors.read("descriptors")
        >>> found.ids[0], found.vectors.shape
        ('a/001', (251, 512))
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
            raise ValueError(f"the id {twice} occurs more than once; ids must be unique")
        finite = np.isfinite(self.vectors).all(1)
        if not finite.all():
            raise ValueError(f"the vector of {self.ids[int(np.argmin(finite))]} is not finite")

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the descriptors to the folder `path`, as one shard. An earlier set of descriptors in it is replaced.

        After an error the folder is as it was before.

        Raises:
            ValueError: `path` exists and is not a set of descriptors, an id cannot be a line of a text file, or there
                are no descriptors.
            OSError: a file cannot be written.
        """
        folder = Path(path)
        if folder.exists() and any(folder.iterdir()) and not (folder / MANIFEST).is_file():
            raise ValueError(f"{folder} exists already and is not a set of descriptors: name another folder")
        if not len(self.ids):
            raise ValueError(f"there are no descriptors to write to {folder}")
        if bad := next((i for i in self.ids if not is_line(i)), None):
            raise ValueError(f"the id {bad!r} has a line break, or is not valid Unicode: rename that image")
        made = manifest([len(self.ids)], self.vectors.shape[1], "float32", self.provenance)
        with atomic_folder(folder) as temporary:
            with (temporary / f"vectors-{shard_name(0)}.npy").open("wb") as file:
                write_npy(file, np.ascontiguousarray(self.vectors))
            lines = "".join(f"{i}\n" for i in self.ids)
            (temporary / f"ids-{shard_name(0)}.txt").write_text(lines, encoding="utf-8", newline="\n")
            (temporary / MANIFEST).write_text(json.dumps(made, indent=2))

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Reads a folder of descriptors.

        A single shard of float32 is memory-mapped. Several shards are joined in memory, as float32.

        Raises:
            ValueError: the folder is not a complete set of descriptors; the error names the file.
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
    """Returns whether a text can be one line of a UTF-8 file, which is not true of all names of files."""
    return "\n" not in text and "\r" not in text and not any(0xD800 <= ord(c) < 0xE000 for c in text)


def shard_name(number: int) -> str:
    """Returns the part of file names that identifies a shard, such as 00007."""
    return f"{number:05d}"


def write_npy(file: IO[bytes], vectors: np.ndarray) -> None:
    """Writes a C-contiguous array [N, D] to an open file, byte for byte as `np.save`.

    `np.save` itself reports a full disk without the system's reason: "4096 requested and 0 written".

    Raises:
        OSError: the array cannot be written.
    """
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(vectors))
    for start in range(0, len(vectors), _BLOCK):
        file.write(vectors[start : start + _BLOCK].tobytes())


def manifest(
    counts: Sequence[int], dims: int, dtype: str, provenance: Provenance, *, errors: int = 0
) -> dict[str, Any]:
    """Returns the contents of manifest.json.

    Args:
        counts: the number of vectors in each shard.
        dims: the length of a vector.
        dtype: the type of the vectors in the files, float32 or float16.
        provenance: the weights and the preset that made the vectors.
        errors: the number of images that could not be read and have no vector.
    """
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
    """Reads the manifest of a folder, a dictionary such as `manifest` returns.

    Raises:
        ValueError: there is no manifest, or it is damaged.
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
            f"{file}: {error}; not a complete set of descriptors, write it again with `sscd-jax embed`"
        ) from error
    return made


def read_shards(path: str | os.PathLike[str]) -> Iterator[tuple[list[str], np.ndarray]]:
    """Reads the shards of a folder one after the other.

    Yields:
        The n ids of a shard, and their vectors, float32 or float16 [n, D], memory-mapped.

    Raises:
        ValueError: the folder is not a complete set of descriptors; the error names the file.
    """
    folder, made = Path(path), read_manifest(path)
    for shard in made["shards"]:
        file = folder / f"vectors-{shard['name']}.npy"
        try:
            vectors = np.load(file, mmap_mode="r", allow_pickle=False)
            file = folder / f"ids-{shard['name']}.txt"
            ids = file.read_text(encoding="utf-8").split("\n")[:-1]
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: {error}; write the descriptors again") from error
        found = len(ids), str(vectors.dtype), vectors.shape
        if found != (shard["count"], made["dtype"], (shard["count"], made["dims"])):
            raise ValueError(
                f"shard {shard['name']} of {folder} has {found[0]} ids and {found[1]} vectors {list(found[2])}, its "
                f"manifest says {made['dtype']} {[shard['count'], made['dims']]}: write the descriptors again"
            )
        yield ids, vectors


def check_same_provenance(**sets: Descriptors) -> None:
    """Checks that sets of descriptors can be compared.

    Args:
        sets: the sets, by the names that an error gives them.

    Raises:
        ValueError: two sets have different weights or presets; the error names both.
    """
    (first_name, first), *others = sets.items()
    for name, other in others:
        if other.provenance != first.provenance:
            raise ValueError(
                f"{first_name} are of {first.provenance}, {name} are of {other.provenance}: "
                "embed both with the same weights and preset"
            )
