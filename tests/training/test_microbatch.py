"""The gradient in pieces is that of the complete batch."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import networks
from PIL import Image

from sscd_jax.config import Loss
from sscd_jax.data.sample import photograph_paths
from sscd_jax.losses import joined, part_of, sscd_loss
from sscd_jax.models import build_model, normalize
from sscd_jax.optimizer import lars
from sscd_jax.sharding import create_mesh, replicated, to_devices
from sscd_jax.training import state as train_state
from sscd_jax.training.microbatch import gradients_in_pieces
from sscd_jax.training.train import train_step

MODEL = build_model("resnet18", 16, width=8)
VIEWS = 48
PHOTOGRAPH = np.asarray(Image.open(photograph_paths()["chelsea"]).convert("RGB"))
CORNERS = np.random.default_rng(0).integers(0, 260, (VIEWS, 2))
IMAGES = np.stack([PHOTOGRAPH[y : y + 32, x : x + 32] for y, x in CORNERS])
IDS = np.concatenate([np.arange(VIEWS // 2)] * 2).astype(np.int32)


def variables():
    """With the statistics of these images, and branches that do something."""
    _, seeded = networks.seeded("resnet18", 16, width=8)
    stats = seeded["batch_stats"]
    for _ in range(30):
        given = {"params": seeded["params"], "batch_stats": stats}
        stats = updated_statistics(given, normalize(IMAGES))
    return {"params": seeded["params"], "batch_stats": stats}


@jax.jit
def updated_statistics(given, images):
    return MODEL.apply(given, images, train=True, mutable=["batch_stats"])[1]["batch_stats"]


def test_parts_are_of_each_device():
    x = np.arange(24).reshape(12, 2)
    parts = [np.asarray(part_of(jnp.asarray(x), i, 3, devices=2)) for i in range(3)]
    np.testing.assert_array_equal(parts[1], x[[2, 3, 8, 9]])
    np.testing.assert_array_equal(joined(jnp.stack(parts), devices=2), x)


def test_of_a_linear_network_it_is_that_of_the_complete_batch():
    rng = np.random.default_rng(0)
    params, views = (rng.normal(size=shape).astype(np.float32) for shape in ((4, 3), (12, 4)))

    def embed(params, views):
        return views @ params, {"count": jnp.float32(len(views))}

    def loss(embeddings):
        similarity = embeddings @ embeddings.T
        return jnp.square(similarity).sum(), {"largest": similarity.max()}

    (value, metrics), expected = jax.value_and_grad(lambda p: loss(embed(p, views)[0]), has_aux=True)(params)
    found = gradients_in_pieces(embed, loss, jnp.asarray(params), jnp.asarray(views), pieces=3)
    assert found[0] == pytest.approx(float(value), rel=1e-5)
    assert found[1]["largest"] == pytest.approx(float(metrics["largest"]), rel=1e-5)
    assert found[2]["count"] == 4
    np.testing.assert_allclose(found[3], expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("pieces", [2, 6])
def test_with_batch_normalisation_frozen_the_gradient_is_that_of_the_whole(pieces, devices):
    given = variables()

    def embed(params, views):
        stats = {"seen": views.astype(jnp.float32).mean()}
        return MODEL.apply(given | {"params": params}, normalize(views)), stats

    def loss_of(embeddings, blocks=1):
        return sscd_loss(embeddings, IDS, temperature=0.1, entropy_weight=5.0, blocks=blocks, devices=devices)

    def whole(params):
        return loss_of(embed(params, IMAGES)[0])

    (value, metrics), expected = jax.jit(jax.value_and_grad(whole, has_aux=True))(given["params"])
    in_pieces = jax.jit(
        lambda params, views: gradients_in_pieces(
            embed, partial(loss_of, blocks=pieces), params, views, pieces=pieces, devices=devices
        )
    )
    views = to_devices({"images": IMAGES}, create_mesh(jax.devices()[:devices]))["images"]
    value_, metrics_, stats, gradient = in_pieces(given["params"], views)
    assert value_ == pytest.approx(float(value), rel=1e-5)
    for name, one in metrics.items():
        assert metrics_[name] == pytest.approx(float(one), rel=1e-5), name
    assert stats["seen"] == pytest.approx(IMAGES.mean(), rel=1e-5)
    norm = np.sqrt(sum(np.square(one).sum() for one in jax.tree.leaves(expected)))
    difference = np.sqrt(
        sum(np.square(a - b).sum() for a, b in zip(*map(jax.tree.leaves, (gradient, expected)), strict=True))
    )
    assert norm > 0.1
    assert difference <= 1e-5 * norm


@pytest.mark.slow
def test_a_step_in_pieces_of_one_kind_is_a_step_of_the_whole():
    """Where all pieces hold the same images, even the statistics are those of the whole."""
    images, ids = np.concatenate([IMAGES[:8]] * 3), np.arange(24, dtype=np.int32) % 8
    mesh = create_mesh(jax.devices()[:1])
    state = train_state.create(MODEL, lars(0.1), 0, replicated(mesh))
    step = partial(train_step, model=MODEL, optimizer=lars(0.1), loss=Loss(entropy_weight=0.0))
    batch = to_devices({"images": images, "instance_ids": ids}, mesh)
    one, one_metrics = jax.jit(step)(state, **batch)
    other, other_metrics = jax.jit(partial(step, pieces=3))(state, **batch)
    assert other_metrics["loss"] == pytest.approx(float(one_metrics["loss"]), rel=1e-4)
    assert other.step == 1
    for a, b in zip(*(jax.tree.leaves(s.params) for s in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)
    for a, b in zip(*(jax.tree.leaves(s.batch_stats) for s in (one, other)), strict=True):
        np.testing.assert_allclose(a, b, rtol=0.02, atol=1e-4)  # the unbiased variance counts fewer
    assert any(
        np.abs(a - b).max() > 1e-3
        for a, b in zip(*(jax.tree.leaves(s.batch_stats) for s in (state, other)), strict=True)
    )


@pytest.mark.slow
def test_nothing_is_sent_to_make_a_piece():
    """On several devices the views of a piece are those that each device has."""
    mesh = create_mesh(jax.devices()[:4])
    state = train_state.create(MODEL, lars(0.1), 0, replicated(mesh))
    step = partial(train_step, model=MODEL, optimizer=lars(0.1), loss=Loss(), pieces=3, devices=4)
    batch = to_devices({"images": IMAGES, "instance_ids": IDS}, mesh)
    text = jax.jit(step, out_shardings=replicated(mesh)).lower(state, **batch).compile().as_text()
    moved = [line for line in text.splitlines() if "u8[" in line and any(f" {op}" in line for op in COLLECTIVES)]
    assert not moved


COLLECTIVES = ("all-gather(", "all-to-all(", "collective-permute(", "all-reduce(")
