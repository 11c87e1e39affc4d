"""Descriptors in the files of other tools: numpy, faiss, Arrow and pandas, the HDF5 of ISC2021."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sscd_jax.descriptors import Descriptors, check_same_provenance, read_manifest, read_shards


def export_descriptors(folder: Path, out: Path, *, references: Path | None = None) -> None:
    """Writes a folder of descriptors as one file, in the format that its name ends in.

    .npy      one array, memory-mappable, of the folder's dtype, and the ids beside it, one a line, in OUT.ids.txt
    .faiss    an index for inner products; its labels are the rows of the folder, in the order of the ids
    .parquet  columns id (string) and vector (list of fixed size, of the folder's dtype)
    .hdf5     datasets vectors (float32) and image_names, as isc2021's write_hdf5_descriptors; with `references` query,
              reference, query_ids and reference_ids, as its convert_track2_format.py: a submission to ISC2021

    .npy and .parquet take the memory of one shard, .hdf5 that of one and all ids, the others that of all. Written
    under another name first.

    Args:
        folder: of descriptors; the queries where `references` are given.
        out: the file; one that is there is replaced.
        references: a second folder, for a submission.

    Raises:
        ValueError: the name ends in something else, a folder is not a complete set, or the two are not of one kind.
        ImportError: the format needs an extra.
    """
    writers: dict[str, Callable[[Path, Path], None]] = {
        ".npy": _npy,
        ".faiss": _faiss,
        ".parquet": _parquet,
        ".hdf5": _hdf5,
        ".h5": _hdf5,
    }
    if out.suffix not in writers or out.is_dir() or not out.parent.is_dir():
        raise ValueError(f"--out {out}: a file in a folder that exists, whose name ends in {', '.join(writers)}")
    if references and writers[out.suffix] is not _hdf5:
        raise ValueError(f"--out {out}: queries and references go into one file only in .hdf5")
    unfinished = out.with_name(f"{out.name}.unfinished")
    if references:
        _submission(folder, references, unfinished)
    else:
        writers[out.suffix](folder, unfinished)
    unfinished.replace(out)
    if out.suffix == ".npy":
        unfinished.with_name(f"{unfinished.name}.ids.txt").replace(out.with_name(f"{out.name}.ids.txt"))


def _npy(folder: Path, out: Path) -> None:
    made = read_manifest(folder)
    shape = made["count"], made["dims"]
    vectors = np.lib.format.open_memmap(out, mode="w+", dtype=np.dtype(made["dtype"]), shape=shape)
    with out.with_name(f"{out.name}.ids.txt").open("w", encoding="utf-8") as file:
        for start, ids, shard in _placed(folder):
            vectors[start : start + len(ids)] = shard
            file.writelines(f"{one}\n" for one in ids)
    vectors.flush()


def _faiss(folder: Path, out: Path) -> None:
    from sscd_jax.search.faiss_backend import write_index

    write_index(out, Descriptors.read(folder).vectors)


def _parquet(folder: Path, out: Path) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError("Parquet needs the extra parquet: pip install 'sscd_jax[parquet]'") from error
    made = read_manifest(folder)
    number = {"float32": pa.float32(), "float16": pa.float16()}[made["dtype"]]
    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(number, made["dims"]))])
    with pq.ParquetWriter(out, schema) as writer:
        for ids, shard in read_shards(folder):
            column = pa.FixedSizeListArray.from_arrays(pa.array(shard.ravel()), made["dims"])
            writer.write_table(pa.table({"id": ids, "vector": column}, schema))


def _hdf5(folder: Path, out: Path) -> None:
    made = read_manifest(folder)
    names: list[str] = []
    with _h5py().File(out, "w") as file:
        vectors = file.create_dataset("vectors", (made["count"], made["dims"]), np.float32)
        for start, ids, shard in _placed(folder):
            vectors[start : start + len(ids)] = shard
            names += ids
        file.create_dataset("image_names", data=_as_bytes(names))


def _submission(queries: Path, references: Path, out: Path) -> None:
    sets = {"query": Descriptors.read(queries), "reference": Descriptors.read(references)}
    check_same_provenance(**sets)
    with _h5py().File(out, "w") as file:
        for name, one in sets.items():
            file.create_dataset(name, data=one.vectors)
            file.create_dataset(f"{name}_ids", data=_as_bytes(one.ids))


def _as_bytes(ids: Any) -> np.ndarray:
    return np.array([one.encode() for one in ids])  # of one length, as isc2021 writes them


def _h5py() -> Any:
    try:
        import h5py
    except ImportError as error:
        raise ImportError("HDF5 needs the extra hdf5: pip install 'sscd_jax[hdf5]'") from error
    return h5py


def _placed(folder: Path) -> Iterator[tuple[int, list[str], np.ndarray]]:
    """The shards with the row at which each begins."""
    start = 0
    for ids, shard in read_shards(folder):
        yield start, ids, shard
        start += len(ids)
