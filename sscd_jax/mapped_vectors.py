"""Vectors in several memory-mapped files, which are used like one array."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.lib.mixins import NDArrayOperatorsMixin

_BLOCK = 4096  # rows that are read at once


class MappedVectors(NDArrayOperatorsMixin):
    """Vectors, float32 [N, D], whose parts are arrays of their own, such as memory-mapped files.

    Indexing reads only the rows that are asked for, and returns them as a numpy array: `vectors[7]`,
    `vectors[1000:2000]`, `vectors[[5, 3, 8]]`. Where numpy needs one array, as in `np.asarray(vectors)`, in
    `vectors @ other` and in `vectors == other`, all rows are copied into memory. It cannot be written to.

    Args:
        parts: arrays [n, D], float32 or float16, of which none is empty.
        dims: D.

    Examples:
        >>> vectors = MappedVectors([np.zeros((2, 3), np.float32), np.ones((1, 3), np.float16)], 3)
        >>> vectors.shape, vectors[1:]
        ((3, 3), array([[0., 0., 0.],
               [1., 1., 1.]], dtype=float32))
    """

    dtype = np.dtype(np.float32)
    ndim = 2

    def __init__(self, parts: Sequence[np.ndarray], dims: int) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = np.cumsum([0, *map(len, self._parts)])[1:]
        self.shape = (int(self._ends[-1]) if self._parts else 0, dims)

    @property
    def parts(self) -> Sequence[np.ndarray]:
        """The parts that are not empty."""
        return self._parts

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, tuple):
            first, *rest = rows
            return self[first][(*rest,) if isinstance(first, int | np.integer) else (slice(None), *rest)]
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            return self._between(start, stop) if step == 1 else self._take(np.arange(start, stop, step))
        index = np.asarray(rows)
        if index.dtype == bool:
            if index.shape != self.shape[:1]:
                raise IndexError(f"a mask of shape {index.shape} for {len(self)} vectors")
            index = np.flatnonzero(index)
        index = index.astype(np.int64, casting="safe" if index.size else "unsafe")
        if index.size and not -len(self) <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"an index is out of range: there are {len(self)} vectors")
        index = np.where(index < 0, index + len(self), index)
        return self._take(index.ravel()).reshape(*index.shape, self.shape[1])

    def _between(self, start: int, stop: int) -> np.ndarray:
        found = [np.empty((0, self.shape[1]), np.float32)]
        for end, part in zip(self._ends.tolist(), self._parts, strict=True):
            first = end - len(part)
            if start < end and first < stop:
                found.append(part[max(start - first, 0) : stop - first])
        return np.asarray(found[1], np.float32) if len(found) == 2 else np.concatenate(found, dtype=np.float32)

    def _take(self, index: np.ndarray) -> np.ndarray:
        out = np.empty((len(index), self.shape[1]), np.float32)
        which = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(which).tolist():
            here, part = which == number, self._parts[number]
            out[here] = part[index[here] - (self._ends[number] - len(part))]
        return out

    def __iter__(self) -> Iterator[np.ndarray]:
        for start in range(0, len(self), _BLOCK):
            yield from self[start : start + _BLOCK]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("vectors in several files become one array only by a copy")
        return self._between(0, len(self)).astype(dtype or np.float32, copy=len(self._parts) < 2)

    def astype(self, dtype: Any) -> np.ndarray:
        """Returns all vectors in memory, of another type [N, D]."""
        return np.asarray(self).astype(dtype)

    @property
    def T(self) -> np.ndarray:
        """All vectors in memory, float32 [D, N]."""
        return np.asarray(self).T

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        arrays = [np.asarray(one) if isinstance(one, MappedVectors) else one for one in inputs]
        return getattr(ufunc, method)(*arrays, **options)


Vectors = np.ndarray | MappedVectors


def joined(one: Vectors, other: Vectors) -> Vectors:
    """Returns the vectors of two sets, float32 [N, D] and [M, D], as one of [N + M, D], without copying them."""
    parts = [part for some in (one, other) for part in (some.parts if isinstance(some, MappedVectors) else [some])]
    return MappedVectors(parts, one.shape[1])


def check_finite(ids: Sequence[str], vectors: Vectors) -> None:
    """Checks that vectors, float32 or float16 [N, D], are finite.

    Raises:
        ValueError: one is not; the error names its id.
    """
    for start in range(0, len(vectors), _BLOCK):
        finite = np.isfinite(vectors[start : start + _BLOCK]).all(1)
        if not finite.all():
            raise ValueError(f"the vector of {ids[start + int(np.argmin(finite))]} is not finite")
