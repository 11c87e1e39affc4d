"""The network: sizes of the published ones, initial values, precision."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from helpers.networks import seeded

from sscd_jax.config import Model
from sscd_jax.models import build_model, normalize

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)


def leaves(variables) -> dict[str, jax.Array]:
    return traverse_util.flatten_dict(variables, sep="/")


# torchvision's published numbers of parameters, less its classifier of 1000 classes, plus ours of 512 dimensions.
@pytest.mark.parametrize(
    ("backbone", "torchvision", "features"),
    [("resnet18", 11_689_512, 512), ("resnet50", 25_557_032, 2048), ("resnext101_32x8d", 88_791_336, 2048)],
)
def test_number_of_parameters(backbone, torchvision, features):
    model = build_model(backbone)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))["params"]
    ours = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert ours == torchvision - 1001 * 1000 + 1000 * (1001 - features - 1) + (features + 1) * 512


@pytest.mark.slow
def test_initial_values():
    variables = jax.jit(build_model("resnet18", 16).init)(jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    params = leaves(variables["params"])
    for name, value in params.items():
        if name.endswith("bn2/scale"):
            assert (value == 0).all(), f"{name}: the last of a residual branch"
        elif name.endswith("scale"):
            assert (value == 1).all(), name
        elif name.endswith("bias"):
            assert (value == 0).all(), name
    kernel = params["backbone/layer4_0/conv2/kernel"]  # 3 x 3, 512 channels out
    assert float(kernel.std()) == pytest.approx(np.sqrt(2 / (9 * 512)), rel=0.01)
    assert abs(float(kernel.mean())) < 1e-4


@pytest.mark.slow
def test_half_precision_gives_float32_descriptors_near_the_others():
    model = build_model("resnet18", 16, width=8)
    variables = jax.jit(model.init)(jax.random.key(0), normalize(IMAGES))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    in_half = build_model(**dataclasses.asdict(Model(backbone="resnet18", dims=16, width=8, dtype="bfloat16")))
    half, full = (jax.jit(one.apply)(variables, normalize(IMAGES)) for one in (in_half, model))
    assert half.dtype == full.dtype == jnp.float32
    np.testing.assert_allclose(jnp.linalg.norm(half, axis=1), 1, rtol=1e-5)
    assert float((half * full).sum(1).min()) > 0.999
    assert (half != full).any()


def test_normalize():
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    np.testing.assert_allclose(normalize(IMAGES), (IMAGES / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(normalize(IMAGES.astype(np.float32) / 255), normalize(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
def test_images_that_were_not_normalized_are_refused(dtype):
    model = build_model("resnet18", 16, width=8)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    with pytest.raises(TypeError, match=rf"takes normalized images, .* these are {dtype}: pass sscd_jax\.models\.norm"):
        jax.eval_shape(model.apply, variables, IMAGES.astype(dtype))
    with pytest.raises(TypeError, match="normalized images"):
        model.apply(variables, IMAGES.astype(dtype))
    if dtype != "uint8":
        with pytest.raises(TypeError, match=f"images are {dtype}: they must be uint8, from 0 to 255, or float"):
            normalize(IMAGES.astype(dtype))
    for floating in ("float32", "bfloat16"):
        assert jax.eval_shape(model.apply, variables, jnp.asarray(IMAGES, floating)).shape == (2, 16)


def test_an_unknown_backbone_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"resnet19.*resnet18, resnet50"):
        build_model("resnet19")


@pytest.mark.slow
def test_remat_changes_neither_gradient_nor_names_nor_statistics():
    images = np.random.default_rng(0).normal(size=(4, 32, 32, 3)).astype(np.float32)
    results, names = [], []
    _, variables = seeded("resnet18", 8)
    for remat in (False, True):
        model = build_model("resnet18", 8, width=8, remat=remat)
        names.append(jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0), images)))

        def loss(params, model=model, variables=variables):
            given = variables | {"params": params}
            embeddings, updates = model.apply(given, images, train=True, mutable=["batch_stats"])
            return jnp.square(embeddings - jnp.roll(embeddings, 1, 0))[:, 0].sum(), updates

        compiled = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"]).compile()
        results.append(
            (*compiled(variables["params"]), jax.make_jaxpr(jax.grad(loss, has_aux=True))(variables["params"]))
        )
    assert names[0] == names[1] == jax.tree.structure(variables)
    (plain, stats, _), (again, same, jaxpr) = results
    assert jax.tree.structure(plain) == jax.tree.structure(again)
    for a, b in zip(jax.tree.leaves((plain, stats)), jax.tree.leaves((again, same)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert str(jaxpr).count("remat") >= 8, "the blocks"
