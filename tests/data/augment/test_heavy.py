"""HEAVY: each operation against Pillow, numpy or tf-image, and what is drawn."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers.extras import needs_augly
from PIL import Image
from scipy import stats

from sscd_jax.data.augment import heavy
from sscd_jax.data.augment.random_draws import Uniforms
from sscd_jax.data.augment.views import views
from sscd_jax.data.decode_tf import decode
from sscd_jax.data.sample import photograph_paths
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches

PHOTOGRAPH = Image.open(photograph_paths()["chelsea"]).convert("RGB").resize((160, 120))
OTHER = Image.open(photograph_paths()["coffee"]).convert("RGB").resize((90, 200))
PIXELS, SQUARE = np.asarray(PHOTOGRAPH), np.asarray(PHOTOGRAPH.resize((96, 96)))
DRAWS = 4000


def constants(values: dict) -> dict:
    return {name: constants(v) if isinstance(v, dict) else tf.constant(v) for name, v in values.items()}


def run(operation, image: np.ndarray, *others: np.ndarray, **drawn) -> np.ndarray:
    return operation(tf.constant(image), constants(drawn), *map(tf.constant, others)).numpy()


@functools.cache
def drawn() -> dict:
    numbers = tf.random.stateless_uniform([DRAWS, 64], [5, 2])

    def one(row):
        uniform = Uniforms(row)
        return heavy.draw_before(uniform) | heavy.draw_after(uniform)

    compiled = tf.function(one, jit_compile=True, autograph=False)
    return next(tf.data.Dataset.from_tensor_slices(numbers).map(compiled).batch(DRAWS).as_numpy_iterator())


CHANCES = {"frame": 0.1, "perspective": 0.1, "swap": 0.1, "drop": 0.05, "pixelate": 0.1, "noise": 0.1, "erase": 0.15}


@pytest.mark.parametrize(("name", "probability"), CHANCES.items())
def test_what_is_applied_how_often(name, probability):
    sigma = np.sqrt(probability * (1 - probability) / DRAWS)
    assert abs(drawn()[name]["applied"].mean() - probability) < 4 * sigma


@pytest.mark.parametrize(
    ("group", "name", "low", "high"),
    [("paste", "size", 0.2, 0.7), ("paste", "opacity", 0.4, 1), ("noise", "spread", 2, 30), ("paste", "fx", 0, 1)],
)
def test_how_much_is_applied(group, name, low, high):
    assert stats.kstest(drawn()[group][name], "uniform", (low, high - low)).pvalue > 1e-3


def test_integers_are_drawn_evenly():
    for values, count in [(drawn()["drop"]["channel"], 3), (drawn()["pixelate"]["cells"] - 12, 53)]:
        assert stats.chisquare(np.bincount(values, minlength=count)).pvalue > 1e-3
    orders, counts = np.unique(drawn()["swap"]["order"], axis=0, return_counts=True)
    assert len(orders) == 5
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_which_image_is_pasted_is_drawn_for_each_view():
    found = np.array([heavy.draw_other(tf.constant([seed, 3]), 1000).numpy() for seed in range(1500)])
    pasted = found >= 0
    assert abs(pasted.mean() - heavy.PASTE) < 4 * np.sqrt(heavy.PASTE * (1 - heavy.PASTE) / found.size)
    assert found.max() < 1000
    assert stats.kstest(found[pasted] / 1000, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(pasted.T)[0, 1]) < 4 / np.sqrt(1500)


@pytest.mark.parametrize("under", [False, True])
def test_paste_equals_pillow(under):
    options = {"under": under, "size": 0.401, "opacity": 0.8, "fx": 0.301, "fy": 0.601}
    ours = run(lambda i, d, o: heavy.paste(i, d, o), PIXELS, np.asarray(OTHER), **options)
    base = OTHER.resize((160, 120), Image.Resampling.BILINEAR) if under else PHOTOGRAPH.copy()
    share = 0.701 if under else 0.401
    size = int(160 * share), int(120 * share)
    layer = (PHOTOGRAPH if under else OTHER).resize(size, Image.Resampling.BILINEAR)
    place = int(0.301 * (160 - size[0])), int(0.601 * (120 - size[1]))
    base.paste(layer, place, Image.new("L", size, round(0.8 * 255)))
    assert np.abs(ours.astype(int) - np.asarray(base)).mean() < 0.5


@needs_augly
def test_a_frame_shows_the_image_and_a_page_with_text():
    text = {"font": 0.3, "length": 0.9, "seed": [1, 2], "size": 0.5, "opacity": 1.0, "color": [40.0] * 3}
    text |= {"fx": 0.1, "fy": 0.5}
    ours = run(heavy.frame, PIXELS, paper=250.0, margins=[0.25, 0.25, 0.0], text=text)
    assert ours.shape == PIXELS.shape
    middle = np.asarray(PHOTOGRAPH.resize((160, 80), Image.Resampling.BILINEAR)).astype(int)
    assert np.abs(ours[22:98] - middle[2:78]).mean() < 3
    for band in (ours[:18], ours[-18:]):
        assert (band == 250).mean() > 0.3, "page"
        assert (band < 100).mean() > 0.001, "letters"
    wide = run(heavy.frame, PIXELS, paper=5.0, margins=[0.05, 0.05, 0.15], text=text)
    assert (wide[60, :10] == 5).all()


def test_perspective_equals_pillow():
    corners = np.array([0.1, 0.05, -0.1, 0.1, 0.05, -0.1, 0.02, 0.08], np.float32)
    ours = run(heavy.perspective, PIXELS, corners=corners)
    side = np.array([159.0, 119.0])
    here = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * side
    there = (np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) + corners.reshape(4, 2)) * side
    rows, right = [], []
    for (x, y), (u, v) in zip(here + 0.5, there + 0.5, strict=True):  # Pillow counts from the pixels' corners
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        right += [u, v]
    matrix = np.linalg.solve(rows, right)
    pillow = PHOTOGRAPH.transform((160, 120), Image.Transform.PERSPECTIVE, matrix, Image.Resampling.BILINEAR)
    difference = np.abs(ours.astype(int) - np.asarray(pillow))
    assert difference.mean() < 0.6, "but for the image's edge"
    assert np.abs(ours.astype(int) - PIXELS).mean() > 10


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
@needs_augly
def test_any_shape_survives(shape):
    image = np.asarray(PHOTOGRAPH.resize(shape[::-1]))
    text = {"font": 0.3, "length": 0.9, "seed": [1, 2], "size": 0.5, "opacity": 1.0, "color": [40.0] * 3}
    text |= {"fx": 0.1, "fy": 0.5}
    assert run(heavy.frame, image, paper=250.0, margins=[0.25, 0.25, 0.1], text=text).shape == image.shape
    assert run(heavy.perspective, image, corners=[0.1] * 8).shape == image.shape
    for under in (False, True):
        options = {"under": under, "size": 0.2, "opacity": 0.8, "fx": 0.3, "fy": 0.6}
        pasted = run(lambda i, d, o: heavy.paste(i, d, o), image, np.asarray(OTHER), **options)
        assert pasted.shape == image.shape


def test_channels_equal_tf_image():
    """tf-image draws by itself: all that it makes in many tries is all that we make."""
    colors = pytest.importorskip("tf_image.core.colors")
    image = tf.constant(SQUARE[:8, :8])
    theirs = {colors.channel_swap(image).numpy().tobytes() for _ in range(100)} - {SQUARE[:8, :8].tobytes()}
    ours = {run(heavy.swap, SQUARE[:8, :8], order=order).tobytes() for order in heavy._SWAPS}
    assert ours == theirs
    theirs = {colors.channel_drop(image).numpy().tobytes() for _ in range(60)}
    assert {run(heavy.drop, SQUARE[:8, :8], channel=channel).tobytes() for channel in range(3)} == theirs


def test_pixelation_equals_pillow():
    pillow = PHOTOGRAPH.resize((96, 96)).resize((16, 16), Image.Resampling.BILINEAR)
    pillow = np.asarray(pillow.resize((96, 96), Image.Resampling.NEAREST)).astype(int)
    assert np.abs(run(heavy.pixelate, SQUARE, cells=16) - pillow).max() <= 1


def test_noise_has_its_spread_and_its_seed():
    gray = np.full([96, 96, 3], 128, np.uint8)
    one, again, other = (run(heavy.noise, gray, spread=10.0, seed=seed) for seed in ([1, 2], [1, 2], [1, 3]))
    assert one.std() == pytest.approx(10, rel=0.03)
    assert one.mean() == pytest.approx(128, abs=0.3)
    np.testing.assert_array_equal(one, again)
    assert (one != other).mean() > 0.9


def test_erasing_covers_a_rectangle():
    ours = run(heavy.erase, SQUARE, sides=[0.25, 0.5], at=[0.5, 0.2], color=[9.0, 200.0, 3.0])
    changed = (ours != SQUARE).any(2)
    expected = np.zeros([96, 96], bool)
    expected[36:60, 10:58] = True
    np.testing.assert_array_equal(ours[expected], [[9, 200, 3]] * expected.sum())
    assert not changed[~expected].any()
    assert drawn()["erase"]["sides"].max() <= 1


def heavy_batches(source, **options):
    settings = {"batch_size": 16, "image_size": 32, "augmentation": "HEAVY", "seed": 3} | options
    return list(train_batches(source, **settings).take(3).as_numpy_iterator())


@pytest.mark.slow
@needs_augly
def test_heavy_views_do_not_depend_on_hosts_threads_or_start(images):
    source = open_source(str(images))
    whole = heavy_batches(source, workers=2)
    parts = [heavy_batches(source, host_index=host, host_count=2, workers=1) for host in range(2)]
    for step, one in enumerate(whole):
        for view in range(2):
            halves = [part[step]["images"][view * 8 : view * 8 + 8] for part in parts]
            np.testing.assert_array_equal(np.concatenate(halves), one["images"][view * 16 : view * 16 + 16])
    np.testing.assert_array_equal(heavy_batches(source, start_step=1)[0]["images"], whole[1]["images"])


@pytest.mark.slow
@needs_augly
def test_a_broken_image_is_not_pasted_and_does_no_harm(images, tmp_path):
    for number, path in enumerate(sorted(images.iterdir())[:16]):
        (tmp_path / path.name).write_bytes(b"text" if number % 2 else path.read_bytes())
    source = open_source(str(tmp_path))
    nothing, pasted = tf.zeros([0, 0, 3], tf.uint8), 0
    for step, batch in enumerate(heavy_batches(source, batch_size=8)):
        assert set(batch["used"] % 2) == {0}
        number = 3 + step // 2 * 2**32
        for row, (requested, used) in enumerate(zip(batch["requested"], batch["used"], strict=True)):
            chosen = heavy.draw_other(tf.constant([number, -1 - requested]), len(source)).numpy()
            if not (chosen >= 0).any():
                continue
            pasted += 1
            others = [decode(source.read(tf.constant(i))) if i >= 0 and i % 2 == 0 else nothing for i in chosen]
            image, key = decode(source.read(tf.constant(used))), tf.constant([number, requested])
            expected, _ = views(image, key, size=32, augmentation="HEAVY", others=others)
            np.testing.assert_array_equal(batch["images"][[row, row + 8]], expected)
    assert pasted > 3
