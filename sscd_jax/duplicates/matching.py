"""The copies of some images among others: the best ones of each, or all at or above a threshold."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from sscd_jax.descriptors import check_same_provenance
from sscd_jax.duplicates import background
from sscd_jax.duplicates.background_cache import measured
from sscd_jax.duplicates.notebook import lines_of_images
from sscd_jax.duplicates.options import Options, ScoreKind
from sscd_jax.duplicates.scores import Scores, all_pairs, best_pairs, ranked
from sscd_jax.duplicates.sides import Described, check_units
from sscd_jax.duplicates.thumbnails import Thumbnails
from sscd_jax.mapped_vectors import Vectors, joined

if TYPE_CHECKING:
    import pandas as pd

BEST = 10  # references that are returned for each query by default
_SHOWN, _SHOWN_MATCHES = 10, 5  # queries in a notebook, and references of each


@dataclass(frozen=True)
class Matches:
    """References that are like queries, a row for each pair; `sscd_jax.find_copies` makes it.

    The rows of a query are together, the best reference first. Queries are in the order in which they were given.

    Attributes:
        queries, references: the images.
        query_row: int64 [P], the row of the query of each pair.
        reference_row: int64 [P], the row of its reference.
        similarity: float64 [P], the inner product of both descriptors.
        score: float64 [P], the same less background; or the same, if the score is the similarity.
        options: how they were found; `options.least` is the score from which a reference counts as a copy.

    Examples:
        >>> found = sscd_jax.find_copies("suspect.jpg", "photos", k=3)
        >>> found.query, found.reference, found.score
        (array(['suspect', 'suspect', 'suspect'], dtype=object), array(['041', '007', '112'], ...
    """

    queries: Described
    references: Described
    query_row: np.ndarray
    reference_row: np.ndarray
    similarity: np.ndarray
    score: np.ndarray
    options: Options

    def __len__(self) -> int:
        return len(self.query_row)

    def __repr__(self) -> str:
        queries, references = (len(one.descriptors.ids) for one in (self.queries, self.references))
        copies, found = int(self.is_copy.sum()), len(np.unique(self.query_row[self.is_copy]))
        return (
            f"<sscd_jax.Matches: {queries} queries among {references} references, {copies} copies of {found} queries>"
        )

    @cached_property
    def query(self) -> np.ndarray:
        """The id of the query of each pair, object [P]."""
        return _taken(self.queries, self.query_row)

    @cached_property
    def reference(self) -> np.ndarray:
        """The id of the reference of each pair, object [P]."""
        return _taken(self.references, self.reference_row)

    @property
    def rank(self) -> np.ndarray:
        """The place of each reference among those of its query, int64 [P]; the best is 1."""
        return np.arange(len(self)) - np.searchsorted(self.query_row, self.query_row) + 1

    @property
    def is_copy(self) -> np.ndarray:
        """Whether each score is at or above the threshold, bool [P]."""
        return self.score >= self.options.least

    def by_query(self) -> Iterator[tuple[int, slice]]:
        """Yields the row of each query, in order, and the pairs that it has, which may be none."""
        ends = np.searchsorted(self.query_row, np.arange(len(self.queries.descriptors.ids)), "right").tolist()
        for row, (first, last) in enumerate(zip([0, *ends], ends, strict=False)):
            yield row, slice(first, last)

    def to_pandas(self) -> "pd.DataFrame":
        """Returns the pairs as a table with the columns of matches.csv.

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "query": self.query,
                "rank": self.rank,
                "match": self.reference,
                "similarity": self.similarity,
                "score": self.score,
                "copy": self.is_copy,
            }
        )

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the first queries with their best references, with small images."""
        is_copy = self.is_copy
        rows: list[tuple[str, list[tuple[str, str]]]] = []  # the query; its references, and what is said of them
        for row, pairs in islice(self.by_query(), _SHOWN):
            shown = range(pairs.start, min(pairs.stop, pairs.start + _SHOWN_MATCHES))
            told = [(self.reference[i], f"{self.score[i]:.3f}{', copy' if is_copy[i] else ''}") for i in shown]
            rows.append((self.queries.descriptors.ids[row], told))
        with Thumbnails(self.queries.load) as some, Thumbnails(self.references.load) as others:
            mine, theirs = some.of(one for one, _ in rows), others.of(one for _, told in rows for one, _ in told)
        lines = (
            [(mine[one], one, "query"), *((theirs[other], other, label) for other, label in told)] for one, told in rows
        )
        return lines_of_images(repr(self), lines)


def match(queries: Described, references: Described, options: Options, *, k: int = BEST) -> Matches:
    """Finds the references that are like each query.

    Args:
        queries, references: the images.
        options: what a score is; and the threshold, if there is one.
        k: the number of references of each query where there is no threshold.

    Raises:
        ValueError: both are of different weights or presets, or vectors do not have norm 1.
    """
    sets = {"queries": queries.descriptors, "references": references.descriptors}
    check_same_provenance(**sets)
    check_units(**sets)
    mine, others = queries.descriptors.vectors, references.descriptors.vectors
    scores = scores_between(mine, others, options.score)
    rows, columns = np.arange(len(mine)), np.arange(len(mine), len(scores))
    if options.threshold is None:
        found = best_pairs(scores, k, rows, columns)
    else:
        found = map(ranked, all_pairs(scores, options.threshold, rows, columns))
    empty = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0), np.empty(0)
    one, other, similarity, score = (np.concatenate(part) for part in zip(empty, *found, strict=True))
    return Matches(queries, references, one, other - len(mine), similarity, score, options)


def scores_between(queries: Vectors, references: Vectors, kind: ScoreKind) -> Scores:
    """Returns the scores of queries and references together, the queries first.

    The background of both is measured among the references.

    Args:
        queries: float32 [Q, D] of norm 1.
        references: float32 [R, D] of norm 1.
        kind: what a score is.
    """
    vectors = joined(queries, references)
    if kind == "similarity":
        return Scores.plain(vectors)
    order = np.arange(len(references))
    grouped, of_references = measured(references, order)
    mine = background.of_others(queries, references, order[grouped.is_kept])
    return Scores(vectors, np.concatenate([mine, of_references]))


def _taken(images: Described, rows: np.ndarray) -> np.ndarray:
    names = np.empty(len(rows), object)
    names[:] = [images.descriptors.ids[row] for row in rows.tolist()]
    return names
