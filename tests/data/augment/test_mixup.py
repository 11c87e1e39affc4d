"""Mixup and cutmix: what is drawn, who is mixed with whom, and the pixels."""

import functools

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from sscd_jax.data.augment.mixup import draw_mixing, mix, mixed_ids, partners
from sscd_jax.data.augment.random_draws import Uniforms
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import train_batches

DRAWS, SIZE = 40000, 64


@functools.cache
def drawn() -> dict[str, np.ndarray]:
    numbers = tf.random.stateless_uniform([DRAWS, 8], [1, 2])
    draw = tf.function(lambda row: draw_mixing(Uniforms(row), SIZE), jit_compile=True, autograph=False)
    dataset = tf.data.Dataset.from_tensor_slices(numbers).map(draw, num_parallel_calls=2).batch(DRAWS)
    return next(dataset.as_numpy_iterator())


def test_one_view_in_twenty_is_mixed_and_half_of_these_cut():
    share, box = drawn()["share"], drawn()["box"]
    mixed, cut = share < 1, (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])
    assert not (mixed & cut).any()
    for found in (mixed, cut):
        assert abs(found.mean() - 0.025) < 4 * np.sqrt(0.025 * 0.975 / DRAWS)


def test_shares_are_distributed_as_beta_2_2():
    share = drawn()["share"]
    assert stats.kstest(share[share < 1], stats.beta(2, 2).cdf).pvalue > 1e-3


def test_cut_boxes_are_those_of_cutmix():
    """Area 1 - lambda, a uniform center, clipped at the border, lambda corrected to the true area."""
    top, left, bottom, right = drawn()["box"].T
    cut = (bottom > top) & (right > left)
    area = ((bottom - top) * (right - left))[cut]
    np.testing.assert_allclose(drawn()["kept"][cut], 1 - area / SIZE**2, rtol=1e-6)
    rng = np.random.default_rng(0)
    half = (SIZE * np.sqrt(1 - rng.beta(2, 2, 200000))).astype(int) // 2
    centers = rng.integers(0, SIZE, (2, half.size))
    low, high = np.clip(centers - half, 0, SIZE), np.clip(centers + half, 0, SIZE)
    expected = np.prod(high - low, axis=0)
    assert stats.ks_2samp(area, expected[expected > 0]).pvalue > 1e-3
    assert (top >= 0).all()
    assert (bottom <= SIZE).all()
    assert stats.ks_2samp(top[cut], low[0][expected > 0]).pvalue > 1e-3
    assert stats.ks_2samp(left[cut], low[1][expected > 0]).pvalue > 1e-3


def test_partners_are_those_of_the_official_code():
    """View i of a group of G with view G - 1 - i of the group's [first views; second views]."""
    group, images = 4, 12
    found = partners(tf.range(2 * images), group).numpy()
    for start in range(0, images, group):
        rows = np.concatenate([np.arange(start, start + group), images + np.arange(start, start + group)])
        np.testing.assert_array_equal(found[rows], rows[::-1])


def test_mixed_views_have_two_contents():
    ids = tf.constant([10, 11, 12, 13] * 2)
    kept = tf.constant([1.0, 0.4, 1.0, 0.0, 1.0, 1.0, 0.9, 1.0])
    expected = [[10, 10], [11, 12], [12, 12], [13, 10], [10, 10], [11, 11], [12, 11], [13, 13]]
    np.testing.assert_array_equal(mixed_ids(ids, kept, 4), expected)


def test_pixels_are_mixed_and_cut():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, [8, 6, 6, 3], dtype=np.uint8)
    share, box = np.ones(8, np.float32), np.zeros([8, 4], np.int32)
    share[1], box[6] = 0.3, [1, 2, 4, 6]
    expected = images.astype(float)
    expected[1] = 0.3 * images[1] + 0.7 * images[6]
    expected[6, 1:4, 2:6] = images[1, 1:4, 2:6]
    found = mix(*map(tf.constant, (images, share, box)), group=4).numpy()
    np.testing.assert_allclose(found, expected, atol=0.5 + 1e-4)
    unmixed = mix(tf.constant(images), tf.ones([8]), tf.zeros([8, 4], tf.int32), 4)
    np.testing.assert_array_equal(unmixed, images)


def batches(images, **options):
    settings = {"batch_size": 16, "image_size": 32, "augmentation": "SIMCLR", "seed": 3, "mixup_group": 4} | options
    return list(train_batches(open_source(str(images)), **settings).take(8).as_numpy_iterator())


@pytest.mark.slow
def test_a_batch_is_mixed_whatever_the_hosts(images):
    whole, plain = batches(images), batches(images, mixup_group=None)
    parts = [batches(images, host_index=host, host_count=2) for host in range(2)]
    mixed = 0
    for step, (one, unmixed) in enumerate(zip(whole, plain, strict=True)):
        assert one["instance_ids"].shape == (32, 2)
        np.testing.assert_array_equal(one["instance_ids"][:, 0], unmixed["instance_ids"])
        changed = (one["images"] != unmixed["images"]).any((1, 2, 3))
        two = one["instance_ids"][:, 0] != one["instance_ids"][:, 1]
        assert not (two & ~changed).any(), "a view with two contents shows both"
        mixed += two.sum()
        for view in range(2):
            halves = [part[step]["images"][view * 8 : view * 8 + 8] for part in parts]
            np.testing.assert_array_equal(np.concatenate(halves), one["images"][view * 16 : view * 16 + 16])
    assert mixed > 3


def test_a_group_that_does_not_fit_is_refused(images):
    with pytest.raises(ValueError, match="divides 16"):
        batches(images, mixup_group=12)
