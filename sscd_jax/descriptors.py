"""Descriptors with their ids and their provenance, in memory and on disk.

On disk, a set of descriptors is a folder. Each shard has a file of vectors (.npy, float32 or float16, memory-mappable)
and a file of ids (.txt, one id a line), both named after the hash of what they contain. `manifest.json` is written
last; it names the files of all shards, with their hashes, so that vectors never meet the ids of others.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Self

import numpy as np
from etils import epath

from sscd_jax.files import FolderKind, atomic_folder
from sscd_jax.mapped_vectors import MappedVectors, Vectors, check_finite
from sscd_jax.provenance import Provenance, warn_of_another_computation
from sscd_jax.string_list import StringList, repeated

MANIFEST = "manifest.json"
FORMAT, VERSION = "sscd_jax descriptors", 3
DTYPES = ("float32", "float16")
HASHED = r"-\d{5,}-[0-9a-f]{16}"  # the number of the shard, and the start of the hash of the content
# What a folder of descriptors may contain; embedding/shards.py says what each file is.
FOLDER = FolderKind(
    FORMAT,
    VERSION,
    rf"manifest\.json|errors\.jsonl|(vectors{HASHED}\.npy)|(ids{HASHED}\.txt)|(images{HASHED}\.npy)"
    rf"|(errors{HASHED}\.jsonl)|(shard-\d{{5,}}\.json)|(saved-\d{{5,}}-\w+-\d+\.npz)|plan/(made_by\.json|format\.json|files\.jsonl|\d{{5,}}\.txt)",
    (MANIFEST, "plan/made_by.json", "plan/format.json"),
)
_BLOCK, _MOST_MAPPED = 4096, 512  # rows that are written or hashed at once, and files that are mapped, and so open


@dataclass(frozen=True)
class Descriptors:
    """A set of descriptors.

    Attributes:
        ids: N unique names of images.
        vectors: float32 [N, D], the descriptor of each: an array, or `MappedVectors` where a folder has several shards.
        provenance: the weights and the preset that made them.

    Raises:
        ValueError: there are not as many ids as vectors, ids are not unique, or a vector is not finite.

    Examples:
        >>> found = Descriptors.read("descriptors")
        >>> found.ids[0], found.vectors.shape
        ('a/001', (251, 512))
    """

    ids: Sequence[str]
    vectors: Vectors
    provenance: Provenance

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            raise ValueError(f"vectors must be float32 [N, D], not {self.vectors.dtype} {list(self.vectors.shape)}")
        if len(self.ids) != len(self.vectors):
            raise ValueError(f"{len(self.ids)} ids for {len(self.vectors)} vectors")
        if twice := repeated(self.ids):
            raise ValueError(f"the id {self.ids[twice[0]]} occurs more than once; ids must be unique")
        if isinstance(self.vectors, np.ndarray):  # those of several files were checked one by one
            check_finite(self.ids, self.vectors)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Writes the descriptors to the folder `path`, as one shard. An earlier set of descriptors in it is replaced.

        After an error the folder is as it was before. Nothing but descriptors is replaced.

        Raises:
            ValueError: `path` holds something else than descriptors, an id cannot be a line of a text file, or there
                are no descriptors.
            OSError: a file cannot be written.
        """
        if not len(self.ids):
            raise ValueError(f"there are no descriptors to write to {path}")
        if bad := next((i for i in self.ids if not is_line(i)), None):
            raise ValueError(f"the id {bad!r} has a line break, or is not valid Unicode: rename that image")
        vectors, lines = np.ascontiguousarray(np.asarray(self.vectors)), to_lines(self.ids)
        record: dict[str, Any] = {"name": shard_name(0), "count": len(self.ids)}
        record["vectors"] = {"file": content_name("vectors", 0, hash_npy(vectors), "npy"), "sha256": hash_npy(vectors)}
        record["ids"] = {"file": content_name("ids", 0, hash_bytes(lines), "txt"), "sha256": hash_bytes(lines)}
        made = manifest([record], vectors.shape[1], "float32", self.provenance)
        with atomic_folder(path, FOLDER.check) as temporary:
            with (temporary / record["vectors"]["file"]).open("wb") as file:
                write_npy(file, vectors)
            (temporary / record["ids"]["file"]).write_bytes(lines)
            (temporary / MANIFEST).write_text(json.dumps(made, indent=2))

    @classmethod
    def read(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Self:
        """Reads a folder of descriptors, on disk or in a store such as gs://BUCKET/NAME.

        On disk, vectors are memory-mapped, and rows are read from there when they are used. In a store, they are read
        into memory.

        Args:
            path: the folder.
            verify: whether to compare the vectors with their SHA-256 and to check that they are finite, which reads all
                of them.

        Raises:
            ValueError: the folder is not a complete set of descriptors, or a file is damaged; the error names the file.
        """
        made = read_manifest(path)
        ids, parts = StringList(), []
        for some, part in read_shards(path, verify=verify):
            if verify:
                check_finite(some, part)
            ids.extend(some)
            parts.append(part)
        vectors: Vectors = MappedVectors(parts, made["dims"])
        if len(parts) == 1 and made["dtype"] == "float32":
            vectors = parts[0]
        elif len(parts) > _MOST_MAPPED:
            vectors = np.asarray(vectors)
        return cls(ids, vectors, Provenance(**made["provenance"]))


def is_line(text: str) -> bool:
    """Returns whether a text can be one line of a UTF-8 file, which is not true of all names of files."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return "\n" not in text and "\r" not in text


def to_lines(ids: Sequence[str]) -> bytes:
    """Returns the content of a file of ids, one a line."""
    return "".join(f"{i}\n" for i in ids).encode()


def shard_name(number: int) -> str:
    """Returns the part of file names that identifies a shard, such as 00007."""
    return f"{number:05d}"


def content_name(kind: str, number: int, sha256: str, extension: str) -> str:
    """Returns the name of a file of a shard, which identifies its content, such as ids-00007-0123456789abcdef.txt."""
    return f"{kind}-{shard_name(number)}-{sha256[:16]}.{extension}"


def hash_bytes(data: bytes | memoryview) -> str:
    """Returns the SHA-256 of bytes, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def hash_npy(array: np.ndarray) -> str:
    """Returns the SHA-256 of dtype, shape and values of an array, hexadecimal."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    for start in range(0, len(array), _BLOCK):
        digest.update(np.ascontiguousarray(array[start : start + _BLOCK]).view(np.uint8).data)
    return digest.hexdigest()


def write_npy(file: IO[bytes], array: np.ndarray) -> None:
    """Writes a C-contiguous array to an open file, byte for byte as `np.save`.

    `np.save` itself reports a full disk without the system's reason: "4096 requested and 0 written".

    Raises:
        OSError: the array cannot be written.
    """
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    for start in range(0, len(array), _BLOCK):
        file.write(array[start : start + _BLOCK].tobytes())


def manifest(
    shards: Sequence[Mapping[str, Any]],
    dims: int,
    dtype: str,
    provenance: Provenance,
    *,
    errors: int = 0,
    not_read: int = 0,
) -> dict[str, Any]:
    """Returns the contents of manifest.json.

    Args:
        shards: for each shard its `name`, its `count` of vectors, and `file` and `sha256` of its `vectors` and `ids`.
        dims: the length of a vector.
        dtype: the type of the vectors in the files, float32 or float16.
        provenance: the weights and the preset that made the vectors.
        errors: the number of images that have no vector.
        not_read: the number of those among them that a disk or a network failed to deliver.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "count": sum(shard["count"] for shard in shards),
        "dims": dims,
        "dtype": dtype,
        "errors": errors,
        "not_read": not_read,
        "shards": [{name: shard[name] for name in ("name", "count", "vectors", "ids")} for shard in shards],
        "provenance": provenance.as_json(),
    }


def read_manifest(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads the manifest of a folder, a dictionary such as `manifest` returns.

    Raises:
        ValueError: there is no manifest, it is damaged, or another version of this package wrote it.
    """
    file = epath.Path(path) / MANIFEST
    if Path(path).is_file():
        raise ValueError(f"{path} is a file: give the folder of descriptors that `sscd-jax embed` wrote")
    try:
        made = json.loads(file.read_text())
        if (made["format"], made.get("version")) != (FORMAT, VERSION):
            raise ValueError(f"it has the format {made['format']}, version {made.get('version')}, not {VERSION}")
        Provenance(**made["provenance"])
        if made["dtype"] not in DTYPES or made["count"] != sum(shard["count"] for shard in made["shards"]):
            raise ValueError("it contradicts itself")
        if any(
            "/" in shard[name]["file"] or not FOLDER.has(shard[name]["file"])
            for shard in made["shards"]
            for name in ("vectors", "ids")
        ):
            raise ValueError("it names files that are not those of descriptors")
        made["dims"] + 0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: {error}; not a complete set of descriptors, rerun `sscd-jax embed`") from error
    return made


def is_descriptors(place: str) -> bool:
    """Returns whether a place is a folder of descriptors, which may be incomplete, and not a source of images."""
    if place == "-" or place.startswith(("http://", "https://", "tfds:")):
        return False
    for marker in FOLDER.markers:
        try:
            if json.loads((epath.Path(place) / marker).read_text())["format"] == FORMAT:
                return True
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return False


def read_shards(path: str | os.PathLike[str], *, verify: bool = True) -> Iterator[tuple[StringList, np.ndarray]]:
    """Reads the shards of a folder one after the other.

    Args:
        path: the folder, on disk or in a store.
        verify: whether to compare the vectors with their SHA-256; ids are always compared.

    Yields:
        The n ids of a shard, and their vectors, float32 or float16 [n, D], memory-mapped where they are on disk.

    Raises:
        ValueError: the folder is not a complete set of descriptors, or a file is damaged; the error names the file.
    """
    folder, made = epath.Path(path), read_manifest(path)
    for shard in made["shards"]:
        file = folder / shard["ids"]["file"]
        try:
            lines = file.read_bytes()
            if hash_bytes(lines) != shard["ids"]["sha256"]:
                raise ValueError("its SHA-256 is not the one in the manifest")
            ids = StringList.from_lines(lines)
            file = folder / shard["vectors"]["file"]
            vectors = load_npy(file)
            if verify and hash_npy(vectors) != shard["vectors"]["sha256"]:
                raise ValueError("its SHA-256 is not the one in the manifest")
        except (OSError, ValueError) as error:
            mark = folder / f"shard-{shard['name']}.json"  # which `embed` writes
            remedy = f"remove {mark} and rerun `sscd-jax embed`" if mark.exists() else "write the descriptors again"
            raise ValueError(f"{file}: {error}; {remedy}") from error
        found = len(ids), str(vectors.dtype), vectors.shape
        if found != (shard["count"], made["dtype"], (shard["count"], made["dims"])):
            raise ValueError(
                f"shard {shard['name']} of {folder} has {found[0]} ids and {found[1]} vectors {list(found[2])}, its "
                f"manifest says {made['dtype']} {[shard['count'], made['dims']]}: write the descriptors again"
            )
        yield ids, vectors


def load_npy(file: epath.Path) -> np.ndarray:
    """Returns the array of an .npy file, memory-mapped where the file is on disk, and in memory where it is in a store.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged.
    """
    try:
        if "://" not in os.fspath(file):
            return np.load(Path(file), mmap_mode="r", allow_pickle=False)
        with file.open("rb") as opened:
            return np.load(opened, allow_pickle=False)
    except ValueError as error:
        if "pickle" in str(error):  # numpy takes any file that does not begin as it should for a pickle
            raise ValueError("it does not begin like an .npy file") from error
        raise


def check_same_provenance(**sets: Descriptors) -> None:
    """Checks that sets of descriptors can be compared.

    A warning says it if they were computed in different ways, with the measured agreement if it is known.

    Args:
        sets: the sets, by the names that an error gives them.

    Raises:
        ValueError: two sets have different weights or presets; the error names both.
    """
    (first_name, first), *others = sets.items()
    for name, other in others:
        if other.provenance != first.provenance:
            raise ValueError(
                f"{first_name} are of {first.provenance}, {name} are of {other.provenance}"
                f"{first.provenance.differences(other.provenance)}: embed both with the same weights and preset"
            )
        warn_of_another_computation(first_name, first.provenance, name, other.provenance)
