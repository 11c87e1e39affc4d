"""The copies between two sets of images, and for each image of one the best copy in the other."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sscd_jax.duplicates.find import Collection
from sscd_jax.duplicates.options import KINDS
from sscd_jax.duplicates.scores import all_pairs

BYTES, PIXELS, NEAR = (KINDS.index(kind) for kind in ("bytes", "pixels", "near"))


@dataclass(frozen=True)
class Best:
    """For each image of one set, its best copy in the other.

    Files with the same bytes come before images with the same pixels, and those before near copies with any score.

    Attributes:
        match: int64 [N], the copy; -1 if there is none.
        similarity: float64 [N], the similarity of both.
        score: float64 [N], the same less background; NaN where there is no descriptor.
        kind: uint8 [N], an index of `KINDS`.
    """

    match: np.ndarray
    similarity: np.ndarray
    score: np.ndarray
    kind: np.ndarray

    @classmethod
    def of_none(cls, count: int) -> "Best":
        """Returns what is known of images before any pair is."""
        return cls(np.full(count, -1), np.zeros(count), np.full(count, np.nan), np.zeros(count, np.uint8))

    @property
    def has_copy(self) -> np.ndarray:
        """Whether each image has a copy, bool [N]."""
        return self.match >= 0

    def note(self, images: np.ndarray, matches: np.ndarray, *facts: np.ndarray) -> None:
        """Takes notice of pairs: images int64 [P], copies int64 [P], similarities, scores and kinds, each [P]."""
        similarity, score, kind = facts
        certainty = np.where(kind == NEAR, score, 4.0 - kind)
        order = np.lexsort((matches, -certainty, images))  # the best of each image first
        order = order[np.diff(images[order], prepend=-1) != 0]
        mine, before = images[order], self.kind[images[order]]
        known = np.where(before == NEAR, self.score[mine], 4.0 - before)
        better = ~self.has_copy[mine] | (certainty[order] > known)
        order, mine = order[better], mine[better]
        self.match[mine], self.similarity[mine] = matches[order], similarity[order]
        self.score[mine], self.kind[mine] = score[order], kind[order]

    def spread(self, first: np.ndarray) -> None:
        """Gives images without a copy that of the image with the same pixels that stands for them, int64 [N]."""
        missing = ~self.has_copy & self.has_copy[first]
        for values in (self.match, self.similarity, self.score, self.kind):
            values[missing] = values[first[missing]]


def crossing_pairs(collection: Collection, count: int, threshold: float) -> Iterator[tuple[np.ndarray, ...]]:
    """Lists the copies between two sets.

    Images of both sets with the same pixels: each is paired with one of the other set alone, which has the same bytes
    if one has them. In pairs of near copies, the first image of a set stands for those of the set with the same pixels.

    Args:
        collection: the images of both sets, those of the first set first.
        count: the number of images of the first set.
        threshold: the least score of near copies.

    Yields:
        For some pairs: images of the first set int64 [P], images of the second set int64 [P] counted from 0,
        similarities float64 [P], scores float64 [P] (NaN where there is no descriptor) and kinds uint8 [P].
    """
    one, other = _same(collection, count)
    kind = np.where(collection.content[one] == collection.content[other], BYTES, PIXELS).astype(np.uint8)
    rows, score = np.stack([collection.row[one], collection.row[other]]), np.full(len(one), np.nan)
    with_score = (rows >= 0).all(0)
    score[with_score] = 1 - collection.scores.offsets(*rows[:, with_score])
    yield one, other - count, np.ones(len(one)), score, kind
    images = []
    for part, start in ((slice(0, count), 0), (slice(count, None), count)):
        some = np.unique(_firsts(collection, part)) + start
        images.append(some[collection.row[some] >= 0])
    image_of_row = np.full((2, len(collection.scores)), -1)
    for at, some in zip(image_of_row, images, strict=True):
        at[collection.row[some]] = some
    found = all_pairs(collection.scores, threshold, *(collection.row[some] for some in images))
    for row, other_row, similarity, score in found:
        one, other = image_of_row[0][row], image_of_row[1][other_row]
        near = collection.pixels[one] != collection.pixels[other]
        kind = np.full(int(near.sum()), NEAR, np.uint8)
        yield one[near], other[near] - count, similarity[near], score[near], kind


def noted(
    pairs: Iterator[tuple[np.ndarray, ...]], collection: Collection, one: Best, other: Best
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yields what `crossing_pairs` yields, and fills in the best copies of both sets meanwhile."""
    for first, second, *facts in pairs:
        one.note(first, second, *facts)
        other.note(second, first, *facts)
        yield first, second, *facts
    count = len(one.match)
    one.spread(_firsts(collection, slice(0, count)))
    other.spread(_firsts(collection, slice(count, None)))


def _firsts(collection: Collection, part: slice) -> np.ndarray:
    """Returns for each image of a part the first one of the part with the same pixels, counted within the part."""
    _, first, number = np.unique(collection.pixels[part], return_index=True, return_inverse=True)
    found: np.ndarray = first[number]
    return found


def _same(collection: Collection, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pairs of images with the same pixels: int64 [P] and int64 [P], each pair once."""
    ours, theirs = np.arange(count), np.arange(count, len(collection))
    pairs = [_partners(collection, ours, theirs), _partners(collection, theirs, ours)[::-1]]
    one, other = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return one, other


def _partners(collection: Collection, images: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Pairs each image with one of the others with the same bytes, or else the same pixels: int64 [2, P]."""
    found = np.full(len(images), -1)
    for key in (collection.pixels, collection.content):  # the latter replaces the former
        values, first = np.unique(key[others], return_index=True)
        at = np.searchsorted(values, key[images])
        has_it = np.isin(key[images], values)
        found[has_it] = others[first[at[has_it]]]
    return np.stack([images[found >= 0], found[found >= 0]])
