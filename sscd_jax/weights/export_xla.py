"""The network as a compiled program of XLA: StableHLO for JAX, a SavedModel for TensorFlow Serving.

Both leave batch, height and width open, run on CPUs, CUDA GPUs and TPUs, and have batch normalization folded.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from flax import traverse_util
from jax import Array, export

from sscd_jax.models import SSCD, normalize
from sscd_jax.models.folding import fold
from sscd_jax.presets import Preset

PLATFORMS = ("cpu", "cuda", "tpu")
SHAPE = "batch, height, width, 3"


def _program(model: SSCD, *, uint8: bool, preset: Preset) -> Callable[[Any, Array], Array]:
    """(variables, images [batch, height, width, 3]) -> descriptors; uint8 images are normalized in the program."""

    def descriptors(variables: Any, images: Array) -> Array:
        if uint8:
            images = normalize(images, preset.mean, preset.std)
        out = model.apply(variables, images)
        assert isinstance(out, Array)
        return out

    return descriptors


def write_stablehlo(path: Path, model: SSCD, variables: Any, *, uint8: bool, preset: Preset) -> None:
    """Writes (weights, images) -> descriptors as `jax.export.deserialize` reads it; the weights go beside it.

    `weights` are the folded variables by name, as safetensors.numpy.load_file gives those of `files.write_safetensors`.
    `images`: uint8, or float32 and normalized already, [batch, height, width, 3].
    """
    model, variables = fold(model, variables)
    program = _program(model, uint8=uint8, preset=preset)

    def by_name(weights: dict[str, Array], images: Array) -> Array:
        return program(traverse_util.unflatten_dict(weights, sep="/"), images)

    weights = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()
    }
    images = jax.ShapeDtypeStruct(export.symbolic_shape(SHAPE), jnp.uint8 if uint8 else jnp.float32)
    exported = export.export(jax.jit(by_name), platforms=PLATFORMS)(weights, images)
    path.write_bytes(exported.serialize())


def run_stablehlo(path: Path, weights: Path, images: np.ndarray) -> np.ndarray:
    """The descriptors of a program of `write_stablehlo`, on this process's devices."""
    program = export.deserialize(bytearray(path.read_bytes()))
    return np.asarray(jax.jit(program.call)(safetensors.numpy.load_file(weights), images))


def write_saved_model(path: Path, model: SSCD, variables: Any, *, uint8: bool, preset: Preset) -> None:
    """Writes a SavedModel whose signature serving_default maps `images` to `descriptors`.

    `images`: uint8, or float32 and normalized already, [batch, height, width, 3]. The weights are the SavedModel's
    variables. Needs no JAX to serve.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    model, variables = fold(model, variables)
    module = tf.Module()
    module.weights = jax.tree.map(lambda leaf: tf.Variable(np.asarray(leaf), trainable=False), variables)
    call = jax2tf.convert(
        _program(model, uint8=uint8, preset=preset),
        polymorphic_shapes=[None, f"({SHAPE})"],
        native_serialization_platforms=PLATFORMS,
        with_gradient=False,
    )
    images = tf.TensorSpec([None, None, None, 3], tf.uint8 if uint8 else tf.float32, name="images")
    module.call = tf.function(
        lambda images: {"descriptors": call(module.weights, images)}, input_signature=[images], autograph=False
    )
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.call})


def run_saved_model(path: Path, images: np.ndarray) -> np.ndarray:
    """The descriptors of a SavedModel by its signature serving_default."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.signatures["serving_default"](images=tf.constant(images))["descriptors"].numpy()
