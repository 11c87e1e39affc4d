"""Groups of copies, and which image of each group is kept."""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
from tqdm import tqdm

from sscd_jax.duplicates.scores import BLOCK, MARGIN, Scores, all_pairs, where

_PAIRS = 1 << 20  # pairs that wait in memory before the forest is brought up to date


@dataclass(frozen=True)
class Groups:
    """For each image, the image that is kept in its group.

    Attributes:
        kept: int64 [N], the row of the image that is kept for each image; its own row if it is kept itself.
        similarity: float64 [N], its similarity to that image; 1 if it is kept itself.
        score: float64 [N], its score with that image; infinite if it is kept itself.
    """

    kept: np.ndarray
    similarity: np.ndarray
    score: np.ndarray

    @property
    def is_kept(self) -> np.ndarray:
        """Whether each image is kept, bool [N]."""
        return self.kept == np.arange(len(self.kept))


def leaders(scores: Scores, threshold: float, order: np.ndarray, *, progress: str = "") -> Groups:
    """Groups images around those that are kept, so that groups do not chain.

    Images come in order of preference. Each joins the image with which it scores best among those kept before it, if
    that score is at or above the threshold. Otherwise it is kept itself. So every image is at or above the threshold to
    the one that is kept for it, and no two kept images are. Of equal scores, the one kept first counts. The memory does
    not depend on the number of pairs.

    Args:
        scores: the scores of N images.
        threshold: the least score of an image with the one that is kept for it.
        order: int64 [N], all rows, in order of preference.
        progress: the name of the progress bar; without one, none is shown.
    """
    kept_for, best = np.arange(len(scores)), np.full(len(scores), np.inf)
    kept = np.empty(0, np.int64)
    shown = {"desc": progress, "unit": "image", "dynamic_ncols": True, "delay": 1, "leave": False}
    with tqdm(total=len(order), disable=None if progress else True, **shown) as bar:
        for start in range(0, len(order), BLOCK):
            rows = order[start : start + BLOCK]
            at, score = _best(scores, rows, kept, threshold)
            near = np.tril(scores.approximate(rows, rows) >= threshold - MARGIN, -1)
            is_kept = np.zeros(len(rows), bool)
            for i, row in enumerate(rows.tolist()):
                others = rows[is_kept & near[i]]  # those of this block that were kept before it
                if len(others):
                    found = scores.scores(np.full(len(others), row), others)
                    if found.max() >= threshold and found.max() > score[i]:
                        at[i], score[i] = others[found.argmax()], found.max()
                is_kept[i] = at[i] < 0
            joined = rows[~is_kept]
            kept_for[joined], best[joined] = at[~is_kept], score[~is_kept]
            kept = np.concatenate([kept, rows[is_kept]])
            bar.update(len(rows))
    similarity = np.ones(len(scores))
    joined = np.flatnonzero(kept_for != np.arange(len(scores)))
    similarity[joined] = scores.similarities(joined, kept_for[joined])
    return Groups(kept_for, similarity, best)


def _best(scores: Scores, rows: np.ndarray, kept: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each row the kept row with which it scores best, -1 if none reaches the threshold, and the score."""
    at, best = np.full(len(rows), -1), np.full(len(rows), -np.inf)
    for start in range(0, len(kept), BLOCK):
        others = kept[start : start + BLOCK]
        one, other = where(scores.approximate(rows, others) >= threshold - MARGIN)
        found = scores.scores(rows[one], others[other])
        # From the worst to the best, and of equal ones from the last kept, so that what is assigned last is the best.
        for i in np.lexsort((-other, found)).tolist():
            if found[i] >= threshold and found[i] > best[one[i]]:
                at[one[i]], best[one[i]] = others[other[i]], found[i]
    return at, best


def components(scores: Scores, threshold: float, order: np.ndarray, *, max_group: int) -> Groups:
    """Groups images that chains of pairs at or above a threshold connect.

    A group of more than `max_group` images is split: the threshold is raised inside it until it falls apart, and again
    in each part that is still too large. The first image of each group in order of preference is kept. It may be below
    the threshold to other images of the group. The memory does not depend on the number of pairs.

    Args:
        scores: the scores of N images.
        threshold: the least score of a pair.
        order: int64 [M], the rows of the images, in order of preference.
        max_group: the largest number of images in a group, at least 1.
    """
    edges = _spanning_forest(scores, threshold, order)
    label = np.arange(len(scores))
    if len(edges[0]):
        rows, columns = edges[0].astype(np.int32), edges[1].astype(np.int32)
        graph = coo_array((np.ones(len(rows)), (rows, columns)), (len(scores),) * 2)
        label = connected_components(graph, directed=False)[1].astype(np.int64)
    large = np.bincount(label) > max_group
    label = _split(label, large, edges, max_group)
    rank = np.full(len(scores), len(scores))
    rank[order] = np.arange(len(order))
    first = np.full(len(scores), len(scores))
    np.minimum.at(first, label, rank)
    kept_for = np.arange(len(scores))
    kept_for[order] = order[first[label[order]]]
    joined = np.flatnonzero(kept_for != np.arange(len(scores)))
    similarity, score = np.ones(len(scores)), np.full(len(scores), np.inf)
    similarity[joined] = scores.similarities(joined, kept_for[joined])
    score[joined] = similarity[joined] - scores.offsets(joined, kept_for[joined])
    return Groups(kept_for, similarity, score)


def _spanning_forest(scores: Scores, threshold: float, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the pairs of a maximum spanning forest: rows int64 [E], rows int64 [E] and scores float64 [E]."""
    forest = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
    waiting: list[tuple[np.ndarray, ...]] = []

    def merged() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        one, other, score = (np.concatenate(part) for part in zip(forest, *waiting, strict=True))
        highest = score.max(initial=0.0) + 1  # scipy finds the smallest weights, and takes 0 for no edge
        rows, columns = one.astype(np.int32), other.astype(np.int32)  # scipy 1.16 takes no int64
        graph = coo_array((highest - score, (rows, columns)), (len(scores),) * 2)
        tree = minimum_spanning_tree(graph.tocsr()).tocoo()
        return tree.row.astype(np.int64), tree.col.astype(np.int64), highest - tree.data

    for one, other, _, score in all_pairs(scores, threshold, rows):
        waiting.append((one, other, score))
        if sum(len(part[0]) for part in waiting) > _PAIRS:
            forest, waiting = merged(), []
    return merged()


def _split(label: np.ndarray, large: np.ndarray, edges: tuple[np.ndarray, ...], max_group: int) -> np.ndarray:
    """Returns labels in which the groups that are too large are split, int64 [N].

    From the best edge of the forest down, two parts are joined unless both together are too large. Parts that were once
    too large to be joined stay as they are: at the threshold that separates them, they are apart from all others.
    """
    inside = np.flatnonzero(large[label[edges[0]]])
    if not len(inside):
        return label
    nodes = np.flatnonzero(large[label])
    parts: dict[int, list[int]] = {node: [node] for node in nodes.tolist()}
    part_of = {node: node for node in nodes.tolist()}
    closed: set[int] = set()
    for edge in inside[np.argsort(-edges[2][inside], kind="stable")].tolist():
        one, other = part_of[int(edges[0][edge])], part_of[int(edges[1][edge])]
        if one in closed or other in closed or len(parts[one]) + len(parts[other]) > max_group:
            closed |= {one, other}
            continue
        if len(parts[one]) < len(parts[other]):
            one, other = other, one
        for node in parts[other]:
            part_of[node] = one
        parts[one] += parts.pop(other)
    split, new = label.copy(), int(label.max()) + 1
    for number, members in enumerate(parts.values()):
        split[members] = new + number
    return np.unique(split, return_inverse=True)[1]
