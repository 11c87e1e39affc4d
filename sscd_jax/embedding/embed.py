"""Computes the descriptors of images."""

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
    isolate: bool = False,
) -> Iterator[tuple[np.ndarray, np.ndarray] | Unreadable]:
    """Computes the descriptors of images, batch by batch.

    Images that keep their aspect come out of order. One program is compiled for each of `preset.canvases()` that is
    needed. A batch is decoded while the one before it is computed.

    Args:
        model: the network.
        variables: its parameters and batch statistics.
        source: the images.
        preset: how the images are resized and normalized.
        batch_size: the number of images in a batch over all devices of the mesh, a multiple of the number of devices.
        mesh: the devices, all of which belong to this process.
        groups: groups of indexes of images, by default one group with all of them. The descriptors of a group come
            before those of the next. To the last bit, a descriptor depends only on the images that its group contains.
        max_pixels: images with more pixels count as unreadable.
        workers: the number of threads that decode images; by default one for each core.
        isolate: whether images are decoded in processes; see `inference_batches`.

    Yields:
        n indexes, int64 [n], and their descriptors, float32 [n, dims]; or an image that cannot be read, which may come
        before images of an earlier group.

    Raises:
        ValueError: the mesh has devices of other processes, or a descriptor is not finite.

    Examples:
        >>> for item in embed(model, variables, source, preset, batch_size=8, mesh=create_local_mesh()):
        ...     if not isinstance(item, Unreadable):
        ...         indexes, vectors = item
    """
    if any(device.process_index != jax.process_index() for device in mesh.devices.flat):
        raise ValueError("images are embedded on the devices of one process: use create_local_mesh()")
    inputs = jax.device_put(variables, replicated(mesh))
    by_orientation = {False: _fold(inputs, model=model)}
    run = partial(_descriptors, model=folded(model), mean=preset.mean, std=preset.std)

    def compute(batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        arrays = {"images": batch.images} | ({"sizes": batch.sizes} if preset.ragged else {})
        on_devices = to_devices(arrays, mesh)
        vectors = run(by_orientation[batch.transposed], on_devices["images"], on_devices.get("sizes"))
        found = np.asarray(vectors)[: len(batch.index)]
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found).all(1)))
            path = source.paths[batch.index[row]]
            raise ValueError(f"the network gives {path} a descriptor that is not finite: are its weights finite?")
        return batch.index, found

    # An accelerator should never wait. A CPU computes one batch on each core faster than one batch on all cores.
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
            isolate=isolate,
        ):
            if isinstance(item, Unreadable):
                yield item
                continue
            if item.transposed not in by_orientation:
                by_orientation[True] = _transpose(by_orientation[False])
            pending.append(pool.submit(compute, item))
            if len(pending) > in_flight:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
