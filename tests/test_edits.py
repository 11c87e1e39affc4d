import numpy as np
import pytest
from PIL import Image

from sscd_jax import edits
from sscd_jax.edits import EDITS, PASTES, edit
from sscd_jax.photographs import photograph_paths

SEEDS = range(8)


@pytest.fixture(scope="module")
def china() -> Image.Image:
    return _photograph("china")


@pytest.fixture(scope="module")
def coffee() -> Image.Image:
    return _photograph("coffee")


def _photograph(name: str) -> Image.Image:
    image = Image.open(photograph_paths()[name]).convert("RGB")
    return image.resize((200, 150), Image.Resampling.LANCZOS)


def _apply(name: str, image: Image.Image, other: Image.Image, seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return PASTES[name](image, rng, other) if name in PASTES else EDITS[name](image, rng)


def _pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(np.float64)


@pytest.mark.parametrize("name", [*EDITS, *PASTES])
def test_each_edit_is_a_pure_function_that_changes_the_picture(name, china, coffee):
    before = china.tobytes(), coffee.tobytes()
    for seed in SEEDS:
        edited = _apply(name, china, coffee, seed)
        assert edited.mode == "RGB"
        assert edited.tobytes() == _apply(name, china, coffee, seed).tobytes()
        assert edited.size != china.size or edited.tobytes() != china.tobytes()
    assert (china.tobytes(), coffee.tobytes()) == before
    # Seeds give different edits; a flip has nothing to draw.
    results = {_apply(name, china, coffee, seed).tobytes() for seed in SEEDS}
    assert len(results) == 1 if name == "flip" else len(results) > 1


@pytest.mark.parametrize("name", [*EDITS, *PASTES])
@pytest.mark.parametrize("size", [(24, 300), (17, 16)])
def test_each_edit_works_on_small_and_long_pictures(name, size, china, coffee):
    for seed in SEEDS:
        assert min(_apply(name, china.resize(size), coffee, seed).size) >= 1


def test_crop_is_a_part_of_the_picture(china):
    whole = np.asarray(china)
    for seed in SEEDS:
        part = np.asarray(edits.crop(china, np.random.default_rng(seed)))
        height, width = part.shape[:2]
        assert 0.49 < height * width / (whole.shape[0] * whole.shape[1]) < 0.86
        windows = np.lib.stride_tricks.sliding_window_view(whole[..., 0], (height, width))
        assert (windows == part[..., 0]).all(axis=(2, 3)).any()


def test_flip_and_quarter_turns_are_numpys(china):
    whole = np.asarray(china)
    flipped = edits.flip(china, np.random.default_rng(0))
    np.testing.assert_array_equal(np.asarray(flipped), whole[:, ::-1])

    turned = [np.asarray(edits.rotate(china, np.random.default_rng(seed))) for seed in range(200)]
    quarters = [np.rot90(whole, k) for k in (1, 2, 3)]
    found = [sum(np.array_equal(t, quarter) for t in turned) for quarter in quarters]
    assert min(found) > 0
    # 50 expected of 200; four standard deviations either way.
    assert abs(sum(found) - 50) < 4 * np.sqrt(200 / 4 * 3 / 4)


def test_grey_tones_and_invert_channel(china):
    toned = _pixels(edits.grey(china, np.random.default_rng(0))).reshape(-1, 3)
    luma = _pixels(china.convert("L")).ravel()
    for channel in toned.T:  # a toning is the luma times a constant, but for rounding
        assert np.abs(channel - luma * channel.max() / luma.max()).max() < 2.5

    inverted = _pixels(edits.invert_channel(china, np.random.default_rng(0)))
    changed = [c for c in range(3) if not np.array_equal(inverted[..., c], _pixels(china)[..., c])]
    assert len(changed) == 1
    np.testing.assert_array_equal(inverted[..., changed[0]], 255 - _pixels(china)[..., changed[0]])


def test_paste_onto_shows_the_picture_small_on_the_other(china):
    red, blue = Image.new("RGB", (200, 150), "red"), Image.new("RGB", (90, 90), "blue")
    for seed in SEEDS:
        result = np.asarray(edits.paste_onto(red, np.random.default_rng(seed), blue))
        share = (result == (255, 0, 0)).all(-1).mean()
        assert result.shape == (150, 200, 3)
        assert 0.49 < share < 0.81
        assert share + (result == (0, 0, 255)).all(-1).mean() == 1


def test_overlay_leaves_most_of_the_picture_as_it_was(china, coffee):
    for seed in SEEDS:
        result = edits.overlay(china, np.random.default_rng(seed), coffee)
        changed = (np.asarray(result) != np.asarray(china)).any(-1)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        box = (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
        assert 0.08 < box / changed.size < 0.26


def test_edit_composes_different_kinds_from_the_seed_alone(china, coffee):
    for count in (1, 2, 3):
        for seed in SEEDS:
            image, names = edit(china, np.random.default_rng(seed), [coffee], count)
            again, same = edit(china, np.random.default_rng(seed), [coffee], count)
            assert len(set(names)) == len(names) == count
            assert set(names) <= {*EDITS, *PASTES}
            assert names == same
            assert image.tobytes() == again.tobytes()


def test_edit_draws_each_kind_as_often():
    tiny = Image.new("RGB", (8, 8))
    rng = np.random.default_rng(0)
    names = [name for _ in range(1100) for name in edit(tiny, rng, [tiny], 2)[1]]
    counts = np.array([names.count(name) for name in (*EDITS, *PASTES)])
    assert counts.sum() == 2200
    # 200 expected of each; six standard deviations either way.
    assert (np.abs(counts - 200) < 6 * np.sqrt(200)).all()
