"""Score normalization: subtracts from each score how similar the query is to unrelated images."""

import re
from dataclasses import dataclass
from typing import Self

import numpy as np

from sscd_jax.search.knn import knn


@dataclass(frozen=True)
class ScoreNorm:
    """How scores are normalized: minus `weight` times a query's mean similarity to some of its background neighbors.

    Attributes:
        weight: the factor of the mean similarity.
        first: the first neighbor that counts; 0 is the nearest.
        last: the last neighbor that counts.
    """

    weight: float
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.weight}[{self.first},{self.last}]"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parses "1.0[0,2]", or "1.0[0]" for a single neighbor (official disc_eval.py `ScoreNormalization`).

        Raises:
            ValueError: the text does not have that form.

        Examples:
            >>> ScoreNorm.parse("1.0[0,2]")
            ScoreNorm(weight=1.0, first=0, last=2)
        """
        match = re.fullmatch(r"\s*(\d*\.?\d+)\[(\d+)(?:,(\d+))?\]\s*", text)
        last = int(match[3] or match[2]) if match else -1
        if match is None or last < int(match[2]):
            raise ValueError(f"score normalization {text!r} is not of the form weight[first,last], such as 1.0[0,2]")
        return cls(float(match[1]), int(match[2]), last)


def normalize_scores(
    queries: np.ndarray, references: np.ndarray, training: np.ndarray, norm: ScoreNorm
) -> tuple[np.ndarray, np.ndarray]:
    """Returns queries and references whose inner products are the normalized scores.

    Each vector gets one more dimension: of a query, minus `norm.weight` times the mean of its similarities to the
    background; of a reference, 1. The vectors are not scaled to norm 1 afterwards (official disc_eval.py
    `apply_score_norm`).

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        training: float32 [T, D], the background: descriptors of images that are unrelated to the queries.
        norm: the weight and the neighbors.

    Returns:
        float32 [Q, D + 1] and float32 [R, D + 1].

    Raises:
        ValueError: the background has too few vectors.
    """
    if len(training) <= norm.last:
        raise ValueError(f"score normalization needs {norm.last + 1} training descriptors, there are {len(training)}")
    scores, _ = knn(queries, training, norm.last + 1, "inner_product")
    bias = -norm.weight * scores[:, norm.first :].mean(1, keepdims=True)
    ones = np.ones((len(references), 1), np.float32)
    return (
        np.concatenate([queries, bias], 1, dtype=np.float32),
        np.concatenate([references, ones], 1, dtype=np.float32),
    )
