"""Images to descriptors."""

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.sharding import Mesh

from sscd_jax.data.image_source import Source
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.inference_pipeline import Batch, Unreadable, inference_batches
from sscd_jax.models import SSCD, normalize, transpose
from sscd_jax.models.folding import fold, folded
from sscd_jax.presets import Preset, Triple
from sscd_jax.sharding import replicated, to_devices


@partial(jax.jit, static_argnames="model")
def _fold(variables: Any, *, model: SSCD) -> Any:
    return fold(model, variables)[1]


_transpose = jax.jit(transpose)


@partial(jax.jit, static_argnames=("model", "mean", "std"))
def _descriptors(
    variables: Any, images: Array, sizes: Array | None, *, model: SSCD, mean: Triple, std: Triple
) -> Array:
    vectors = model.apply(variables, normalize(images, mean, std), sizes=sizes)
    assert isinstance(vectors, Array)
    return vectors


def embed(
    model: SSCD,
    variables: Any,
    source: Source,
    preset: Preset,
    *,
    batch_size: int,
    mesh: Mesh,
    groups: Iterable[Sequence[int]] | None = None,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray] | Unreadable]:
    """The descriptors of images, as batches of them are ready: out of order where they keep their aspect.

    One program is compiled for each of `preset.canvases()` that is needed. A batch is decoded while the one before it
    is computed.

    Args:
        model, variables: the network.
        source: the images.
        preset: how they are resized and normalized.
        batch_size: images a batch over all devices of the mesh, a multiple of their number.
        mesh: the devices.
        groups: indexes of the source, by default one group of all. Descriptors of a group come before those of the
            next, and what a descriptor is to the last bit depends on its group alone.
        max_pixels: larger images are unreadable.
        workers: threads for decoding; by default one for each core.

    Yields:
        (int64 [n] indexes, float32 [n, dims] their descriptors), or an image that cannot be read, which may come
        before images of an earlier group.

    Raises:
        ValueError: the mesh has devices of other processes, or a descriptor is not finite.
    """
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError("images are embedded on the devices of one process: take create_local_mesh()")
    inputs = jax.device_put(variables, replicated(mesh))
    by_orientation = {False: _fold(inputs, model=model)}
    run = partial(_descriptors, model=folded(model), mean=preset.mean, std=preset.std)

    def describe(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        arrays = {"images": batch.images} | ({"sizes": batch.sizes} if preset.ragged else {})
        on_devices = to_devices(arrays, mesh)
        vectors = run(by_orientation[batch.transposed], on_devices["images"], on_devices.get("sizes"))
        found = np.asarray(vectors)[: len(batch.index)]
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found).all(1)))
            path = source.paths[batch.index[row]]
            raise ValueError(f"the network gives {path} a descriptor that is not finite: are its weights finite?")
        return batch.index, found

    # An accelerator should never wait. A CPU is faster at as many programs as it has cores than at one on all cores.
    in_flight = max(os.cpu_count() or 1, 2) if jax.default_backend() == "cpu" else 2
    pending: deque[Future[tuple[np.ndarray, np.ndarray]]] = deque()
    with ThreadPoolExecutor(in_flight) as pool:
        for item in inference_batches(
            source,
            [range(len(source))] if groups is None else groups,
            preset,
            batch_size=batch_size,
            multiple=mesh.size,
            max_pixels=max_pixels,
            workers=workers,
        ):
            if isinstance(item, Unreadable):
                yield item
                continue
            if item.transposed not in by_orientation:
                by_orientation[True] = _transpose(by_orientation[False])
            pending.append(pool.submit(describe, item))
            if len(pending) > in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
