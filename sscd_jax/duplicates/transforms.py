"""Finds the plane transform that maps matched features of one image to those of another, and checks that it is sane."""

from dataclasses import dataclass

import numpy as np

from sscd_jax.duplicates.local_features import Features, matches, of_gray, opencv

TOLERANCE = 3.0  # pixels between where a feature is and where the transform maps it
LEAST = 4  # matches, without which there is no transform
TURN, SCALE = np.deg2rad(30), np.log(1.7)  # by which the features of a match may differ from what the transform says
MOST_SCALE = 10.0  # of lengths, either way
MOST_STRETCH = 4.0  # of one direction over the other
MOST_PERSPECTIVE = 8.0  # of the scale of areas at one place over another


@dataclass(frozen=True)
class Found:
    """A transform from image a to image b.

    Attributes:
        transform: float64 [3, 3], a projective transform of pixels of `Features.gray`.
        inliers: float64 [N, 2, 2], the matched places that agree with it: N times x and y in a, and in b.
        mirrored: whether b shows a as in a mirror.
        negative: whether b is dark where a is bright.
    """

    transform: np.ndarray
    inliers: np.ndarray
    mirrored: bool = False
    negative: bool = False


def find(a: Features, b: Features, *, mirrored: bool = False, negative: bool = False) -> list[Found]:
    """Finds the affine and the projective transform that most matches agree with.

    Args:
        a, b: features of both images.
        mirrored: whether b shows a as in a mirror.
        negative: whether b is dark where a is bright, instead.

    Returns:
        The affine transform and the projective one, without those that no edit would make.
    """
    rows, others = matches(a.mirrored if mirrored else a.negative if negative else a.vectors, b.vectors)
    if len(rows) < LEAST:
        return []
    source, target = a.points[rows], b.points[others]
    candidates = []
    for fit in (_affine, _projective):
        transform = fit(source, target)
        if transform is None:
            continue
        near = np.flatnonzero(_near(transform, source, target))
        if is_sane(transform, source[near], mirrored=mirrored):
            agree = near[_alike(transform, a, b, rows[near], others[near], negative=negative)]
            places = _distinct(np.stack([source[agree], target[agree]], 1))
            candidates.append(Found(transform, places, mirrored, negative))
    return candidates


def scaled(found: Found, a: Features, b: Features) -> Found:
    """Turns what was found between `a.coarse` and `b.coarse` into what it is between `a` and `b`."""
    from_a, from_b = (np.array(image.shape) / image.coarse.shape for image in (a, b))
    transform = np.diag([*from_b, 1]) @ found.transform @ np.diag([*1 / from_a, 1])
    return Found(transform, found.inliers * np.stack([from_a, from_b]), found.mirrored, found.negative)


def refined(a: Features, b: Features, found: Found) -> list[Found]:
    """Finds transforms again, between image a and what b looks like in the frame of a."""
    cv2 = opencv()
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    from_pixels = np.linalg.inv(half) @ np.linalg.inv(found.transform) @ half
    laid = cv2.warpPerspective(b.gray, from_pixels, a.shape, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    again = []
    for one in find(a, of_gray(255 - laid if found.negative else laid, a.size)):
        inliers = one.inliers.copy()
        inliers[:, 1] = apply(found.transform, inliers[:, 1])
        transform = found.transform @ one.transform
        if np.isfinite(inliers).all() and is_sane(transform, inliers[:, 0], mirrored=found.mirrored):
            again.append(Found(transform, inliers, found.mirrored, found.negative))
    return again


def apply(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Maps points, float64 [N, 2], by a projective transform, float64 [3, 3]."""
    mapped = points @ transform[:, :2].T + transform[:, 2]
    return mapped[:, :2] / np.where(mapped[:, 2:] > 0, mapped[:, 2:], np.nan)


def jacobian(transform: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Returns the derivatives of a projective transform at points, float64 [N, 2]: float64 [N, 2, 2]."""
    weight = points @ transform[2, :2] + transform[2, 2]
    mapped = apply(transform, points)
    return (transform[:2, :2] - mapped[:, :, None] * transform[2, :2]) / weight[:, None, None]


def is_sane(transform: np.ndarray, points: np.ndarray, *, mirrored: bool) -> bool:
    """Returns whether a transform is one that an edit would make, at points, float64 [N, 2].

    It must keep them in front of the camera, enlarge and stretch moderately, be the mirror image everywhere or nowhere,
    and not differ much between places.
    """
    if not len(points) or not np.isfinite(transform).all():
        return False
    if (points @ transform[2, :2] + transform[2, 2] <= 1e-6).any():
        return False
    derivatives = jacobian(transform, points)
    areas = np.linalg.det(derivatives)
    if (areas <= 0).any() if not mirrored else (areas >= 0).any():
        return False
    scales = np.linalg.svd(derivatives, compute_uv=False)
    areas = np.abs(areas)
    return bool(
        scales.max() <= MOST_SCALE
        and scales.min() >= 1 / MOST_SCALE
        and (scales[:, 0] / scales[:, 1]).max() <= MOST_STRETCH
        and areas.max() <= MOST_PERSPECTIVE * areas.min()
    )


def _affine(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    cv2 = opencv()
    found, _ = cv2.estimateAffine2D(
        source, target, method=cv2.RANSAC, ransacReprojThreshold=TOLERANCE, maxIters=3000, confidence=0.999
    )
    return None if found is None else np.concatenate([found, [[0.0, 0.0, 1.0]]])


def _projective(source: np.ndarray, target: np.ndarray) -> np.ndarray | None:
    """Estimates by MAGSAC++, of Barath et al., "MAGSAC++, a fast, reliable and accurate robust estimator" (2020)."""
    cv2 = opencv()
    found, _ = cv2.findHomography(source, target, cv2.USAC_MAGSAC, TOLERANCE, maxIters=3000, confidence=0.999)
    if found is None or abs(found[2, 2]) < 1e-12:
        return None
    return found / found[2, 2]


def _near(transform: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Returns which points a transform maps to where they should be, bool [N]."""
    return np.linalg.norm(apply(transform, source) - target, axis=1) <= TOLERANCE  # not where it is NaN


def _alike(
    transform: np.ndarray, a: Features, b: Features, rows: np.ndarray, others: np.ndarray, *, negative: bool
) -> np.ndarray:
    """Returns which matches have the sizes and orientations that the transform says, bool [N]."""
    derivatives = jacobian(transform, a.points[rows])
    angles = a.angles[rows] + (np.pi if negative else 0)
    along = np.einsum("nij,nj->ni", derivatives, np.stack([np.cos(angles), np.sin(angles)], 1))
    turn = np.arctan2(along[:, 1], along[:, 0]) - b.angles[others]
    turn = np.abs((turn + np.pi) % (2 * np.pi) - np.pi)
    scale = np.log(b.scales[others] / a.scales[rows]) - np.log(np.abs(np.linalg.det(derivatives))) / 2
    return (turn < TURN) & (np.abs(scale) < SCALE)


def _distinct(places: np.ndarray) -> np.ndarray:
    """Returns one of those matches that are at the same place in either image: one place may have several features."""
    for image in (0, 1):
        _, first = np.unique(np.floor(places[:, image] / TOLERANCE), axis=0, return_index=True)
        places = places[np.sort(first)]
    return places
