"""Pictures to descriptors."""

import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tensorflow as tf
from jax import Array
from jax.sharding import Mesh
from tqdm import tqdm

from sscd_jax.data.decode import Preset
from sscd_jax.data.pipeline import inference_batches, numpy_batches, why_unreadable
from sscd_jax.data.sources import Source, check_unique_ids
from sscd_jax.descriptors import Provenance, write_shards
from sscd_jax.mesh import check_divisible, create_mesh, replicated, to_devices
from sscd_jax.models import SSCD, normalize
from sscd_jax.models.folding import fold
from sscd_jax.weights import hash_variables


@partial(jax.jit, static_argnames=("model", "mean", "std"))
def _descriptors(variables: Any, images: Array, *, model: SSCD, mean: Sequence[float], std: Sequence[float]) -> Array:
    vectors = model.apply(variables, normalize(images, mean, std))
    assert isinstance(vectors, Array)
    return vectors


def embed(
    model: SSCD, variables: Any, source: Source, preset: Preset, *, batch_size: int, mesh: Mesh
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The descriptors of a source, in its order, batch by batch.

    Every batch has the same shape, padded at the end, so that one program is compiled. A batch is decoded while the
    one before it is computed.

    Yields:
        (int64 [n] indexes, float32 [n, dims] their descriptors, int64 [m] indexes of pictures that cannot be read).
    """
    model, variables = fold(model, jax.device_put(variables, replicated(mesh)))
    pending = None
    for batch in numpy_batches(inference_batches(source, preset, batch_size=batch_size)):
        images = to_devices({"images": batch["images"]}, mesh)["images"]
        vectors = _descriptors(variables, images, model=model, mean=preset.mean, std=preset.std)
        if pending is not None:
            yield _readable(*pending)
        pending = (vectors, batch["index"], batch["ok"])
    if pending is not None:
        yield _readable(*pending)


def _readable(vectors: Array, index: np.ndarray, ok: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return index[ok], np.asarray(vectors)[ok], index[~ok & (index >= 0)]


def write_descriptors(
    model: SSCD, variables: Any, source: Source, preset: Preset, out: Path, *, batch_size: int
) -> dict[str, Any]:
    """Embeds a source and writes its descriptors to the folder `out`; see `Descriptors`.

    Pictures that cannot be read are left out, and OUT/errors.jsonl says which and why.

    Returns:
        Summary: embedded, unreadable (the list of these), images_per_second, out.

    Raises:
        ValueError: the batch does not divide over the devices, two pictures have one id, or none can be read.
    """
    check_divisible(batch_size, "--batch-size")
    check_unique_ids(source)
    versions = {name: version(name) for name in ("sscd_jax", "jax", "flax", "numpy", "pillow")}
    versions["tensorflow"] = tf.__version__  # whatever the name of its distribution
    details = {"preset": preset.parameters(), "versions": versions, "source": source.name}
    provenance = Provenance(hash_variables(variables), preset.name, details)
    errors: list[dict[str, str]] = []
    start = time.perf_counter()

    def batches() -> Iterator[tuple[list[str], np.ndarray]]:
        with tqdm(total=len(source), desc="embed", unit="image", dynamic_ncols=True) as bar:
            for index, vectors, bad in embed(
                model, variables, source, preset, batch_size=batch_size, mesh=create_mesh()
            ):
                for i in bad:
                    errors.append({"path": source.paths[i], "reason": why_unreadable(source, int(i))})
                    bar.write("cannot read {path}: {reason}".format(**errors[-1]), file=sys.stderr)
                bar.update(len(index) + len(bad))
                bar.set_postfix(errors=len(errors))
                yield [source.ids[i] for i in index], vectors

    count = write_shards(out, batches(), provenance, errors=errors)
    seconds = time.perf_counter() - start
    return {"embedded": count, "unreadable": errors, "images_per_second": count / seconds, "out": str(out)}
