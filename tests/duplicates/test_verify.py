"""Verification of pairs, against the geometry of the edits that made them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps

from sscd_jax.data.sample import photograph_paths
from sscd_jax.duplicates.local_features import MOST, features, matches
from sscd_jax.duplicates.verify import Verification, outline, verify, verify_features

cv2 = pytest.importorskip("cv2")

NAMES = ("astronaut", "chelsea", "china", "coffee", "motorcycle", "rocket")


@pytest.fixture(scope="module")
def photographs() -> dict[str, Image.Image]:
    paths = photograph_paths()
    found = {name: Image.open(paths[name]).convert("RGB") for name in NAMES}
    for image in found.values():
        image.thumbnail((512, 512))
    return found


def corners(left: float, top: float, right: float, bottom: float) -> np.ndarray:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], float)


def frame(image: Image.Image) -> np.ndarray:
    return corners(0, 0, *image.size)


def covers(polygon: np.ndarray, truth: np.ndarray, image: Image.Image, *, within: float = 0.02) -> None:
    """Asserts that each corner of one polygon is near to one of the other, in shares of the image's long side."""
    apart = np.linalg.norm(polygon[:, None] - truth[None], axis=2) / max(image.size)
    assert apart.min(1).max() < within
    assert apart.min(0).max() < within


def is_region(said: Verification, a: Image.Image, b: Image.Image, in_a: np.ndarray, in_b: np.ndarray) -> None:
    assert (said.verdict, said.reason) == ("copy", "")
    assert said.polygon_a.dtype == said.polygon_b.dtype == np.float64
    assert said.polygon_a.shape == said.polygon_b.shape
    covers(said.polygon_a, in_a, a)
    covers(said.polygon_b, in_b, b)


@pytest.mark.parametrize("name", NAMES)
def test_a_crop(photographs, name):
    image = photographs[name]
    box = tuple(round(part * side) for part, side in zip((0.2, 0.1, 0.85, 0.8), image.size * 2, strict=True))
    cropped = image.crop(box)
    is_region(verify(image, cropped), image, cropped, corners(*box), frame(cropped))
    is_region(verify(cropped, image), cropped, image, frame(cropped), corners(*box))


@pytest.mark.slow
@pytest.mark.parametrize("angle", [7, -23, 90, 180])
def test_a_rotation(photographs, angle):
    image = photographs["astronaut"]
    rotated = image.rotate(angle, Image.Resampling.BICUBIC, expand=True, fillcolor=(90, 20, 160))
    turn = np.deg2rad(angle)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])  # y points down
    truth = (frame(image) - np.array(image.size) / 2) @ matrix.T + np.array(rotated.size) / 2
    is_region(verify(image, rotated), image, rotated, frame(image), truth)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_padded_image_of_another_size(photographs, name):
    """The region is in pixels of the images as they are, whatever size they are reduced to."""
    image = photographs[name]
    width, height = image.size
    large = image.resize((3 * width, 3 * height))
    padded = Image.new("RGB", (width + 100, height + 60), (200, 30, 30))
    padded.paste(image, (70, 20))
    is_region(verify(large, padded), large, padded, frame(large), corners(70, 20, 70 + width, 20 + height))


@pytest.mark.parametrize("name", NAMES)
def test_a_mirrored_crop(photographs, name):
    image = photographs[name]
    width, height = image.size
    box = (width // 10, height // 8, width - width // 6, height)
    mirrored = ImageOps.mirror(image.crop(box))
    said = verify(image, mirrored)
    assert said.mirrored
    is_region(said, image, mirrored, corners(*box), frame(mirrored))
    first = np.linalg.norm(said.polygon_a - corners(*box)[0], axis=1).argmin()
    assert np.linalg.norm(said.polygon_b[first] - [mirrored.width, 0]) < 0.02 * width  # the same corner
    assert not verify(image, image.crop(box)).mirrored


def test_a_perspective_view(photographs):
    image = photographs["china"]
    size = np.array(image.size)
    quad = np.array([[0.1, 0.05], [0.9, 0.2], [0.95, 0.8], [0.05, 0.95]]) * size
    matrix = cv2.getPerspectiveTransform(frame(image).astype(np.float32), quad.astype(np.float32))
    seen = Image.fromarray(cv2.warpPerspective(np.asarray(image), matrix, image.size, borderValue=(255, 255, 255)))
    is_region(verify(image, seen), image, seen, frame(image), quad)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_negative(photographs, name):
    image = photographs[name]
    negative = ImageOps.invert(image)
    is_region(verify(image, negative), image, negative, frame(image), frame(image))


def test_two_copies_in_different_frames(photographs):
    """Each has bars that the other does not have: the region is the photograph between them."""
    image = photographs["chelsea"]
    width, height = image.size
    rng = np.random.default_rng(0)
    stripes = [Image.fromarray(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)) for _ in range(2)]
    a, b = (one.resize((width, height)).resize((width, 2 * height)) for one in stripes)
    a.paste(image, (0, 0))
    b.paste(image, (0, height // 2))
    said = verify(a, b)
    assert said.verdict == "copy"
    assert said.polygon_a[:, 1].max() < 1.1 * height
    assert said.polygon_b[:, 1].min() > 0.4 * height
    assert np.ptp(said.polygon_a[:, 0]) > 0.9 * width
    assert np.ptp(said.polygon_a[:, 1]) > 0.8 * height
    assert 3 <= len(said.polygon_a) <= 8


@pytest.mark.slow
def test_different_photographs(photographs):
    found = {name: features(image) for name, image in photographs.items()}
    for i, one in enumerate(NAMES):
        for other in NAMES[:i]:
            said = verify_features(found[one], found[other])
            assert (said.verdict, said.reason, said.polygon_a, said.polygon_b) == ("different", "", None, None)


def test_parts_that_do_not_overlap(photographs):
    image = photographs["astronaut"]
    left, right = image.crop((0, 0, 250, 512)), image.crop((262, 0, 512, 512))
    assert verify(left, right).verdict == "different"


def test_a_logo_is_no_copy(photographs):
    logo = photographs["rocket"].resize((90, 60))
    a, b = photographs["coffee"].copy(), photographs["china"].copy()
    a.paste(logo, (10, 10))
    b.paste(logo, (300, 200))
    said = verify(a, b)
    assert said.inliers > 5
    assert said.verdict == "different"


@pytest.mark.slow
@pytest.mark.parametrize(("which", "make"), [
    ("b", lambda image: Image.new("RGB", image.size, (40, 90, 40))),
    ("b", lambda image: image.resize((8, 8))),
    ("b", lambda image: image.filter(ImageFilter.GaussianBlur(60))),
    ("b", lambda image: Image.new("RGB", (1, 1))),
    ("b", lambda image: Image.new("RGB", (3000, 1), "white")),
], ids=["flat", "tiny", "blurred", "one pixel", "a line"])  # fmt: skip
def test_what_has_too_few_features_is_not_called_different(photographs, which, make):
    image = photographs["coffee"]
    made = make(image)
    assert verify(image, made) == Verification("cannot say", reason="too few features in b")
    assert verify(made, image) == Verification("cannot say", reason="too few features in a")
    assert verify(made, made).verdict == "cannot say"


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK", "I;16"])
def test_modes(photographs, mode):
    image = photographs["coffee"]
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        converted = image.convert(mode)
    before = converted.tobytes()
    said = verify(image, converted)
    assert said.verdict == "copy"
    assert converted.tobytes() == before
    outline(converted, said.polygon_b)
    assert converted.tobytes() == before


def test_pixels_without_a_known_range_are_an_error(photographs):
    with pytest.raises(ValueError, match="floating-point"):
        verify(photographs["coffee"], Image.new("F", (50, 50)))


@pytest.mark.slow
def test_the_same_on_every_call(photographs):
    image = photographs["motorcycle"]
    copy = image.rotate(11).resize((300, 220))
    said = verify(image, copy)
    for seed, threads in ((1, 1), (2, 4)):
        before = cv2.getNumThreads()
        cv2.setRNGSeed(seed)
        np.random.seed(seed)
        cv2.setNumThreads(threads)
        again = verify(image, copy)
        cv2.setNumThreads(before)
        assert (again.verdict, again.inliers, again.mirrored) == (said.verdict, said.inliers, said.mirrored)
        np.testing.assert_array_equal(again.polygon_a, said.polygon_a)
        np.testing.assert_array_equal(again.polygon_b, said.polygon_b)


def test_the_number_of_features_is_bounded():
    noise = np.random.default_rng(0).integers(0, 256, (700, 900), np.uint8)
    found = features(Image.fromarray(noise))
    assert len(found) == MOST
    assert found.shape == (640, 498)
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, atol=1e-5)


def test_mirrored_vectors_are_those_of_the_mirror_image(photographs):
    """They are not computed from a mirror image, but equal what it has."""
    image = photographs["chelsea"]
    one, other = features(image), features(ImageOps.mirror(image))
    rows, others = matches(one.mirrored, other.vectors)
    assert len(rows) > 0.7 * len(one)
    apart = np.abs(one.points[rows] * [-1, 1] + [image.width, 0] - other.points[others]).max(1)
    assert np.median(apart) < 0.05
    same = np.einsum("nd,nd->n", one.mirrored[rows], other.vectors[others])
    assert np.median(same) > 0.98
    assert len(matches(one.vectors, other.vectors)[0]) < 0.2 * len(one)


@settings(max_examples=40)
@given(st.data())
def test_any_two_small_images(data):
    images = []
    for _ in range(2):
        width, height, levels = (data.draw(st.integers(1, most)) for most in (70, 70, 255))
        rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
        pixels = rng.integers(0, levels + 1, (height, width, 3), np.uint8)
        images.append(Image.fromarray(pixels).resize((width * data.draw(st.integers(1, 3)), height)))
    if data.draw(st.booleans()):
        images[1] = images[0]
    said = verify(*images)
    for image, polygon in zip(images, (said.polygon_a, said.polygon_b), strict=True):
        assert (polygon is None) == (said.verdict != "copy")
        if polygon is not None:
            assert np.isfinite(polygon).all()
            assert 3 <= len(polygon) <= 8
            assert (polygon >= 0).all()
            assert (polygon <= image.size).all()
            outline(image, polygon)
    assert (said.verdict == "cannot say") == bool(said.reason)


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_outline_is_seen_on_light_and_dark(level):
    image = Image.new("RGB", (300, 200), (level,) * 3)
    drawn = np.asarray(outline(image, corners(50, 40, 250, 160))).astype(int)
    changed = np.abs(drawn - level).max(2) > 60
    assert changed[37:44, 150].any()
    assert changed[100, 47:54].any()
    assert not changed[100, 150]
    assert not changed[10, 10]
    assert changed.mean() < 0.1
    whole = np.asarray(outline(image, frame(image)))
    assert (whole[0] != level).any()
    assert np.asarray(image).min() == np.asarray(image).max() == level


def test_without_opencv_the_extra_is_named():
    code = """
import sys
sys.modules["cv2"] = None
from PIL import Image
from sscd_jax.duplicates.verify import verify
try:
    verify(Image.new("RGB", (9, 9)), Image.new("RGB", (9, 9)))
except ImportError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "OpenCV is not installed: pip install 'sscd_jax[verify]'\n"
