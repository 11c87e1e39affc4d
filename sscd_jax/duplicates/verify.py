"""Verifies a pair of images by local features: whether one has a part of the other, and which.

Features are matched, a plane transform is fitted to the matches, and the pixels are compared under that transform. All
three must agree for a copy. Where an image has too few features to match, or the three disagree, nothing is said: that
nothing was found is then no sign that the images differ. `scripts/benchmarks/verify.py` measures how often it errs, and
the thresholds below are from its tables.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from sscd_jax.data.images import open_image
from sscd_jax.duplicates.agreement import Agreement, agreement
from sscd_jax.duplicates.local_features import Features, features
from sscd_jax.duplicates.transforms import Found, apply, find, refined, scaled
from sscd_jax.embedding.given_images import ImageLike, open_given

Verdict = Literal["copy", "different", "cannot say"]

LEAST_FEATURES = 24  # of an image, with which two images can be told to differ
ENOUGH = 15  # inliers that the pixels confirm, with which nothing else is tried
VIEWS = ((False, False), (True, False), (False, True))  # of b: whether it is mirrored, and whether it is a negative
LEAST_INLIERS = 6  # copies that the pixels confirm mostly have 8 and more, unrelated images 0, and hardly ever 3
FEW_INLIERS = 4  # which may be chance; if the pixels agree, nothing is said
LEAST_SPREAD = 0.02  # of the long side: the standard deviation of the inliers across the line that is nearest to them
# Of what both images show in their common frame, which must agree for a copy. Two images in the same frame of an app
# reach 0.62, and a few copies under large stickers have less.
LEAST_SHARE = 0.65
LOW_SHARE = 0.25  # below which it is a caption, a logo or a frame that both images have
LEAST_AREA = 0.05  # of the region that agrees, as a share of the image of which it is more


@dataclass(frozen=True)
class Verification:
    """What local features say about a pair of images.

    Attributes:
        verdict: whether one image has a part of the other.
        inliers: the number of places whose features match and agree with the transform.
        mirrored: whether one image shows the other as in a mirror; False unless the verdict is "copy".
        polygon_a: float64 [N, 2], the convex region of image a that is in b, in pixels, (0, 0) being the upper left
            corner of the image; 3 to 8 corners. None unless the verdict is "copy".
        polygon_b: float64 [N, 2], the same corners in image b.
        reason: why nothing can be said; "" for the other verdicts.
    """

    verdict: Verdict
    inliers: int = 0
    mirrored: bool = False
    polygon_a: np.ndarray | None = None
    polygon_b: np.ndarray | None = None
    reason: str = ""


@dataclass(frozen=True)
class Evidence:
    """What was found about a pair: a transform in pixels of `Features.gray`, and how the pixels agree under it."""

    found: Found
    agreement: Agreement

    @property
    def weight(self) -> float:
        """How many matches the pixels confirm."""
        return len(self.found.inliers) * self.agreement.share

    @property
    def inliers(self) -> int:
        """The number of inliers."""
        return len(self.found.inliers)

    def spread(self, a: Features, b: Features) -> float:
        """Returns the standard deviation of the inliers across the line nearest to them, in shares of the long side."""
        spreads = []
        for number, image in enumerate((a, b)):
            places = self.found.inliers[:, number]
            across = np.linalg.svd(places - places.mean(0), compute_uv=False)[-1]
            spreads.append(float(across) / np.sqrt(len(places)) / max(image.shape))
        return min(spreads)


def verify_copy(a: ImageLike, b: ImageLike) -> Verification:
    """Says by local features whether one image has a part of the other, and which part.

    It needs no network, and finds the region that was copied. It says nothing about images with few local features,
    such as blurred and tiny ones: the verdict is then "cannot say".

    Args:
        a, b: an image each: a path, a PIL image, or an array, uint8 RGB [H, W, 3].

    Raises:
        ValueError: an image cannot be read.
        OSError: a file cannot be read.
        ImportError: the extra verify is not installed.

    Examples:
        >>> found = sscd_jax.verify_copy("poster.jpg", "photo.jpg")
        >>> found.verdict, found.polygon_b.round().tolist()
        ('copy', [[40.0, 31.0], [600.0, 31.0], [600.0, 415.0], [40.0, 415.0]])
    """
    images = [open_given([one]) for one in (a, b)]
    for source in images:
        if len(source) != 1:
            raise ValueError(f"{source.name} has {len(source)} images; give one image")
    one, other = (open_image(source.load(0)) for source in images)
    return verify(one, other)


def verify(a: Image.Image, b: Image.Image) -> Verification:
    """Verifies whether one image has a part of the other.

    Args:
        a, b: images, of which each is reduced to at most 640 pixels on the long side.

    Raises:
        ImportError: OpenCV is not installed; the error names the extra `verify`.
        ValueError: an image has pixels of 32 bits, or cannot be decoded.
    """
    return verify_features(features(a), features(b))


def verify_features(a: Features, b: Features) -> Verification:
    """Verifies a pair as `verify` does, where the features of the images were found before."""
    return judge(evidence(a, b), a, b)


def judge(seen: Evidence | None, a: Features, b: Features) -> Verification:
    """Returns the verdict on a pair for what `evidence` returned."""
    doubt = _doubt(seen, a, b)
    inliers = seen.inliers if seen else 0
    if seen is None or doubt is not None:
        return Verification("cannot say" if doubt else "different", inliers, reason=doubt or "")
    region = seen.agreement.region
    polygon_a, polygon_b = (
        (corners * np.array(image.size) / image.shape).clip(0, image.size)
        for image, corners in ((a, region), (b, apply(seen.found.transform, region)))
    )
    return Verification("copy", inliers, seen.found.mirrored, polygon_a, polygon_b)


def _doubt(seen: Evidence | None, a: Features, b: Features) -> str | None:
    """Returns None for a copy, why nothing can be said, or "" if the images differ."""
    few = next(
        (f"too few features in {name}" for name, image in (("a", a), ("b", b)) if len(image) < LEAST_FEATURES), ""
    )
    if seen is None or seen.inliers < FEW_INLIERS or seen.agreement.share < LOW_SHARE:
        return few
    if seen.inliers < LEAST_INLIERS:
        return few or "too few features match"
    if seen.spread(a, b) < LEAST_SPREAD:
        return few or "what matches is along a line"
    if seen.agreement.share < LEAST_SHARE:
        return few or "only a part of what both show agrees"
    if max(seen.agreement.area_a, seen.agreement.area_b) < LEAST_AREA:
        return few or "only a small part agrees"
    return None


def evidence(a: Features, b: Features) -> Evidence | None:
    """Returns the best transform, direct, mirrored or to a negative, and how the pixels agree under it.

    Where that is too little, the images are compared at a lower resolution, and once more after b was laid over a: SIFT
    finds little in common between images that are stretched differently.
    """
    best: Evidence | None = None
    for mirrored, negative in VIEWS:
        if best is None or best.weight < ENOUGH:
            best = _better(best, _weighed(a, b, find(a, b, mirrored=mirrored, negative=negative)))
    if best is None or best.weight < ENOUGH:
        for mirrored in (False, True):
            founds = [scaled(found, a, b) for found in find(a.coarse, b.coarse, mirrored=mirrored)]
            best = _better(best, _weighed(a, b, founds))
    if best is not None and best.weight < ENOUGH:
        best = _better(best, _weighed(a, b, refined(a, b, best.found)))
    return best


def _weighed(a: Features, b: Features, founds: list[Found]) -> Evidence | None:
    """Returns the transform of which the pixels confirm most."""
    best: Evidence | None = None
    for found in founds:
        if len(found.inliers) >= 3 and (agreed := agreement(a, b, found)) is not None:
            best = _better(best, Evidence(found, agreed))
    return best


def _better(one: Evidence | None, other: Evidence | None) -> Evidence | None:
    """Returns the one that weighs more; the first one, unless the second weighs considerably more."""
    if one is None or other is None:
        return other if one is None else one
    return other if other.weight > 1.1 * one.weight else one


def outline(image: Image.Image, polygon: np.ndarray) -> Image.Image:
    """Returns an image with the outline of a region: a bright line between two dark ones, seen on light and dark.

    Args:
        image: any image that Pillow converts to RGB; it is not changed.
        polygon: float [N, 2], the corners in pixels, as in `Verification`.
    """
    drawn = image.convert("RGB")
    drawn = drawn.copy() if drawn is image else drawn
    width = max(1, round(max(image.size) / 150))
    most = np.array(image.size) - 1
    corners = [tuple(corner) for corner in np.clip(np.asarray(polygon) - 0.5, 0, most).tolist()]
    draw = ImageDraw.Draw(drawn)
    for color, thick in (((0, 0, 0), 3 * width), ((255, 225, 0), width)):
        draw.line([*corners, *corners[:2]], color, thick, joint="curve")
    return drawn
