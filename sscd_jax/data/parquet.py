"""Reads a column of encoded images of a Parquet file by row, in record batches and not in whole row groups.

A row group may hold gigabytes of images. A file is therefore read from the beginning of a row group to the batch that
is wanted, and on from there for the next one. What is read in order is read once; what is read at random is read again,
except for the batches that were read last. In memory are these, and the page that is read, which is a part of the row
group whose size the writer of the file has chosen.
"""

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from sscd_jax.data import storage

BATCH_ROWS = 32
CACHED_BYTES = 256 << 20  # of all files together
_BUFFER_BYTES = 4 << 20
_OPEN_FILES = 8  # the files that are open between two reads

_numbers = itertools.count()


class Column:
    """A column of binary values, or of structs with a field `bytes`. Several threads may read at once.

    Args:
        path: the Parquet file, on disk or in a store.
        name: the name of the column.
        field: the path of the binary field in it, such as image.bytes.
        counts: the number of rows in each row group.
    """

    def __init__(self, path: str, name: str, field: str, counts: Sequence[int]) -> None:
        self._path, self._name, self._field = path, name, field
        self._ends = [*itertools.accumulate(counts)]
        self._number = next(_numbers)
        self._starts: list[list[int]] = [[] for _ in counts]  # for each row group, the first row of each batch so far
        self._lock = threading.Lock()
        self._open = ExitStack()
        self._at: tuple[int, int] | None = None  # the row group that is being read, and its next row
        self._batches: Any = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, k: int) -> bytes:
        """Returns the bytes in row k.

        Raises:
            OSError: the row has no bytes, or the file cannot be read there.
        """
        group = bisect.bisect_right(self._ends, k)
        row = k - (self._ends[group - 1] if group else 0)
        try:
            found = self._cached(group, row)
            if found is None:
                with self._lock:
                    found = self._cached(group, row)
                    if found is None:
                        found = self._advance(group, row)
            start, batch = found
            value = batch[row - start].as_py()
        except OSError as error:
            if error.errno is not None or storage.in_store(self._path):
                raise
            raise storage.DamagedError(f"row group {group} is damaged: {error}") from error
        except Exception as error:  # pyarrow raises many types on damaged files
            raise storage.DamagedError(f"row group {group} is damaged: {error}") from error
        value = value["bytes"] if isinstance(value, dict) else value
        if value is None:
            raise storage.DamagedError("the row has no bytes")
        return value

    def _cached(self, group: int, row: int) -> tuple[int, Any] | None:
        """Returns the batch with a row and its first row, if it is in memory."""
        index = bisect.bisect_right(self._starts[group], row) - 1
        if index < 0:
            return None
        start = self._starts[group][index]
        batch = _cache.get((self._number, group, start))
        return (start, batch) if batch is not None and row < start + len(batch) else None

    def _advance(self, group: int, row: int) -> tuple[int, Any]:
        """Reads batches up to the one with the row. The lock must be held."""
        try:
            if self._at is None or self._at[0] != group or self._at[1] > row:
                self._begin(group)
            while True:
                batch = next(self._batches).column(self._name)
                start = self._at[1] if self._at else 0
                if start not in self._starts[group]:
                    self._starts[group].append(start)
                _cache.put((self._number, group, start), batch)
                self._at = group, start + len(batch)
                if row < start + len(batch):
                    break
        except BaseException:
            self.close()
            raise
        if self._at[1] == self._ends[group] - (self._ends[group - 1] if group else 0):
            self.close()
        return start, batch

    def _begin(self, group: int) -> None:
        import pyarrow.parquet

        self.close()
        _readers.add(self)
        file = self._open.enter_context(storage.open_file(self._path))
        parquet = pyarrow.parquet.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        options = {"row_groups": [group], "columns": [self._field], "use_threads": False}
        self._batches, self._at = parquet.iter_batches(BATCH_ROWS, **options), (group, 0)

    def close(self) -> None:
        """Closes the file, which a later read opens again. The lock must be held."""
        self._batches = self._at = None
        _readers.discard(self)
        self._open.close()

    def close_if_unused(self) -> None:
        """Closes the file unless a thread is reading it now."""
        if self._lock.acquire(blocking=False):
            try:
                self.close()
            finally:
                self._lock.release()


class _Cache:
    """The batches that were used last, of at most CACHED_BYTES together, but at least one."""

    def __init__(self) -> None:
        self._batches: OrderedDict[tuple[int, int, int], Any] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: tuple[int, int, int]) -> Any:
        with self._lock:
            if key in self._batches:
                self._batches.move_to_end(key)
            return self._batches.get(key)

    def put(self, key: tuple[int, int, int], batch: Any) -> None:
        with self._lock:
            if key in self._batches:
                self._bytes -= self._batches.pop(key).nbytes
            self._batches[key] = batch
            self._bytes += batch.nbytes
            while self._bytes > CACHED_BYTES and len(self._batches) > 1:
                self._bytes -= self._batches.popitem(last=False)[1].nbytes


class _Readers:
    """The columns whose files are open. When there are more than _OPEN_FILES, the one that is open longest closes."""

    def __init__(self) -> None:
        self._columns: OrderedDict[Column, None] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, column: Column) -> None:
        with self._lock:
            self._columns[column] = None
            oldest = next(iter(self._columns)) if len(self._columns) > _OPEN_FILES else None
        if oldest is not None:
            oldest.close_if_unused()

    def close(self) -> None:
        with self._lock:
            columns = [*self._columns]
        for column in columns:
            column.close_if_unused()

    def discard(self, column: Column) -> None:
        with self._lock:
            self._columns.pop(column, None)


_cache, _readers = _Cache(), _Readers()


def close_files() -> None:
    """Closes the files that are open between two reads, so that the system can remove them. A later read opens one."""
    _readers.close()
