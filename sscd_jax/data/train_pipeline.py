"""Batches for training: a tf.data pipeline that starts at any step and does not depend on hosts or threads."""

import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from sscd_jax.data.augment.glyph_atlas import load_atlas
from sscd_jax.data.augment.heavy import draw_other
from sscd_jax.data.augment.mixup import mix, mixed_ids
from sscd_jax.data.augment.views import RECIPES, apply, apply_before_color_ops, draw_views
from sscd_jax.data.decode_tf import decode
from sscd_jax.data.image_source import Source
from sscd_jax.data.images import open_image

_TRIES = 100  # images that are tried in place of one that cannot be read


def check_batches(
    source: Source, *, batch_size: int, augmentation: str, mixup_group: int | None, host_count: int
) -> None:
    """Checks the arguments of `train_batches`, and raises what it would raise."""
    if batch_size % host_count:
        raise ValueError(f"a batch of {batch_size} cannot be divided over {host_count} hosts")
    rows = batch_size // host_count
    if mixup_group and rows % mixup_group:
        raise ValueError(
            f"{rows} images of a batch on each of {host_count} hosts are not a multiple of the mixing group's "
            f"{mixup_group}: choose a --data.mixup-group that divides {rows}, or another --data.batch-size"
        )
    if len(source) < batch_size:
        raise ValueError(
            f"{source.name} has {len(source)} images, fewer than a batch of {batch_size}: give more images, or "
            f"--data.batch-size {max(len(source), 2)} or less"
        )
    if RECIPES[augmentation].advanced:
        load_atlas()


def train_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: int,
    augmentation: str,
    seed: int,
    min_crop_area: float = 0.08,
    mixup_group: int | None = None,
    color_ops: Literal["host", "device"] = "host",
    start_step: int = 0,
    host_index: int = 0,
    host_count: int = 1,
    workers: int | None = None,
) -> tf.data.Dataset:
    """Returns this host's rows of the global batches from a step on, as an endless tf.data pipeline.

    The order of the examples in an epoch is a function of (seed, epoch) alone; the last, incomplete batch of an epoch
    is dropped. What is drawn for a view is a function of (seed, epoch, index of the example, first or second view)
    alone. Neither depends on hosts, threads or the step where the pipeline starts. An image that cannot be read is
    replaced by the next readable image of the source.

    Args:
        source: the images.
        batch_size: the number of images in the global batch.
        image_size: the side of a view in pixels, S.
        augmentation: a key of `augment.views.RECIPES`.
        seed: the random seed of order and views.
        min_crop_area: the smallest share of an image's area that a view shows.
        mixup_group: the number of images whose views are mixed with one another; None for no mixing.
        color_ops: whether the host or the device computes color jitter, grayscale, blur and mixing. For the device, the
            batches have what it needs; see `training.device_augment`.
        start_step: the step of the first batch.
        host_index: the index of this host.
        host_count: the number of hosts, among which each batch is divided.
        workers: the number of threads that augment, and of those that read; by default one per core to augment, and
            two per core to read.

    Returns:
        Batches as dicts. With b = batch_size / host_count:
          * images: uint8 [2b, S, S, 3], first views before second views.
          * instance_ids: int32 [2b], the index of each view's example, or [2b, 2] if views are mixed.
          * requested, used: int64 [b], the indexes of the examples. They differ if an image was replaced.
          * color_ops, mixing: [2b, ...], what is left to the device; only with color_ops="device".

    Raises:
        ValueError: the batch cannot be divided over the hosts, a host's part of it cannot be divided into mixing
            groups, or the source has fewer examples than a batch.
        ImportError: the augmentation needs the extra augly, which is not installed.
    """
    check_batches(
        source, batch_size=batch_size, augmentation=augmentation, mixup_group=mixup_group, host_count=host_count
    )
    rows, steps_per_epoch = batch_size // host_count, len(source) // batch_size

    def place(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the epoch and the index of the example at a position in this host's stream."""
        step, row = position // rows, position % rows
        epoch, step = step // steps_per_epoch, step % steps_per_epoch
        order = tf.cast(tf.stack([tf.constant(seed, tf.int64), epoch]), tf.uint32)
        in_epoch = step * batch_size + host_index * rows + row
        index = tf.random.experimental.index_shuffle(in_epoch, order, len(source) - 1)
        return epoch, index

    @tf.autograph.experimental.do_not_convert
    def readable(position: tf.Tensor) -> tf.data.Dataset:
        epoch, requested = place(position)

        def load(attempt: tf.Tensor) -> tuple[tf.Tensor, ...]:
            used = (requested + attempt) % len(source)
            return decode(source.read(used)), epoch, requested, used

        def give_up(_: tf.Tensor) -> tuple[tf.Tensor, ...]:
            message = f"{_TRIES} images of {source.name} in a row cannot be read: are they images?"
            with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
                return tf.zeros([1, 1, 3], tf.uint8), epoch, requested, requested

        attempts = tf.data.Dataset.range(_TRIES).map(load).ignore_errors()
        found = attempts.concatenate(tf.data.Dataset.range(1).map(give_up)).take(1)
        if not RECIPES[augmentation].heavy:
            return found
        others = draw_other(tf.stack([seed + epoch * 2**32, -1 - requested]), len(source))
        return tf.data.Dataset.zip(found, *(other(others[view]) for view in range(2))).map(
            lambda found, *others: (*found, *others)
        )

    def other(index: tf.Tensor) -> tf.data.Dataset:
        """Returns the image that is pasted on a view, or an empty one, as a dataset of one element."""
        indexes = tf.data.Dataset.from_tensors(index)
        empty = indexes.map(lambda _: tf.zeros([0, 0, 3], tf.uint8))
        loaded = indexes.filter(lambda index: index >= 0).map(lambda index: decode(source.read(index))).ignore_errors()
        return loaded.concatenate(empty).take(1)

    draw = partial(draw_views, size=image_size, augmentation=augmentation, min_crop_area=min_crop_area)

    @tf.autograph.experimental.do_not_convert
    def augmented(
        image: tf.Tensor, epoch: tf.Tensor, requested: tf.Tensor, used: tf.Tensor, *others: tf.Tensor
    ) -> dict[str, Any]:
        key = tf.stack(
            [seed + epoch * 2**32, requested]
        )  # not `used`: an image and the one that it replaces get different views
        views = []
        for view in draw(image, key, others=others):
            if color_ops == "host":
                parts = {"images": apply(image, view)}
            else:
                pixels, left = apply_before_color_ops(image, view)
                parts = {"images": pixels, "color_ops": left}
            views.append(parts | ({"mixing": view["mixing"]} if mixup_group else {}))
        pair = tf.nest.map_structure(lambda *two: tf.stack(two), *views)
        return {"views": pair, "requested": requested, "used": used}

    @tf.autograph.experimental.do_not_convert
    def first_before_second(batch: dict[str, Any]) -> dict[str, Any]:
        ids = tf.cast(tf.tile(batch["used"], [2]), tf.int32)
        views = tf.nest.map_structure(lambda pair: tf.concat([pair[:, 0], pair[:, 1]], 0), batch["views"])
        if mixup_group:
            ids = mixed_ids(ids, views["mixing"].pop("kept"), mixup_group)
            if color_ops == "host":
                views["images"] = mix(views["images"], **views.pop("mixing"), group=mixup_group)
        return views | {"instance_ids": ids, "requested": batch["requested"], "used": batch["used"]}

    dataset = tf.data.Dataset.range(start_step * rows, np.iinfo(np.int64).max)
    dataset = _interleave(dataset, readable, workers)
    dataset = dataset.map(augmented, num_parallel_calls=workers or os.cpu_count())
    dataset = dataset.batch(rows, drop_remainder=True).map(first_before_second)
    return dataset.with_options(_options(workers)).prefetch(2)


def numpy_batches(dataset: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
    """Yields the batches of a pipeline as numpy arrays.

    Raises:
        ValueError: many images in a row cannot be read.
    """
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise ValueError(_reason(error)) from error


def why_unreadable(source: Source, index: int) -> str:
    """Reads an image again, and returns the reason why it cannot be read, in one line."""
    try:
        open_image(source.load(index))
    except (OSError, ValueError) as error:
        return str(error)
    return "TensorFlow cannot decode it"


def _reason(error: tf.errors.OpError) -> str:
    """Returns the message of an error without TensorFlow's names of operations."""
    line = error.message.splitlines()[0]
    if asserted := re.search(r"assertion failed: \[(.*?)\]", line):
        return asserted[1]
    return re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", line)


def _interleave(dataset: tf.data.Dataset, function, workers: int | None) -> tf.data.Dataset:
    """Does the same as `flat_map`, in the same order, with several elements in parallel."""
    threads = workers or 2 * (os.cpu_count() or 1)
    return dataset.interleave(function, cycle_length=threads, num_parallel_calls=threads, deterministic=True)


def _options(workers: int | None) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # The thread of autotune may miss the end of the pipeline, which then waits for up to a minute (TensorFlow 2.21).
    options.autotune.enabled = False
    if workers is not None:
        options.threading.private_threadpool_size = workers
    return options
