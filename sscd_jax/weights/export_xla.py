"""Exports the network as a program for XLA: StableHLO for JAX, a SavedModel for TensorFlow Serving.

Both take any batch size, height and width, run on CPUs, CUDA GPUs and TPUs, and have batch normalization folded into
the convolutions.
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
from jax.extend import mlir
from jaxlib.mlir import ir
from jaxlib.mlir.dialects import stablehlo

from sscd_jax.models import SSCD, normalize
from sscd_jax.models.folding import fold
from sscd_jax.presets import Preset

PLATFORMS = ("cpu", "cuda", "tpu")
SHAPE = "batch, height, width, 3"
STABLEHLO = "1.8.0"  # version of the programs in SavedModels; TensorFlow 2.21 reads up to 1.13


def _program(model: SSCD, *, uint8: bool, preset: Preset) -> Callable[[Any, Array], Array]:
    """Returns the function (variables, images) -> descriptors; if `uint8`, it normalizes the images first."""

    def descriptors(variables: Any, images: Array) -> Array:
        if uint8:
            images = normalize(images, preset.mean, preset.std)
        out = model.apply(variables, images)
        assert isinstance(out, Array)
        return out

    return descriptors


def write_stablehlo(path: Path, model: SSCD, variables: Any, *, uint8: bool, preset: Preset) -> None:
    """Writes the function (weights, images) -> descriptors, to be read by `jax.export.deserialize`.

    Its argument `weights` is a dict of the folded variables by name, as safetensors.numpy.load_file reads it; they are
    not in the program. `images` are [batch, height, width, 3], uint8, or float32 and normalized already.
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
    """Computes descriptors by a program of `write_stablehlo`, on this process's devices."""
    program = export.deserialize(bytearray(path.read_bytes()))
    return np.asarray(jax.jit(program.call)(safetensors.numpy.load_file(weights), images))


def write_saved_model(path: Path, model: SSCD, variables: Any, *, uint8: bool, preset: Preset) -> None:
    """Writes a SavedModel whose signature serving_default maps `images` to `descriptors`.

    `images` are [batch, height, width, 3], uint8, or float32 and normalized already. The weights are variables of the
    SavedModel. Serving it does not need JAX.
    """
    import tensorflow as tf
    from tensorflow.compiler.tf2xla.python.xla import call_module  # jax2tf also uses it to put a program into a graph

    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    model, variables = fold(model, variables)
    abstract = jax.ShapeDtypeStruct(export.symbolic_shape(SHAPE), jnp.uint8 if uint8 else jnp.float32)
    program = jax.jit(_program(model, uint8=uint8, preset=preset))
    exported = export.export(program, platforms=PLATFORMS)(variables, abstract)
    (output,) = exported.out_avals
    dims = output.shape[1]
    program_bytes = _for_older_readers(exported.mlir_module_serialized)

    module = tf.Module()
    module.weights = jax.tree.map(lambda leaf: tf.Variable(np.asarray(leaf), trainable=False), variables)
    weights = tf.nest.flatten(module.weights)  # sorted by name, as in JAX

    def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
        arguments = [*weights, images]
        (descriptors,) = call_module(
            [arguments[i] for i in exported.module_kept_var_idx],
            version=exported.calling_convention_version,
            module=program_bytes,
            Tout=[tf.float32],
            Sout=[(None, dims)],
            platforms=[name.upper() for name in PLATFORMS],
            use_shardy_partitioner=False,
        )
        return {"descriptors": descriptors}

    images = tf.TensorSpec([None, None, None, 3], abstract.dtype, name="images")
    module.call = tf.function(serve, input_signature=[images], autograph=False)
    tf.saved_model.save(module, str(path), signatures={"serving_default": module.call})


def _for_older_readers(program: bytes) -> bytes:
    """Writes a serialized program in the form of an older StableHLO.

    By default, JAX writes StableHLO that is a few weeks old, and a release of TensorFlow reads only what was current
    months ago: TensorFlow 2.21 cannot read programs of JAX 0.12 ("failed to deserialize portable artifact").
    """
    with ir.Context() as context:
        stablehlo.register_dialect(context)
        return mlir.serialize_portable_artifact(mlir.deserialize_portable_artifact(program), STABLEHLO, False)


def run_saved_model(path: Path, images: np.ndarray) -> np.ndarray:
    """Computes descriptors by the signature serving_default of a SavedModel."""
    import tensorflow as tf

    loaded = tf.saved_model.load(str(path))
    return loaded.signatures["serving_default"](images=tf.constant(images))["descriptors"].numpy()
