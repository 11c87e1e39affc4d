"""Rows of Parquet files, with little in memory and several files at a time."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sscd_jax.data import parquet, storage
from sscd_jax.data.sources import open_source

SIZE = 1 << 18


def write(path: Path, rows: int, group: int, size: int = SIZE) -> list[bytes]:
    rng = np.random.default_rng(0)
    values = [rng.bytes(size) for _ in range(rows)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": value, "path": "x"} for value in values], kind)
    pages = {"write_batch_size": 8, "data_page_size": 8 * size, "use_dictionary": False}  # which are read as a whole
    pq.write_table(pa.table({"image": column}), path, row_group_size=group, compression="none", **pages)
    return values


def test_a_row_group_is_never_in_memory_as_a_whole(tmp_path, monkeypatch):
    values = write(tmp_path / "a.parquet", 256, 256)
    monkeypatch.setattr(parquet, "CACHED_BYTES", 32 * SIZE)
    source = open_source(str(tmp_path / "a.parquet"))
    before = pa.total_allocated_bytes()
    for index, value in enumerate(values):
        assert source.load(index) == value
        assert pa.total_allocated_bytes() - before < 100 * SIZE


@pytest.mark.parametrize("cached", [1, 100 * SIZE])
def test_rows_in_any_order_by_several_threads(tmp_path, monkeypatch, cached):
    monkeypatch.setattr(parquet, "CACHED_BYTES", cached)
    values = write(tmp_path / "a.parquet", 150, 70, size=1000)
    source = open_source(str(tmp_path / "a.parquet"))
    order = [int(k) for k in np.random.default_rng(1).permutation(150)] + [*range(150)] + [*range(149, -1, -1)]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(source.load, order)) == [values[k] for k in order]


def test_files_are_read_at_the_same_time(tmp_path, monkeypatch):
    """One lock for all files would let this wait without end."""
    for name in "ab":
        write(tmp_path / f"{name}.parquet", 4, 4, size=10)
    source = open_source(str(tmp_path))
    both, open_file = threading.Barrier(2, timeout=20), storage.open_file

    @contextlib.contextmanager
    def meet(path: str):
        both.wait()
        with open_file(path) as file:
            yield file

    monkeypatch.setattr(storage, "open_file", meet)
    with ThreadPoolExecutor(2) as pool:
        assert all(map(len, pool.map(source.load, (0, 4))))


def test_few_files_stay_open(tmp_path):
    for number in range(20):
        write(tmp_path / f"{number:02d}.parquet", 100, 100, size=10)
    before = len([*Path("/proc/self/fd").iterdir()])
    source = open_source(str(tmp_path))
    for index in range(0, 2000, 100):
        source.load(index)
    assert len([*Path("/proc/self/fd").iterdir()]) <= before + parquet._OPEN_FILES
    for index in range(2000):
        source.load(index)
    assert len([*Path("/proc/self/fd").iterdir()]) <= before


def test_damage_in_a_row_group_leaves_what_is_before_it(tmp_path):
    values = write(tmp_path / "a.parquet", 64, 64)
    data = bytearray((tmp_path / "a.parquet").read_bytes())
    at = data.index(values[40])
    data[at - 50 : at] = bytes(50)
    (tmp_path / "a.parquet").write_bytes(data)
    source = open_source(str(tmp_path / "a.parquet"))
    assert [source.load(k) for k in range(32)] == values[:32]
    for _ in range(2):
        with pytest.raises(OSError, match="row group 0 is damaged"):
            source.load(63)
    assert source.load(0) == values[0]
