"""Compares the pixels of two images under a transform: how much of what both show agrees, and where."""

from dataclasses import dataclass

import numpy as np

from sscd_jax.duplicates.local_features import Features, opencv
from sscd_jax.duplicates.transforms import Found, apply, is_sane, jacobian

GRID = 256  # pixels, of the long side of what is compared
WINDOW = 15  # pixels of the grid, in which the pixels of both images are correlated
SMOOTH = 1.5  # pixels of the grid, the standard deviation of the blur before it: copies are blurred and compressed
FLAT = 4.0  # levels, the standard deviation in a window below which an image shows nothing there
CORRELATION = 0.6  # from which a window agrees
LEAST_PART = 0.05  # of all that agrees, which a part has to be
MOST_CORNERS = 8
LEAST_HEIGHT = 1.0  # pixels of a corner over the line between its neighbors
NEARLY_ALL = 0.9  # of the common frame; where this much agrees, the region is the frame


@dataclass(frozen=True)
class Agreement:
    """How much of what two images both show agrees.

    Attributes:
        share: of what any of both shows in the common frame, the share that agrees.
        area_a, area_b: the area of the region that agrees, as a share of either image.
        region: float64 [N, 2], a convex polygon around it, in pixels of `Features.gray` of image a.
    """

    share: float
    area_a: float
    area_b: float
    region: np.ndarray


def common_frame(a: Features, b: Features, transform: np.ndarray) -> np.ndarray:
    """Returns the part of the frame of image a that the transform maps into that of image b.

    It is a convex polygon of at most 8 corners, float64 [N, 2], without corners where there is no such part.
    """
    width, height = a.shape
    polygon = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
    width, height = b.shape
    # In front of the camera, and on the inner side of each edge of b: rows @ (x, y, 1) >= 0.
    edges = np.array([[0, 0, 1], [1, 0, 0], [-1, 0, width], [0, 1, 0], [0, -1, height]], np.float64) @ transform
    for edge in edges:
        polygon = _cut(polygon, edge)
    return _simplified(polygon)


def area(polygon: np.ndarray) -> float:
    """Returns the area of a polygon, float64 [N, 2]."""
    x, y = polygon.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def agreement(a: Features, b: Features, found: Found) -> Agreement | None:
    """Compares two images where a transform lays them over each other.

    Both are reduced to a small grid in the frame of the one that shows the region in less detail. There, they are
    correlated in windows, without regard to brightness and contrast. Windows in which neither shows anything count for
    nothing.

    Args:
        a, b: both images.
        found: the transform from a to b.

    Returns:
        None if the frames have nothing in common, or the transform is not sane in all of what they have.
    """
    transform = found.transform
    frame = common_frame(a, b, transform)
    if len(frame) < 3 or area(frame) < 1 or not is_sane(transform, frame, mirrored=found.mirrored):
        return None
    grid, agrees, shows = _compare(a, b, transform, frame, negative=found.negative)
    region = _region(frame, grid, agrees, shows, found.inliers[:, 0])
    if region is None:
        return Agreement(0.0, 0.0, 0.0, frame)
    share = float((agrees & shows).sum() / max(shows.sum(), 1))
    in_b = apply(transform, region)
    return Agreement(share, area(region) / a.gray.size, area(in_b) / b.gray.size, region)


def _compare(
    a: Features, b: Features, transform: np.ndarray, frame: np.ndarray, *, negative: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Correlates both images in windows.

    Returns:
        The transform from pixels of a to those of the grid, float64 [3, 3]; and for each pixel of the grid, bool [H, W]
        each, whether the images agree there, and whether any of them shows something there in the common frame.
    """
    finer = np.median(np.abs(np.linalg.det(jacobian(transform, frame)))) < 1  # than b is a
    to_frame = transform if finer else np.eye(3)
    width, height = (b if finer else a).shape
    corners = apply(to_frame, frame).clip(0, (width, height))
    least = corners.min(0)
    sides = corners.max(0) - least
    scale = min(1.0, GRID / sides.max())
    size = max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))
    to_grid = np.array([[scale, 0, -scale * least[0]], [0, scale, -scale * least[1]], [0, 0, 1]]) @ to_frame
    middle = frame.mean(0, keepdims=True)
    one = _laid(a, to_grid, size, middle)
    other = _laid(b, to_grid @ np.linalg.inv(transform), size, apply(transform, middle))
    inside = _filled(apply(to_grid, frame), size)
    correlation, deviation = _correlation(one, other, inside)
    correlation = -correlation if negative else correlation
    return to_grid, (correlation >= CORRELATION) & inside, (deviation >= FLAT) & inside


def _filled(polygon: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns which pixels of a grid are inside a convex polygon, and not at its edge: bool [H, W]."""
    cv2 = opencv()
    mask = np.zeros((size[1] + 2, size[0] + 2), np.uint8)  # with a margin, so that nothing is cut off at the edge
    cv2.fillConvexPoly(mask, np.rint(polygon + 0.5).astype(np.int32), 1)
    return cv2.erode(mask, np.ones((3, 3), np.uint8))[1:-1, 1:-1] > 0


def _laid(image: Features, to_grid: np.ndarray, size: tuple[int, int], middle: np.ndarray) -> np.ndarray:
    """Returns an image as the grid shows it, uint8 [H, W], without finer detail than that of the grid.

    Args:
        image: the image.
        to_grid: float64 [3, 3], from its pixels to those of the grid.
        size: the width and height of the grid.
        middle: float64 [1, 2], the middle of what is seen, in pixels of the image.
    """
    cv2 = opencv()
    scale = float(np.sqrt(np.abs(np.linalg.det(jacobian(to_grid, middle)))[0]))
    gray = image.gray
    if scale < 0.5:  # reduced first, as a transform takes single pixels
        reduced = tuple(max(1, round(length * scale)) for length in image.shape)
        gray = cv2.resize(gray, reduced, interpolation=cv2.INTER_AREA)
    # From pixels, whose middle is a whole number for OpenCV, to those of the grid.
    ratio = np.array(image.shape) / gray.shape[::-1]
    before = np.array([[ratio[0], 0, ratio[0] / 2], [0, ratio[1], ratio[1] / 2], [0, 0, 1]])
    after = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1]])
    return cv2.warpPerspective(gray, after @ to_grid @ before, size, borderMode=cv2.BORDER_REPLICATE)


def _correlation(one: np.ndarray, other: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the correlation of two images in a window around each pixel, and the larger of their standard deviations.

    Args:
        one, other: uint8 [H, W].
        inside: bool [H, W], the pixels that count.

    Returns:
        float32 [H, W] each.
    """
    cv2 = opencv()
    mask = inside.astype(np.float32)
    near = np.maximum(cv2.GaussianBlur(mask, (0, 0), SMOOTH), 1e-3)
    one, other = (cv2.GaussianBlur((image - np.float32(128)) * mask, (0, 0), SMOOTH) / near for image in (one, other))
    count = np.maximum(cv2.boxFilter(mask, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_CONSTANT), 1e-3)

    def mean(values: np.ndarray) -> np.ndarray:
        return cv2.boxFilter(values * mask, -1, (WINDOW, WINDOW), borderType=cv2.BORDER_CONSTANT) / count

    middle, middle_other = mean(one), mean(other)
    deviation = np.sqrt(np.maximum(mean(one * one) - middle**2, 0))
    deviation_other = np.sqrt(np.maximum(mean(other * other) - middle_other**2, 0))
    covariance = mean(one * other) - middle * middle_other
    return covariance / np.maximum(deviation * deviation_other, 1e-1), np.maximum(deviation, deviation_other)


def _region(
    frame: np.ndarray, grid: np.ndarray, agrees: np.ndarray, shows: np.ndarray, inliers: np.ndarray
) -> np.ndarray | None:
    """Returns a convex polygon around what agrees, in pixels of image a, float64 [N, 2].

    It is the common frame where nearly all of that agrees or shows nothing. Otherwise, it is the convex hull of the
    larger parts that agree and have inliers, simplified: other images may have been put over the middle of an image, or
    the frames around both may differ.
    """
    cv2 = opencv()
    if not agrees.any():
        return None
    inside = _filled(apply(grid, frame), agrees.shape[::-1])
    if (shows & ~agrees).sum() <= (1 - NEARLY_ALL) * inside.sum():
        return frame
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (WINDOW // 2 | 1, WINDOW // 2 | 1))
    same = cv2.morphologyEx((agrees & shows).astype(np.uint8), cv2.MORPH_OPEN, kernel)
    count, labels = cv2.connectedComponents(same)
    x, y = np.floor(apply(grid, inliers)).astype(int).clip(0, np.array(labels.shape[::-1]) - 1).T
    sizes = np.bincount(labels.ravel(), minlength=count)
    chosen = (np.bincount(labels[y, x], minlength=count) > 0) & (sizes >= LEAST_PART * same.sum())
    chosen[0] = False
    if not chosen.any():
        return None
    hull = cv2.convexHull(cv2.findNonZero(chosen[labels].astype(np.uint8)))[:, 0].astype(np.float64) + 0.5
    return apply(np.linalg.inv(grid), _simplified(hull))


def _simplified(polygon: np.ndarray) -> np.ndarray:
    """Drops corners of a convex polygon, float64 [N, 2], that change it least, until there are few and all matter."""
    while len(polygon) > 3:
        before, after = np.roll(polygon, 1, 0) - polygon, np.roll(polygon, -1, 0) - polygon
        lost = np.abs(before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0])  # twice the area
        height = lost / np.maximum(np.linalg.norm(after - before, axis=1), 1e-6)
        if len(polygon) <= MOST_CORNERS and height.min() > LEAST_HEIGHT:
            break
        polygon = np.delete(polygon, (lost if len(polygon) > MOST_CORNERS else height).argmin(), 0)
    return polygon


def _cut(polygon: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Returns the part of a convex polygon where edge @ (x, y, 1) >= 0: Sutherland and Hodgman (1974)."""
    if not len(polygon):
        return polygon
    side = polygon @ edge[:2] + edge[2]
    kept: list[np.ndarray] = []
    for i in range(len(polygon)):
        here, there = side[i - 1], side[i]
        if (here < 0) != (there < 0):
            kept.append(polygon[i - 1] + (polygon[i] - polygon[i - 1]) * here / (here - there))
        if there >= 0:
            kept.append(polygon[i])
    return np.array(kept).reshape(-1, 2)
