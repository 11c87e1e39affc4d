"""Finds the copies in a collection: files with the same bytes, images with the same pixels, and near copies."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sscd_jax.duplicates.groups import components, leaders
from sscd_jax.duplicates.options import KINDS, MAX_GROUP, Grouping
from sscd_jax.duplicates.scores import BLOCK, Scores, all_pairs


@dataclass(frozen=True)
class Collection:
    """Images, and which of them are the same.

    Attributes:
        scores: the scores of R descriptors.
        row: int64 [N], the row of the descriptor of each image, -1 if it has none. Images with the same bytes have the
            same row, and may have different ones from images with the same pixels.
        content: int64 [N], a number for each image; equal numbers for equal bytes.
        pixels: int64 [N], the same for equal pixels; images with the same bytes have the same number.
        order: int64 [N], all images in order of preference.
    """

    scores: Scores
    row: np.ndarray
    content: np.ndarray
    pixels: np.ndarray
    order: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def firsts(self) -> np.ndarray:
        """Returns for each image the most preferred one with the same pixels, int64 [N]."""
        _, first, number = np.unique(self.pixels[self.order], return_index=True, return_inverse=True)
        found = np.empty(len(self), np.int64)
        found[self.order] = self.order[first][number]
        return found


@dataclass(frozen=True)
class Copies:
    """For each image of a collection, the image that is kept for it.

    Attributes:
        kept: int64 [N], the image that is kept; the image itself if it is kept.
        similarity: float64 [N], the similarity to the kept image; 1 for the kept image itself and for equal pixels.
        score: float64 [N], the same less background; NaN for the kept image itself and where there is no descriptor.
        kind: uint8 [N], an index of `KINDS`: in what the image and the kept one are alike.
    """

    kept: np.ndarray
    similarity: np.ndarray
    score: np.ndarray
    kind: np.ndarray

    @property
    def is_kept(self) -> np.ndarray:
        """Whether each image is kept, bool [N]."""
        return self.kept == np.arange(len(self.kept))

    def groups(self) -> list[np.ndarray]:
        """Returns the groups of at least two images, each int64 [n]: the kept one first, then the best score first."""
        order = np.lexsort((np.arange(len(self.kept)), -np.nan_to_num(self.score), ~self.is_kept, self.kept))
        starts = np.flatnonzero(np.diff(self.kept[order], prepend=-1))
        return [part for part in np.split(order, starts[1:]) if len(part) > 1]


def find_groups(
    collection: Collection, threshold: float, *, grouping: Grouping = "leaders", max_group: int = MAX_GROUP
) -> Copies:
    """Finds which images are copies, and which image is kept for each.

    Images with the same pixels are always in one group. Of them, the most preferred one stands for all.

    Args:
        collection: the images.
        threshold: the least score of a copy.
        grouping: "leaders", so that each image is at or above the threshold to the kept one, or "components", where
            chains of pairs make a group; see `groups`.
        max_group: the largest group of "components".
    """
    first = collection.firsts()
    order = collection.order[first[collection.order] == collection.order]  # one of each class of equal pixels
    order = order[collection.row[order] >= 0]
    rows = collection.row[order]
    if grouping == "leaders":
        grouped = leaders(collection.scores, threshold, rows, progress="group")
    else:
        grouped = components(collection.scores, threshold, rows, max_group=max_group)
    image_of_row = np.full(len(collection.scores), -1)
    image_of_row[rows] = order
    count = len(collection)
    has_row = collection.row[first] >= 0
    row = collection.row[first[has_row]]  # that of the image that stands for each
    kept, similarity, score = first.copy(), np.ones(count), np.full(count, np.nan)
    kept[has_row] = image_of_row[grouped.kept[row]]
    similarity[has_row] = grouped.similarity[row]
    near = has_row & (kept != first)
    score[near] = grouped.score[collection.row[first[near]]]
    same = (kept == first) & (kept != np.arange(count))
    with_score = same & has_row
    score[with_score] = 1 - collection.scores.background[collection.row[kept[with_score]]]
    kind = np.zeros(count, np.uint8)
    kind[near] = KINDS.index("near")
    kind[same] = np.where(
        collection.content[same] == collection.content[kept[same]], KINDS.index("bytes"), KINDS.index("pixels")
    )
    return Copies(kept, similarity, score, kind)


def pairs(collection: Collection, threshold: float) -> Iterator[tuple[np.ndarray, ...]]:
    """Lists all pairs of copies.

    Images with the same pixels are paired with the most preferred of them alone, which stands for all in further pairs,
    so that a thousand equal files do not make half a million pairs.

    Args:
        collection: the images.
        threshold: the least score of a pair.

    Yields:
        For some pairs: images int64 [P], images int64 [P], similarities float64 [P], scores float64 [P] (NaN where
        there is no descriptor) and kinds uint8 [P], indexes of `KINDS`.
    """
    first = collection.firsts()
    same = np.flatnonzero(first != np.arange(len(collection)))
    is_bytes = collection.content[same] == collection.content[first[same]]
    kind = np.where(is_bytes, KINDS.index("bytes"), KINDS.index("pixels")).astype(np.uint8)
    row, score = collection.row[first[same]], np.full(len(same), np.nan)
    score[row >= 0] = 1 - collection.scores.background[row[row >= 0]]
    yield first[same], same, np.ones(len(same)), score, kind
    images = np.flatnonzero((first == np.arange(len(collection))) & (collection.row >= 0))
    image_of_row = np.full(len(collection.scores), -1)
    image_of_row[collection.row[images]] = images
    for one, other, similarity, score in all_pairs(collection.scores, threshold, collection.row[images]):
        kind = np.full(len(one), KINDS.index("near"), np.uint8)
        yield image_of_row[one], image_of_row[other], similarity, score, kind


def lowest_similarity(scores: Scores, rows: np.ndarray) -> float:
    """Returns the lowest similarity of two of some descriptors, given their rows, int64 [n]; 1 if there is one only."""
    lowest = 1.0
    for start in range(0, len(rows), BLOCK):
        for other in range(start, len(rows), BLOCK):
            one, two = rows[start : start + BLOCK], rows[other : other + BLOCK]
            lowest = min(lowest, float((scores.vectors[one] @ scores.vectors[two].T).min()))
    return lowest
