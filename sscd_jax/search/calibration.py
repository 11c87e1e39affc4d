"""A calibration turns descriptors into answers: a transform, score normalization and a threshold, fitted on images.

It is one file, an .npz of plain arrays, which `sscd-jax calibrate` writes and `sscd-jax evaluate --calibration` uses.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.files import NPZ_ERRORS, atomic_file
from sscd_jax.mapped_vectors import Vectors
from sscd_jax.provenance import Provenance
from sscd_jax.search.score_norm import ScoreNorm, normalize_scores

Method = Literal["whiten", "center", "none"]
FORMAT = 2
# Directions with less than this share of the largest variance are float32 rounding, which whitening would amplify.
LEAST_VARIANCE = 1e-6
_BLOCK = 65536


@dataclass(frozen=True)
class Transform:
    """Maps vectors to (vectors - mean) @ matrix, scaled to norm 1.

    Attributes:
        mean: float32 [D].
        matrix: float32 [D, K], None for the identity.
    """

    mean: np.ndarray
    matrix: np.ndarray | None

    def __call__(self, vectors: Vectors) -> np.ndarray:
        """Transforms float32 [N, D] to float32 [N, K] of norm 1. A vector equal to the mean becomes 0."""
        width = len(self.mean) if self.matrix is None else self.matrix.shape[1]
        out = np.empty((len(vectors), width), np.float32)
        for start in range(0, len(vectors), _BLOCK):
            some = vectors[start : start + _BLOCK] - self.mean
            some = some if self.matrix is None else some @ self.matrix
            out[start : start + _BLOCK] = some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), 1e-12)
        return out


def fit_transform(vectors: Vectors, method: Method) -> tuple[Transform, str]:
    """Fits a transform on training vectors.

    Whitening makes the training vectors vary equally along all directions, as faiss's PCAW without reduction, up to a
    rotation, which changes no similarity. It needs more vectors than dimensions, and vectors that vary along all of
    them; otherwise the vectors are only centered.

    Args:
        vectors: float32 [N, D].
        method: whiten; center, which only subtracts the mean; or none.

    Returns:
        The transform, and why the vectors were centered instead of whitened, or "".

    Raises:
        ValueError: there are fewer than two vectors, they are not finite, or they are all equal.
    """
    count, dims = vectors.shape
    if method == "none":
        return Transform(np.zeros(dims, np.float32), None), ""
    if count < 2:
        raise ValueError(f"a calibration needs training descriptors: there are {count}")
    total, products = np.zeros(dims), np.zeros((dims, dims))
    for start in range(0, count, _BLOCK):
        some = vectors[start : start + _BLOCK].astype(np.float64)
        if not np.isfinite(some).all():
            raise ValueError("training descriptors are not finite")
        total += some.sum(0)
        products += some.T @ some
    mean = total / count
    variance, directions = np.linalg.eigh(products / count - np.outer(mean, mean))
    if variance[-1] < 1e-12:
        raise ValueError(f"all {count} training descriptors are the same: embed other images")
    centered = Transform(mean.astype(np.float32), None)
    if method == "center":
        return centered, ""
    sound = int((variance > LEAST_VARIANCE * variance[-1]).sum())
    if count <= dims or sound < dims:
        why = f"{count} training descriptors vary along {min(sound, count - 1)} of {dims} dimensions"
        return centered, f"centered, not whitened: {why}, and whitening needs all; give more varied images"
    return Transform(centered.mean, (directions / np.sqrt(variance)).astype(np.float32)), ""


@dataclass(frozen=True)
class Calibration:
    """A transform, score normalization and a threshold for descriptors of one provenance.

    Attributes:
        transform: the transform, fitted on the training descriptors.
        norm: score normalization; None for none.
        background: float32 [B, K], the transformed training descriptors that `norm` uses.
        threshold: pairs with at least this score are called copies.
        provenance: the provenance of the descriptors that the calibration is for.
        facts: how it was fitted, and which precision and recall to expect.
    """

    transform: Transform
    norm: ScoreNorm | None
    background: np.ndarray
    threshold: float
    provenance: Provenance
    facts: Mapping[str, Any] = field(default_factory=dict)

    def apply(self, queries: Descriptors, references: Descriptors) -> tuple[np.ndarray, np.ndarray]:
        """Returns queries and references whose inner products are the calibrated scores.

        Args:
            queries: Q descriptors.
            references: R descriptors.

        Returns:
            float32 [Q, K + 1] and float32 [R, K + 1]; without `norm` [Q, K] and [R, K].

        Raises:
            ValueError: the descriptors have other dimensions, weights or another preset than the calibration.
        """
        mine = Descriptors([], np.empty((0, len(self.transform.mean)), np.float32), self.provenance)
        if {one.vectors.shape[1] for one in (queries, references)} != {len(self.transform.mean)}:
            raise ValueError(
                f"the calibration is for descriptors of {len(self.transform.mean)} dimensions, not for these"
            )
        check_same_provenance(calibration=mine, queries=queries, references=references)
        asked, searched = self.transform(queries.vectors), self.transform(references.vectors)
        return normalize_scores(asked, searched, self.background, self.norm) if self.norm else (asked, searched)

    def write(self, path: Path) -> None:
        """Writes the calibration to a file; one that exists is replaced when the new one is complete.

        Raises:
            OSError: the file cannot be written.
        """
        meta = {
            "format": FORMAT,
            "threshold": self.threshold,
            "score_norm": None if self.norm is None else [self.norm.weight, self.norm.first, self.norm.last],
            "weights": self.provenance.weights,
            "preset": self.provenance.preset,
            "computation": self.provenance.computation,
            "probe": self.provenance.details.get("probe"),
            "network": self.provenance.details.get("network"),
            "facts": dict(self.facts),
        }
        matrix = np.empty((0, 0), np.float32) if self.transform.matrix is None else self.transform.matrix
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                meta=np.array(json.dumps(meta)),
                mean=self.transform.mean,
                matrix=matrix,
                background=self.background,
            )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads a calibration that `write` has written.

        Raises:
            ValueError: the file does not exist, is damaged, or is not a calibration; the error names it.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                mean, matrix, background = (data[name] for name in ("mean", "matrix", "background"))
                meta = json.loads(str(data["meta"]))
            norm = None if meta["score_norm"] is None else ScoreNorm(*meta["score_norm"])
            width = matrix.shape[1] if matrix.size else len(mean)
            shapes = mean.ndim == 1 and (not matrix.size or matrix.shape[0] == len(mean))
            if meta["format"] != FORMAT or not shapes or (norm and background.shape[1:] != (width,)):
                raise ValueError("its format or its shapes are wrong")
            if any(one.dtype != np.float32 or not np.isfinite(one).all() for one in (mean, matrix, background)):
                raise ValueError("its numbers are not finite")
            if not np.isfinite(float(meta["threshold"])):
                raise ValueError("its threshold is not finite")
            details = {name: meta[name] for name in ("probe", "network") if meta.get(name)}
            provenance = Provenance(meta["weights"], meta["preset"], details, meta["computation"])
            transform = Transform(mean, matrix if matrix.size else None)
            return cls(transform, norm, background, float(meta["threshold"]), provenance, meta["facts"])
        except (*NPZ_ERRORS, TypeError) as error:
            raise ValueError(f"{path} is not a calibration: {error}; make one by `sscd-jax calibrate`") from error
