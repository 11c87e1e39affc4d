"""Local features of an image, RootSIFT, also as the mirror image and the negative have them; and matches of them."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from sscd_jax.data.images import to_rgb

SIDE = 640  # pixels, of the long side of what features are searched in
COARSE = 0.4  # of the size, at which features are searched for again where that finds too little
MOST = 1500  # features of an image
CONTRAST = 0.01  # of a feature; a quarter of what OpenCV takes, for dark, pale and blurred copies
RATIO = 0.85  # of the distances to the nearest and to the second nearest feature, below which a match counts


@dataclass(frozen=True)
class Features:
    """The local features of an image. Positions are in pixels of `gray`, whose upper left corner is (0, 0).

    Attributes:
        size: width and height of the image.
        gray: uint8 [H, W], the image that features were searched in.
        points: float64 [N, 2], x and y.
        scales: float64 [N], the diameters.
        angles: float64 [N], the orientations in radians.
        vectors: float32 [N, 128] of norm 1.
    """

    size: tuple[int, int]
    gray: np.ndarray
    points: np.ndarray
    scales: np.ndarray
    angles: np.ndarray
    vectors: np.ndarray

    def __len__(self) -> int:
        return len(self.points)

    @property
    def shape(self) -> tuple[int, int]:
        """The width and height of `gray`."""
        return self.gray.shape[1], self.gray.shape[0]

    @cached_property
    def mirrored(self) -> np.ndarray:
        """The vectors that the mirror image would have at the same places, float32 [N, 128].

        SIFT has 4 x 4 cells along the orientation of a feature and across it, of 8 directions each. A mirror turns the
        cells across the orientation around, and the sign of the directions.
        """
        cells = self.vectors.reshape(-1, 4, 4, 8)[:, ::-1]
        return np.ascontiguousarray(cells[..., -np.arange(8) % 8]).reshape(-1, 128)

    @cached_property
    def negative(self) -> np.ndarray:
        """The vectors that the negative would have at the same places, float32 [N, 128].

        All gradients turn around in it, and so does the orientation of a feature, along which its cells are numbered.
        """
        return np.ascontiguousarray(self.vectors.reshape(-1, 4, 4, 8)[:, ::-1, ::-1]).reshape(-1, 128)

    @cached_property
    def coarse(self) -> "Features":
        """The features of the image at a part of its size, where noise and the blocks of JPEG are averaged out."""
        width, height = (max(1, round(length * COARSE)) for length in self.shape)
        small = Image.fromarray(self.gray).resize((width, height), Image.Resampling.BOX)
        return of_gray(np.asarray(small), self.size)


def opencv() -> Any:
    """Imports OpenCV.

    Raises:
        ImportError: it is not installed; the error names the extra that has it.
    """
    try:
        import cv2
    except ImportError as error:
        raise ImportError("OpenCV is not installed: pip install 'sscd_jax[verify]'", name="cv2") from error
    return cv2


def features(image: Image.Image, *, side: int = SIDE) -> Features:
    """Finds the local features of an image.

    They are those of Lowe, "Distinctive image features from scale-invariant keypoints" (2004), normalized as RootSIFT,
    of Arandjelovic and Zisserman, "Three things everyone should know to improve object retrieval" (2012).

    Args:
        image: any image; transparent ones are composited on white.
        side: a longer image is reduced to this number of pixels on the long side.

    Raises:
        ImportError: OpenCV is not installed.
        ValueError: the image has pixels of 32 bits, or cannot be decoded.
    """
    small = to_rgb(image)
    if max(small.size) > side:
        width, height = (max(1, round(length * side / max(small.size))) for length in small.size)
        small = small.resize((width, height), Image.Resampling.BILINEAR)
    return of_gray(np.asarray(small.convert("L")), image.size)


def of_gray(gray: np.ndarray, size: tuple[int, int]) -> Features:
    """Finds the local features in gray pixels, uint8 [H, W], of an image of a size, its width and height."""
    sift = opencv().SIFT_create(nfeatures=MOST, contrastThreshold=CONTRAST, enable_precise_upscale=True)
    points, vectors = sift.detectAndCompute(gray, None)
    points = points[:MOST]  # OpenCV may return more, where several are equally good
    if not points:
        return Features(size, gray, np.empty((0, 2)), np.empty(0), np.empty(0), np.empty((0, 128), np.float32))
    vectors = np.sqrt(vectors[:MOST] / np.maximum(vectors[:MOST].sum(1, keepdims=True), 1e-6))
    places = np.array([point.pt for point in points]) + 0.5  # OpenCV has 0 at the middle of a pixel
    scales = np.array([point.size for point in points])
    angles = np.deg2rad([point.angle for point in points])
    return Features(size, gray, places, scales, angles, vectors)


def matches(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the features that are nearest to each other, and much nearer than the second nearest, in both directions.

    Args:
        one: float32 [N, D] of norm 1.
        other: float32 [M, D] of norm 1.

    Returns:
        Rows of `one` and of `other`, int64 [K] each.
    """
    if min(len(one), len(other)) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    similarity = one @ other.T
    nearest, is_clear = _nearest(similarity)
    back, is_clear_back = _nearest(similarity.T)
    rows = np.flatnonzero(is_clear & (back[nearest] == np.arange(len(one))) & is_clear_back[nearest])
    return rows, nearest[rows]


def _nearest(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest column of each row, int64 [N], and whether it is much nearer than the second, bool [N]."""
    rows, nearest = np.arange(len(similarity)), similarity.argmax(1)
    best = similarity[rows, nearest]
    similarity[rows, nearest] = -np.inf
    distance, second = (np.maximum(2 - 2 * value, 0) for value in (best, similarity.max(1)))  # squared
    similarity[rows, nearest] = best
    return nearest, distance < RATIO**2 * second
