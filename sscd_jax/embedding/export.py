"""Exports descriptors for other tools: numpy, faiss, Arrow and pandas, and the HDF5 files of ISC2021."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.descriptors import Descriptors, check_same_provenance, read_manifest, read_shards
from sscd_jax.files import atomic_file, check_file, write_text

FORMAT = "sscd_jax export"
PathLike = str | os.PathLike[str]


def export_descriptors(folder: PathLike, out: Path, *, references: PathLike | None = None) -> None:
    """Writes a folder of descriptors as one file, whose format follows from its extension.

    - `.npy`: one memory-mappable array [N, D] of the folder's dtype.
    - `.faiss`: an index for inner products. Its labels are the rows.
    - `.parquet`: the columns `id` (string) and `vector` (list of fixed size, of the folder's dtype).
    - `.hdf5` or `.h5`: the datasets `vectors` (float32 [N, D]) and `image_names`, as isc2021's
      `write_hdf5_descriptors` writes them. With `references` the datasets `query`, `reference` (float32), `query_ids`
      and `reference_ids`, as its `convert_track2_format.py` writes them: a submission to ISC2021.

    Beside `.npy` and `.faiss` there are OUT.ids.txt, the ids of the rows, one a line, and OUT.json with the provenance
    and the SHA-256 of both files. `.parquet` and `.hdf5` have the provenance as JSON in the metadata of the schema or
    in the attributes of the file, under the name sscd_jax.

    Writing `.npy` and `.parquet` takes the memory of one shard, `.hdf5` that of one shard and all ids, and the others
    that of all descriptors. The file appears under its name when it is complete.

    Args:
        folder: the folder of descriptors; those of the queries if `references` is given.
        out: the file; an export that exists is replaced.
        references: the folder of descriptors of the references, for a submission to ISC2021.

    Raises:
        ValueError: the extension is unknown, the file exists and is not an export, a folder is not a complete set of
            descriptors, or the two folders differ in weights or preset.
        ImportError: the format needs an extra; the error names it.
        OSError: the file cannot be written.

    Examples:
        >>> export_descriptors("descriptors", Path("all.npy"))
        >>> np.load("all.npy", mmap_mode="r").shape
        (251, 512)
    """
    writers: dict[str, Callable[[PathLike, Path, Mapping[str, Any]], None]] = {
        ".npy": _npy,
        ".faiss": _faiss,
        ".parquet": _parquet,
        ".hdf5": _hdf5,
        ".h5": _hdf5,
    }
    if out.suffix not in writers or out.is_dir() or not out.parent.is_dir():
        raise ValueError(
            f"--out {out}: it must be a file in a folder that exists, with the extension {', '.join(writers)}"
        )
    if references and writers[out.suffix] is not _hdf5:
        raise ValueError(f"--out {out}: queries and references go into one file only in .hdf5")
    check_file(out, read_card)
    if out.suffix in (".npy", ".faiss"):
        _check_companions(out)
    card = _card(folder)
    with atomic_file(out) as temporary:
        if references:
            _submission(folder, references, temporary, card)
        else:
            writers[out.suffix](folder, temporary, card)
        if out.suffix in (".npy", ".faiss"):
            ids_file = out.with_name(f"{out.name}.ids.txt")
            with atomic_file(ids_file) as temporary_ids:
                _ids(folder, temporary_ids)
                card["files"] = {out.name: _hash(temporary), ids_file.name: _hash(temporary_ids)}
                # First, so that the other files are known as ours if the process is killed.
                write_text(_sidecar(out), json.dumps(card, indent=2))


def read_card(out: Path) -> dict[str, Any]:
    """Returns what an export says of itself: format, version, provenance, count, dims, and dtype.

    Raises:
        ValueError: the file is not an export.
        ImportError: the format needs an extra; the error names it.
    """
    text: Any = "{}"
    try:
        if out.suffix == ".parquet":
            text = _pyarrow()[1].read_schema(out).metadata[b"sscd_jax"]
        elif out.suffix in (".hdf5", ".h5"):
            with _h5py().File(out) as file:
                text = file.attrs["sscd_jax"]
        else:
            text = _sidecar(out).read_text(encoding="utf-8")
        card = json.loads(text)
        if card["format"] != FORMAT:
            raise ValueError(f"its format is {card['format']}")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{out} is not an export of descriptors: {error}") from error
    return card


def _check_companions(out: Path) -> None:
    """Checks that the two files beside an export may be written: they do not exist, or an export wrote them."""
    ids, card = out.with_name(f"{out.name}.ids.txt"), _sidecar(out)
    there = next((path for path in (ids, card) if path.exists() or path.is_symlink()), None)
    if there is None:
        return
    try:
        if ids.name in read_card(out)["files"]:
            return
    except (ValueError, LookupError, TypeError):
        pass
    raise ValueError(
        f"{there} is in the way: this package did not write it, and the export {out.name} needs a file of this name; "
        "move it elsewhere, or name another file"
    )


def _sidecar(out: Path) -> Path:
    return out.with_name(f"{out.name}.json")


def _card(folder: PathLike) -> dict[str, Any]:
    made = read_manifest(folder)
    return {"format": FORMAT, "version": 1} | {n: made[n] for n in ("count", "dims", "dtype", "provenance")}


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _npy(folder: PathLike, out: Path, card: Mapping[str, Any]) -> None:
    """Writes the vectors as one array, shard by shard."""
    made = read_manifest(folder)
    header = {"descr": np.dtype(made["dtype"]).str, "fortran_order": False, "shape": (made["count"], made["dims"])}
    with out.open("wb") as file:  # and not a memory map, whose pages a full disk cannot take: the process would crash
        np.lib.format.write_array_header_1_0(file, header)
        for _, shard in read_shards(folder):
            file.write(np.ascontiguousarray(shard).data)


def _ids(folder: PathLike, out: Path) -> None:
    """Writes the ids, one a line, in the order of the rows."""
    with out.open("w", encoding="utf-8", newline="\n") as file:
        for ids, _ in read_shards(folder):
            file.writelines(f"{one}\n" for one in ids)


def _faiss(folder: PathLike, out: Path, card: Mapping[str, Any]) -> None:
    """Writes a flat index for inner products."""
    from sscd_jax.search.faiss_backend import write_index

    write_index(out, Descriptors.read(folder).vectors)


def _parquet(folder: PathLike, out: Path, card: Mapping[str, Any]) -> None:
    """Writes the columns id and vector, with one row group for each shard."""
    pa, pq = _pyarrow()
    made = read_manifest(folder)
    number = {"float32": pa.float32(), "float16": pa.float16()}[made["dtype"]]
    schema = pa.schema(
        [("id", pa.string()), ("vector", pa.list_(number, made["dims"]))], {"sscd_jax": json.dumps(card)}
    )
    with pq.ParquetWriter(out, schema) as writer:
        for ids, shard in read_shards(folder):
            column = pa.FixedSizeListArray.from_arrays(pa.array(shard.ravel()), made["dims"])
            writer.write_table(pa.table({"id": [*ids], "vector": column}, schema))


def _hdf5(folder: PathLike, out: Path, card: Mapping[str, Any]) -> None:
    """Writes vectors and image_names, shard by shard."""
    made = read_manifest(folder)
    names: list[str] = []
    with _h5py().File(out, "w") as file:
        file.attrs["sscd_jax"] = json.dumps(card)
        vectors = file.create_dataset("vectors", (made["count"], made["dims"]), np.float32)
        for start, ids, shard in _placed(folder):
            vectors[start : start + len(ids)] = shard
            names += ids
        file.create_dataset("image_names", data=_as_bytes(names))


def _submission(queries: PathLike, references: PathLike, out: Path, card: Mapping[str, Any]) -> None:
    """Writes queries and references with their ids in one file."""
    sets = {"query": Descriptors.read(queries), "reference": Descriptors.read(references)}
    check_same_provenance(**sets)
    with _h5py().File(out, "w") as file:
        file.attrs["sscd_jax"] = json.dumps(card)
        for name, one in sets.items():
            file.create_dataset(name, data=one.vectors)
            file.create_dataset(f"{name}_ids", data=_as_bytes(one.ids))


def _as_bytes(ids: Any) -> np.ndarray:
    """Returns ids as byte strings padded to one length, as isc2021 writes them."""
    return np.array([one.encode() for one in ids])


def _pyarrow() -> tuple[Any, Any]:
    """Imports pyarrow and its module for Parquet."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet needs the extra parquet: pip install 'sscd_jax[parquet]'") from error
    return pa, pq


def _h5py() -> Any:
    """Imports h5py."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 needs the extra hdf5: pip install 'sscd_jax[hdf5]'") from error
    return h5py


def _placed(folder: PathLike) -> Iterator[tuple[int, Sequence[str], np.ndarray]]:
    """Yields, for each shard, the row at which it begins, its n ids, and its vectors [n, D]."""
    start = 0
    for ids, shard in read_shards(folder):
        yield start, ids, shard
        start += len(ids)
