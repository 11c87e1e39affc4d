"""What is drawn for a view, by its distribution over thousands of draws; the views as a whole."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from helpers.extras import needs_augly
from PIL import Image
from scipy import stats

from sscd_jax.data.augment import views as views_module
from sscd_jax.data.augment.random_draws import Uniforms
from sscd_jax.data.augment.views import RECIPES, crop_box, draw, draw_views, views
from sscd_jax.data.sample import photograph_paths

PHOTOGRAPH = Image.open(photograph_paths()["coffee"]).convert("RGB").resize((240, 160))
DRAWS = 4000
NUMBERS = 128


@functools.cache
def drawn(augmentation: str) -> dict[str, np.ndarray]:
    """What `draw` gives for so many views, stacked; nested names are joined by a dot."""
    shape = tf.constant([160, 240])

    def one(uniforms):
        return draw(Uniforms(uniforms), shape, RECIPES[augmentation], 64, 0.08)

    compiled = tf.function(one, jit_compile=True, input_signature=[tf.TensorSpec([NUMBERS])], autograph=False)
    numbers = tf.random.stateless_uniform([DRAWS, NUMBERS], [1, 2])
    dataset = tf.data.Dataset.from_tensor_slices(numbers).map(compiled, num_parallel_calls=2)
    return flat(next(dataset.batch(DRAWS).as_numpy_iterator()))


def flat(values: dict, prefix: str = "") -> dict[str, np.ndarray]:
    found = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def is_uniform(values: np.ndarray, low: float, high: float) -> bool:
    return stats.kstest(values, "uniform", (low, high - low)).pvalue > 1e-3


CHANCES = {"flip": 0.5, "jitter": 0.8, "gray": 0.2, "blur": 0.5}
ADVANCED = {
    "quarters.applied": 0.05,
    "text.applied": 0.1,
    "emoji.applied": 0.2,
    "rotation.applied": 0.05,
    "jpeg.applied": 0.2,
}


def chances(augmentation: str) -> dict[str, float]:
    return CHANCES | (ADVANCED if RECIPES[augmentation].advanced else {})


@pytest.mark.slow
@pytest.mark.parametrize("augmentation", RECIPES)
def test_what_is_applied_how_often(augmentation):
    view = drawn(augmentation)
    expected = chances(augmentation)
    for name, probability in expected.items():
        sigma = np.sqrt(probability * (1 - probability) / DRAWS)
        assert abs(view[name].mean() - probability) < 4 * sigma, name
    correlation = np.corrcoef(np.array([view[name] for name in expected]))
    assert np.abs(correlation - np.eye(len(expected))).max() < 4.5 / np.sqrt(DRAWS), "independent of one another"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("augmentation", "low", "high"), [("SIMCLR", 0.1, 2), ("STRONG_BLUR", 1, 5), ("ADVANCED", 1, 5)]
)
def test_how_much_is_applied(augmentation, low, high):
    view = drawn(augmentation)
    assert is_uniform(view["radius"], low, high)
    assert is_uniform(view["hue"], -0.2, 0.2)
    for factor in view["factors"].T:
        assert is_uniform(factor, 0.2, 1.8)
    orders, counts = np.unique(view["order"], axis=0, return_counts=True)
    assert len(orders) == 24
    assert stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.slow
def test_how_much_advanced_applies():
    view = drawn("ADVANCED")
    for name, low, high in [
        ("text.size", 0.1, 0.3),
        ("text.opacity", 0.1, 1),
        ("emoji.size", 0.1, 0.5),
        ("emoji.opacity", 0.7, 1),
        *((f"text.{name}", 0, 1) for name in ("font", "length", "fx", "fy")),
        *((f"emoji.{name}", 0, 1) for name in ("which", "fx", "fy")),
    ]:
        assert is_uniform(view[name], low, high), name
    for name, values in [
        ("quarters.count", range(1, 4)),
        ("jpeg.quality", range(101)),
        ("rotation.degrees", range(360)),
    ]:
        assert set(view[name]) <= set(values)
        counts = [np.sum(view[name] == value) for value in values]
        assert stats.chisquare(counts).pvalue > 1e-3, name
    assert set(view["text.color"].ravel()) == set(range(256))
    assert len(np.unique(view["text.seed"], axis=0)) == DRAWS


def test_crops_have_torchvisions_distribution():
    height, width = 160, 240
    top, left, h, w = drawn("SIMCLR")["box"].T
    assert (h > 0).all()
    assert (w > 0).all()
    assert (top >= 0).all()
    assert (top + h <= height).all()
    assert (left >= 0).all()
    assert (left + w <= width).all()
    rng, expected = np.random.default_rng(0), []
    while len(expected) < DRAWS:  # rejection, as in get_params
        area, aspect = height * width * rng.uniform(0.08, 1), np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3)))
        size = round(np.sqrt(area / aspect)), round(np.sqrt(area * aspect))
        if size[0] <= height and size[1] <= width:
            expected.append(size)
    expected = np.array(expected)
    assert stats.ks_2samp(h * w, expected.prod(1)).pvalue > 1e-3
    assert stats.ks_2samp(w / h, expected[:, 1] / expected[:, 0]).pvalue > 1e-3
    small = (height - h) > 20
    assert stats.kstest(top[small] / (height - h[small]), "uniform").statistic < 0.05
    assert abs(np.corrcoef(top[small] / (height - h[small]), left[small])[0, 1]) < 0.06


@pytest.mark.parametrize(("shape", "box"), [((1, 1), [0, 0, 1, 1]), ((1, 500), None), ((500, 1), None), ((2, 3), None)])
def test_any_shape_has_a_crop(shape, box):
    for seed in range(20):
        uniform = Uniforms(tf.random.stateless_uniform([NUMBERS], [seed, 0]))
        top, left, h, w = crop_box(uniform, *map(tf.constant, shape), 0.08).numpy()
        assert h >= 1
        assert w >= 1
        assert 0 <= top <= shape[0] - h
        assert 0 <= left <= shape[1] - w
        assert box in (None, [top, left, h, w])


def both(image: np.ndarray, seed: list[int], **options) -> np.ndarray:
    return views(tf.constant(image), tf.constant(seed), **({"size": 64, "augmentation": "SIMCLR"} | options))[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (5000, 1), (2, 3), (700, 600)])
@needs_augly
def test_any_shape_survives_everything_at_once(shape, monkeypatch):
    monkeypatch.setattr(Uniforms, "chance", lambda self, _: self.array(1)[0] < 2)
    views_module._draw.cache_clear()
    image = np.asarray(PHOTOGRAPH.resize(shape[::-1]))
    pixels, drawn = views(tf.constant(image), tf.constant([1, 2]), size=64, augmentation="ADVANCED")
    views_module._draw.cache_clear()
    assert pixels.shape == (2, 64, 64, 3)
    assert all(flat(view)[name] for view in drawn for name in chances("ADVANCED"))


@pytest.mark.slow
def test_same_seed_same_pixels_and_views_differ():
    image = np.asarray(PHOTOGRAPH)
    one, again, other = (both(image, seed) for seed in ([1, 2], [1, 2], [1, 3]))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one.astype(int) - other).mean() > 1
    assert np.abs(one[0].astype(int) - one[1]).mean() > 1


@pytest.mark.slow
def test_the_two_views_are_drawn_independently():
    draws = 3000
    shape = tf.zeros([160, 240, 3], tf.uint8)
    dataset = tf.data.Dataset.range(draws)
    dataset = dataset.map(lambda i: draw_views(shape, tf.stack([i, 7]), size=32, augmentation="HEAVY"))
    pairs = [flat({"first": first, "second": second}) for first, second in dataset.as_numpy_iterator()]
    names = [*chances("HEAVY"), "radius", "hue", "text.font", "text.size", "emoji.which", "emoji.fx"]
    names += [f"{name}.applied" for name in ("frame", "perspective", "swap", "drop", "pixelate", "noise", "erase")]
    for name in (*names, "noise.spread", "paste.size", "mixing.share"):
        first, second = (np.array([pair[f"{which}.{name}"] for pair in pairs], float) for which in ("first", "second"))
        assert abs(np.corrcoef(first, second)[0, 1]) < 4.5 / np.sqrt(draws), name


def test_numbers_are_used_once():
    uniform = Uniforms(tf.range(4.0) / 4)
    assert [float(uniform()), *uniform.array(2).numpy().tolist()] == [0, 0.25, 0.5]
    assert int(uniform.integer(4)) == 3
    with pytest.raises(AssertionError, match="more than the 4"):
        uniform()
