"""All edits: pure functions of the image and the generator, on images of any size, stronger in that order."""

import zlib
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sscd_jax.datasets.edits import BENCHMARK_KINDS, DEMO_KINDS, KINDS, Strength, edit

SEEDS = range(8)
STRENGTHS = get_args(Strength)


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


@pytest.mark.slow
@pytest.mark.parametrize("strength", STRENGTHS)
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("size", [(24, 300), (17, 16), (1, 1), (3, 2), (10, 2000), (2000, 10)])
def test_each_edit_works_on_small_and_long_images(name, size, strength, china):
    for seed in SEEDS:
        # Both images are of that shape: another one is fitted to the first, upright or not.
        other = china.resize(size if seed % 2 else size[::-1])
        _assert_sound(_apply(name, china.resize(size), other, seed, strength), size)


@settings(max_examples=300)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name != "flip"])
def test_a_stronger_edit_changes_more(name, china, coffee):
    def change(strength: Strength) -> float:
        edited = [_apply(name, china, coffee, seed, strength).resize(china.size) for seed in range(24)]
        return float(np.mean([np.abs(_pixels(e) - _pixels(china)).mean() for e in edited]))

    weak, medium, strong = (change(strength) for strength in STRENGTHS)
    assert 1 < weak < 0.95 * medium < 0.95**2 * strong


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

    The values are of the code before there were strengths, when "color" had its British spelling.
    """
    rng = np.random.default_rng(0)
    image, others = Image.new("RGB", (96, 64), (200, 90, 30)), [Image.new("RGB", (50, 70))] * 3
    drawn = [name for number in range(300) for name in edit(image, rng, others, 2 + number % 2)[1]]
    assert drawn[-3:] == ["flip", "text", "blur"]
    # Of all names: two streams that part may, by chance, meet again.
    named = " ".join(drawn).replace("color", "colour")  # codespell:ignore
    assert zlib.crc32(named.encode()) == 3_184_303_548
