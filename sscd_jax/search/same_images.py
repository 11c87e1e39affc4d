"""Finds images that stand in two sets: finding an image by itself says nothing about copies.

Descriptors of the same provenance are equal, up to rounding, if the network saw the same pixels. A photograph that was
saved again, or that lacks a row of pixels, is thousands of roundings away. So two images are the same

* if the distance of their descriptors is at most `EQUAL` of their norm, whatever their ids are, or
* if they have the same id, and the distance is less than `NEAR` of the typical distance between two images. This is the
  same image by another computation, such as activations in bfloat16.

An id alone does not make two images the same, as two folders may number different images alike. Nor do equal
descriptors if the network tells hardly any images apart (see `HEALTHY`), or equal hashes such as those of PDQ: a bad
descriptor would be excused from its own errors.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from sscd_jax.descriptors import Descriptors
from sscd_jax.mapped_vectors import Vectors
from sscd_jax.string_list import Lookup

# Measured by scripts/benchmarks/same_images.py.
# Share of the norm: batches of another size change a descriptor by 2e-6 at most, and JPEG by 7e-3 at least.
EQUAL = 1e-5
EQUAL_HALF = 4e-4  # the same for descriptors that were stored as float16, which changes them by 2e-4
NEAR = 0.25  # share of the typical distance, which is 1.4; bfloat16 changes a descriptor by 0.03 to 0.23
HEALTHY = 0.01  # share of the norm that the typical distance must be, so that equal descriptors mean equal images
_PROJECTED = 4  # dimensions in which neighbors are looked for
_BLOCK = 4096
_SAMPLES = 1000  # pairs of images whose median distance is the typical one


@dataclass(frozen=True)
class SameImages:
    """Pairs of a query and a reference that are the same image, except those that the ground truth names.

    Attributes:
        query: int64 [Q], a number for each query.
        reference: int64 [R], a number for each reference; the same number as that of a query for the same image.
        twin: int64 [Q], the row of the reference that is the same image by its id, or -1.
        row: int64 [Q], the row of the query in the ground truth.
        kept: int64 [K], pairs of the ground truth, as row of the query x R + row of the reference.
        counts: int64 [Q], the number of pairs of each query.
    """

    query: np.ndarray
    reference: np.ndarray
    twin: np.ndarray
    row: np.ndarray
    kept: np.ndarray
    counts: np.ndarray

    @classmethod
    def find(cls, queries: Descriptors, references: Descriptors, kept: np.ndarray | None = None) -> Self:
        """Finds the pairs in two sets of the same provenance.

        Args:
            queries: Q descriptors.
            references: R descriptors.
            kept: int64 [K], the pairs of the ground truth, as row of the query x R + row of the reference.
        """
        kept = np.empty(0, np.int64) if kept is None else np.sort(kept)
        (query, reference), typical = _numbered(queries.vectors, references.vectors)
        twin = Lookup(references.ids).find(queries.ids)
        named = np.flatnonzero(twin >= 0)
        for start in range(0, len(named), _BLOCK):
            some = named[start : start + _BLOCK]
            distance = np.linalg.norm(queries.vectors[some] - references.vectors[twin[some]], axis=1)
            twin[some[distance >= NEAR * typical]] = -1
        counts = np.bincount(reference, minlength=int(query.max(initial=-1)) + 1)[query]
        named = np.flatnonzero(twin >= 0)
        counts[named] += reference[twin[named]] != query[named]
        same = cls(query, reference, twin, np.arange(len(query)), kept, counts)
        truth = np.divmod(kept, max(len(reference), 1))
        counts -= np.bincount(truth[0][same._are_same(*truth)], minlength=len(query))
        return same

    @property
    def total(self) -> int:
        """The number of pairs."""
        return int(self.counts.sum())

    def of(self, rows: np.ndarray) -> Self:
        """Returns the pairs of some of the queries, int64 [N], whose rows are then 0 to N - 1."""
        picked = {name: getattr(self, name)[rows] for name in ("query", "twin", "row", "counts")}
        return replace(self, **picked)

    def holds(self, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Returns whether each pair of rows is one of these pairs: bool, of the shape to which both broadcast."""
        key = self.row[query] * len(self.reference) + reference
        return self._are_same(query, reference) & ~np.isin(key, self.kept)

    def _are_same(self, query: np.ndarray, reference: np.ndarray) -> np.ndarray:
        return (self.query[query] == self.reference[reference]) | (self.twin[query] == reference)


def distinct(descriptors: Descriptors) -> Descriptors:
    """Returns the descriptors without images that are the same as an earlier one."""
    (number,), _ = _numbered(descriptors.vectors)
    _, first = np.unique(number, return_index=True)
    return descriptors if len(first) == len(number) else some_of(descriptors, np.sort(first))


def without(descriptors: Descriptors, others: Descriptors) -> Descriptors:
    """Returns the descriptors without images that are the same as one of the others."""
    (number, other), _ = _numbered(descriptors.vectors, others.vectors)
    absent = np.flatnonzero(~np.isin(number, other))
    return descriptors if len(absent) == len(number) else some_of(descriptors, absent)


def some_of(descriptors: Descriptors, rows: np.ndarray) -> Descriptors:
    """Returns the descriptors of these rows, int64 [N]."""
    return Descriptors([descriptors.ids[i] for i in rows.tolist()], descriptors.vectors[rows], descriptors.provenance)


def _numbered(*sets: Vectors) -> tuple[list[np.ndarray], float]:
    """Numbers images, so that those with equal descriptors have the same number.

    Returns:
        For each set, float32 [N, D], its numbers, int64 [N]; and the typical distance between two images.
    """
    seen: dict[bytes, int] = {}
    number = np.array([seen.setdefault(key, len(seen)) for key in _keys(sets)], np.int64)
    _, first = np.unique(number, return_index=True)
    ends = np.cumsum([len(vectors) for vectors in sets])

    def take(rows: np.ndarray) -> np.ndarray:
        """Returns vectors by their rows in all sets together, float64 [n, D]."""
        which = np.searchsorted(ends, rows, side="right")
        out = np.empty((len(rows), sets[0].shape[1]))
        for i, vectors in enumerate(sets):
            out[which == i] = vectors[rows[which == i] - (ends[i] - len(vectors))]
        return out

    rng = np.random.default_rng(0)
    typical = norm = 0.0
    if len(first) > 1:
        one = rng.integers(0, len(first), _SAMPLES)
        other = (one + rng.integers(1, len(first), _SAMPLES)) % len(first)
        typical = float(np.median(np.linalg.norm(take(first[one]) - take(first[other]), axis=1)))
        norm = float(np.sqrt(np.square(take(first[one])).sum(1).mean()))
    each = np.split(np.arange(len(number)), ends[:-1])
    if typical <= HEALTHY * norm:
        return each, 0.0
    if np.ptp(np.abs(take(first[one]))) == 0:  # the bits of a hash, which different images can share
        return each, typical
    distance = norm * (EQUAL_HALF if any(_is_half(vectors[:_SAMPLES]) for vectors in sets) else EQUAL)
    axes, _ = np.linalg.qr(rng.normal(size=(sets[0].shape[1], min(_PROJECTED, sets[0].shape[1]))))
    projected = np.concatenate([take(first[start : start + _BLOCK]) @ axes for start in range(0, len(first), _BLOCK)])
    pairs = cKDTree(projected).query_pairs(distance, output_type="ndarray")  # a projection makes no distance larger
    close = [
        np.linalg.norm(take(first[some[:, 0]]) - take(first[some[:, 1]]), axis=1) <= distance
        for some in np.array_split(pairs, len(pairs) // _BLOCK + 1)
    ]
    linked = pairs[np.concatenate(close)].T
    graph = coo_array((np.ones(linked.shape[1], bool), tuple(linked)), (len(first), len(first)))
    return np.split(connected_components(graph, directed=False)[1].astype(np.int64)[number], ends[:-1]), typical


def _keys(sets: Iterable[Vectors]) -> Iterable[bytes]:
    """Yields what identifies the bytes of each vector."""
    for vectors in sets:
        for start in range(0, len(vectors), _BLOCK):
            for row in np.ascontiguousarray(vectors[start : start + _BLOCK]):
                yield hashlib.blake2b(row, digest_size=16).digest()


def _is_half(vectors: np.ndarray) -> bool:
    """Returns whether vectors were stored as float16."""
    with np.errstate(over="ignore"):
        return bool((vectors.astype(np.float16) == vectors).all())
