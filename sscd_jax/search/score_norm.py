"""What is done to descriptors before they are compared."""

import re
from dataclasses import dataclass
from typing import Self

import numpy as np

from sscd_jax.search.knn import knn


@dataclass(frozen=True)
class ScoreNorm:
    """Subtract weight x the mean similarity of a query to its background neighbors first..last (from 0)."""

    weight: float
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.weight}[{self.first},{self.last}]"

    @classmethod
    def parse(cls, text: str) -> Self:
        """From "1.0[0,2]", or "1.0[0]" for one neighbor (official disc_eval.py ScoreNormalization).

        Raises:
            ValueError: the text is not of that form.
        """
        match = re.fullmatch(r"\s*(\d*\.?\d+)\[(\d+)(?:,(\d+))?\]\s*", text)
        last = int(match[3] or match[2]) if match else -1
        if match is None or last < int(match[2]):
            raise ValueError(f"score normalization {text!r} is not of the form weight[first,last], as 1.0[0,2]")
        return cls(float(match[1]), int(match[2]), last)


def normalize_scores(
    queries: np.ndarray, references: np.ndarray, training: np.ndarray, norm: ScoreNorm
) -> tuple[np.ndarray, np.ndarray]:
    """Queries and references whose inner products are the normalized scores: one more dimension each.

    The query's is minus weight x the mean of its similarities, a reference's is 1; neither is normalized again
    (official disc_eval.py apply_score_norm).

    Args:
        queries: float32 [Q, D].
        references: float32 [R, D].
        training: float32 [T, D], the background.

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
