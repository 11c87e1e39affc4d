import zlib
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sscd_jax.data.sample import photograph_paths
from sscd_jax.datasets import edits
from sscd_jax.datasets.edits import BENCHMARK_KINDS, DEMO_KINDS, KINDS, Strength, edit

SEEDS = range(8)
STRENGTHS = get_args(Strength)


@pytest.fixture(scope="module")
def china() -> Image.Image:
    return _photograph("china")


@pytest.fixture(scope="module")
def coffee() -> Image.Image:
    return _photograph("coffee")


def _photograph(name: str) -> Image.Image:
    image = Image.open(photograph_paths()[name]).convert("RGB")
    return image.resize((200, 150), Image.Resampling.LANCZOS)


def _apply(name: str, image: Image.Image, other: Image.Image, seed: int, strength: Strength) -> Image.Image:
    return KINDS[name](image, np.random.default_rng(seed), strength, [other])


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", KINDS)
def test_each_edit_is_a_pure_function_that_changes_the_image(name, strength, china, coffee):
    before = china.tobytes(), coffee.tobytes()
    for seed in SEEDS:
        edited = _apply(name, china, coffee, seed, strength)
        assert edited.mode == "RGB"
        assert edited.tobytes() == _apply(name, china, coffee, seed, strength).tobytes()
        assert edited.size != china.size or edited.tobytes() != china.tobytes()
    assert (china.tobytes(), coffee.tobytes()) == before
    # Seeds give different edits; a flip has nothing to draw.
    results = {_apply(name, china, coffee, seed, strength).tobytes() for seed in SEEDS}
    assert len(results) == 1 if name == "flip" else len(results) > 1


@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(24, 300), (17, 16), (1, 1), (3, 2), (10, 2000), (2000, 10)])
def test_each_edit_works_on_small_and_long_images(name, size, strength, china):
    for seed in SEEDS:
        # Both images are of that shape: another one is fitted to the first, upright or not.
        other = china.resize(size if seed % 2 else size[::-1])
        _assert_sound(_apply(name, china.resize(size), other, seed, strength), size)


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(list(KINDS)),
    st.sampled_from(STRENGTHS),
    st.tuples(*[st.integers(1, 90)] * 2),
    st.tuples(*[st.integers(1, 90)] * 2),
    st.integers(0, 2**32),
)
def test_each_edit_works_on_images_of_any_size(name, strength, size, other_size, seed):
    levels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    image, other = Image.fromarray(levels), Image.new("RGB", other_size, "teal")
    edited = _apply(name, image, other, seed, strength)
    _assert_sound(edited, size)
    np.testing.assert_array_equal(np.asarray(image), levels)
    assert edited.tobytes() == _apply(name, image, other, seed, strength).tobytes()


def _assert_sound(edited: Image.Image, size: tuple[int, int]) -> None:
    assert edited.mode == "RGB"
    assert min(edited.size) >= 1
    # Sides are whole numbers: a side of a few pixels may grow by two more.
    assert edited.width * edited.height <= 4 * (size[0] + 2) * (size[1] + 2)


@pytest.mark.parametrize("name", [name for name in KINDS if name != "flip"])
def test_a_stronger_edit_changes_more(name, china, coffee):
    def change(strength: Strength) -> float:
        edited = [_apply(name, china, coffee, seed, strength).resize(china.size) for seed in range(24)]
        return float(np.mean([np.abs(_pixels(e) - _pixels(china)).mean() for e in edited]))

    weak, medium, strong = (change(strength) for strength in STRENGTHS)
    assert 1 < weak < 0.95 * medium < 0.95**2 * strong


def test_crop_is_a_part_of_the_image(china):
    whole = np.asarray(china)
    for seed in SEEDS:
        part = np.asarray(edits.crop(china, np.random.default_rng(seed), "strong"))
        height, width = part.shape[:2]
        assert 0.49 < height * width / (whole.shape[0] * whole.shape[1]) < 0.86
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (height, width))
        assert (windows == part[..., 0]).all(axis=(2, 3)).any()


def test_flip_and_quarter_turns_are_numpys(china):
    whole = np.asarray(china)
    flipped = edits.flip(china, np.random.default_rng(0), "strong")
    np.testing.assert_array_equal(np.asarray(flipped), whole[:, ::-1])

    turned = [np.asarray(edits.rotate(china, np.random.default_rng(seed), "strong")) for seed in range(200)]
    quarters = [np.rot90(whole, k) for k in (1, 2, 3)]
    found = [sum(np.array_equal(t, quarter) for t in turned) for quarter in quarters]
    assert min(found) > 0
    # 50 expected of 200; four standard deviations either way.
    assert abs(sum(found) - 50) < 4 * np.sqrt(200 / 4 * 3 / 4)


def test_gray_tones_and_invert_channel(china):
    toned = _pixels(edits.gray(china, np.random.default_rng(0), "strong")).reshape(-1, 3)
    luma = _pixels(china.convert("L")).ravel()
    for channel in toned.T:  # a toning is the luma times a constant, but for rounding
        assert np.abs(channel - luma * channel.max() / luma.max()).max() < 2.5

    inverted = _pixels(edits.invert_channel(china, np.random.default_rng(0), "strong"))
    changed = [c for c in range(3) if not np.array_equal(inverted[..., c], _pixels(china)[..., c])]
    assert len(changed) == 1
    np.testing.assert_array_equal(inverted[..., changed[0]], 255 - _pixels(china)[..., changed[0]])


def test_paste_onto_shows_the_image_small_on_the_other(china):
    red, blue = Image.new("RGB", (200, 150), "red"), Image.new("RGB", (90, 90), "blue")
    for seed in SEEDS:
        result = np.asarray(edits.paste_onto(red, np.random.default_rng(seed), "strong", [blue]))
        share = (result == (255, 0, 0)).all(-1).mean()
        assert result.shape == (150, 200, 3)
        assert 0.49 < share < 0.81
        assert share + (result == (0, 0, 255)).all(-1).mean() == 1


def test_overlay_leaves_most_of_the_image_as_it_was(china, coffee):
    for seed in SEEDS:
        result = edits.overlay(china, np.random.default_rng(seed), "strong", [coffee])
        changed = (np.asarray(result) != np.asarray(china)).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.08 < box / changed.size < 0.26


@pytest.mark.parametrize(
    ("strength", "least", "most"), [("weak", 1.08, 1.18), ("medium", 1.2, 1.4), ("strong", 1.45, 1.9)]
)
def test_stretch_changes_the_aspect_ratio_and_not_the_area(strength, least, most):
    ratios = []
    for seed in range(20):
        result = edits.stretch(Image.new("RGB", (900, 600)), np.random.default_rng(seed), strength)
        assert result.width * result.height == pytest.approx(900 * 600, rel=0.003)
        ratios.append(result.width / result.height / 1.5)
    assert {ratio > 1 for ratio in ratios} == {True, False}
    factors = [max(ratio, 1 / ratio) for ratio in ratios]
    assert least - 0.01 < min(factors) < max(factors) < most + 0.01


def test_perspective_puts_the_corners_where_it_says():
    """Squares in the corners are found again where a homography, solved by its null space, takes them."""
    image = Image.new("RGB", (300, 200), "black")
    centers = np.array([[30, 30], [270, 30], [270, 170], [30, 170]])
    for color, (x, y) in zip(("red", "lime", "blue", "white"), centers.tolist(), strict=True):
        image.paste(color, (x - 8, y - 8, x + 8, y + 8))
    for seed in SEEDS:
        inset = np.random.default_rng(seed).uniform(0.04, 0.27, (4, 2)) * (300, 200)
        corners = np.array([[0, 0], [300, 0], [300, 200], [0, 200]])
        moved = corners + inset * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])
        rows = []
        for (x, y), (u, v) in zip(corners, moved, strict=True):
            rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, -u], [0, 0, 0, x, y, 1, -v * x, -v * y, -v]]
        matrix = np.linalg.svd(np.array(rows))[2][-1].reshape(3, 3)
        result = _pixels(edits.perspective(image, np.random.default_rng(seed), "strong"))
        for color, center in zip(((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)), centers, strict=True):
            x, y, n = matrix @ (*center, 1)
            np.testing.assert_allclose(result[int(y / n), int(x / n)], color, atol=8)


def test_noise_has_the_deviation_that_it_says_and_no_bias():
    gray = Image.new("RGB", (300, 200), (128, 128, 128))
    for strength, least, most in (("weak", 8, 15), ("medium", 20, 32), ("strong", 40, 60)):
        for seed in SEEDS:
            levels = _pixels(edits.noise(gray, np.random.default_rng(seed), strength)) - 128
            drawn = np.random.default_rng(seed).uniform(least, most)
            # Beyond two deviations of the strongest noise, black and white cut it.
            assert levels.std() == pytest.approx(drawn, rel=0.04)
            assert abs(levels.mean()) < 5 * drawn / np.sqrt(levels.size)
            assert abs(np.corrcoef(levels.reshape(-1, 3).T)[0, 1]) < 0.03
    # In a large image the grain is larger than a pixel, so that it is still there when reduced.
    large = edits.noise(gray.resize((1800, 1200)), np.random.default_rng(0), "weak")
    small = edits.noise(gray.resize((600, 400)), np.random.default_rng(0), "weak")
    reduced = _pixels(large.resize((600, 400), Image.Resampling.BOX))
    assert (reduced - 128).std() == pytest.approx((_pixels(small) - 128).std(), rel=0.05)


def test_pixelate_is_the_mean_of_each_block():
    levels = np.random.default_rng(0).integers(0, 256, (80, 120, 3), np.uint8)
    found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        # A side of 40 alone divides these; then blocks are 2x2.
        if rng.integers(40, 61) == 40 and rng.integers(2):
            means = levels.reshape(40, 2, 60, 2, 3).mean((1, 3), dtype=np.float64)
            result = _pixels(edits.pixelate(Image.fromarray(levels), np.random.default_rng(seed), "medium"))
            # Pillow reduces rows, then columns, and rounds after each: by a half and a half.
            np.testing.assert_allclose(result, means.repeat(2, 0).repeat(2, 1), atol=1)
            found += 1
    assert found


@pytest.mark.parametrize(
    ("name", "strength", "least", "most"),
    [
        ("pad", "weak", 0.86, 0.93),
        ("pad", "medium", 0.72, 0.84),
        ("pad", "strong", 0.52, 0.70),
        ("caption", "weak", 1 / 1.16, 1 / 1.10),
        ("caption", "medium", 1 / 1.30, 1 / 1.20),
        ("caption", "strong", 1 / 1.55, 1 / 1.35),
        ("screenshot", "weak", 0.80, 0.88),
        ("screenshot", "medium", 0.62, 0.74),
        ("screenshot", "strong", 0.46, 0.58),
    ],
)
@pytest.mark.parametrize("size", [(90, 60), (40, 120)])
def test_what_frames_the_image_leaves_it_as_it_was(name, strength, least, most, size, china, coffee):
    image = china.resize(size)
    for seed in SEEDS:
        result = np.asarray(_apply(name, image, coffee, seed, strength))
        assert least - 0.02 < size[0] * size[1] / (result.shape[0] * result.shape[1]) < most + 0.02
        windows = np.lib.stride_tricks.sliding_window_view(result, (size[1], size[0], 3))
        assert (windows == np.asarray(image)).all(axis=(3, 4, 5)).any()


@pytest.mark.parametrize(
    ("strength", "least", "most"), [("weak", 0.68, 0.78), ("medium", 0.48, 0.58), ("strong", 0.28, 0.38)]
)
def test_collage_shows_the_whole_image_beside_others(strength, least, most):
    red, others = Image.new("RGB", (200, 150), "red"), [Image.new("RGB", (90, 90), c) for c in ("blue", "lime", "cyan")]
    for seed in SEEDS:
        result = np.asarray(edits.collage(red, np.random.default_rng(seed), strength, others))
        assert result.shape[0] * result.shape[1] == pytest.approx(200 * 150, rel=0.03)
        own = (result == (255, 0, 0)).all(-1)
        assert least - 0.03 < own.mean() < most + 0.01  # less half the width of a line
        rows, columns = np.flatnonzero(own.any(1)), np.flatnonzero(own.any(0))
        assert own.sum() == len(rows) * len(columns)
        assert len(columns) / len(rows) == pytest.approx(200 / 150, rel=0.05)
        seen = {tuple(color) for color in result.reshape(-1, 3).tolist()} - {(255, 0, 0)}
        assert len(seen - {(0, 0, 0), (255, 255, 255)}) == (3 if strength == "strong" else 1)


@pytest.mark.parametrize(("strength", "least", "most"), [("weak", 1, 2), ("medium", 2, 4), ("strong", 4, 6)])
def test_stickers_cover_some_and_leave_the_rest(strength, least, most, china):
    sides = {"weak": (0.13, 0.18), "medium": (0.18, 0.25), "strong": (0.24, 0.34)}[strength]
    for seed in SEEDS:
        result = edits.stickers(china, np.random.default_rng(seed), strength)
        share = (np.asarray(result) != np.asarray(china)).any(-1).mean() * 200 / 150  # of the short side's square
        # A star covers a fifth of its square; of the strong ones, some cover one another.
        assert 0.15 * least * sides[0] ** 2 < share < most * sides[1] ** 2


def test_edit_composes_different_kinds_from_the_seed_alone(china, coffee):
    for count in (1, 2, 3):
        for seed in SEEDS:
            image, names = edit(china, np.random.default_rng(seed), [coffee], count)
            again, same = edit(china, np.random.default_rng(seed), [coffee], count)
            assert len(set(names)) == len(names) == count
            assert set(names) <= set(DEMO_KINDS)
            assert names == same
            assert image.tobytes() == again.tobytes()


def test_edit_draws_each_kind_as_often():
    tiny = Image.new("RGB", (8, 8))
    rng = np.random.default_rng(0)
    names = [name for _ in range(1100) for name in edit(tiny, rng, [tiny], 2)[1]]
    counts = np.array([names.count(name) for name in DEMO_KINDS])
    assert counts.sum() == 2200
    # 200 expected of each; six standard deviations either way.
    assert (np.abs(counts - 200) < 6 * np.sqrt(200)).all()


def test_edit_draws_from_the_kinds_and_in_the_strength_that_it_is_told(china, coffee):
    seen = set()
    for seed in range(60):
        image, names = edit(china, np.random.default_rng(seed), [coffee], 3, kinds=BENCHMARK_KINDS, strength="weak")
        seen |= set(names)
        assert len(set(names)) == 3
        rng = np.random.default_rng(seed)
        drawn = [str(name) for name in rng.choice(BENCHMARK_KINDS, 3, replace=False)]
        frames = [name for name in ("caption", "pad", "collage", "screenshot") if name in drawn]
        assert names == [name for name in drawn if name not in frames] + frames
        expected = china
        for name in names:
            expected = KINDS[name](expected, rng, "weak", [coffee])
        assert image.tobytes() == expected.tobytes()
    assert seen == set(BENCHMARK_KINDS) == {*KINDS} - {"color"}
    only = edit(china, np.random.default_rng(0), [], 1, kinds=["flip"])
    assert only[1] == ["flip"]


def test_the_demo_draws_what_it_drew_before_there_were_strengths():
    """Another draw, more or fewer, anywhere in the demo's edits changes its image set from there on.

    The values are of the code before there were strengths.
    """
    rng = np.random.default_rng(0)
    image, others = Image.new("RGB", (96, 64), (200, 90, 30)), [Image.new("RGB", (50, 70))] * 3
    drawn = [name for number in range(300) for name in edit(image, rng, others, 2 + number % 2)[1]]
    assert drawn[-3:] == ["flip", "text", "blur"]
    # Of all names: two streams that part may, by chance, meet again.
    assert zlib.crc32(" ".join(drawn).encode()) == 3_184_303_548
