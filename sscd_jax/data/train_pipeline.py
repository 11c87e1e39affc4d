"""The training pipeline."""

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

# Images tried in place of one that cannot be read.
_TRIES = 100


def check_batches(
    source: Source, *, batch_size: int, augmentation: str, mixup_group: int | None, host_count: int
) -> None:
    """Raises what `train_batches` raises for these arguments."""
    if batch_size % host_count:
        raise ValueError(f"a batch of {batch_size} does not divide over {host_count} hosts")
    rows = batch_size // host_count
    if mixup_group and rows % mixup_group:
        raise ValueError(
            f"{rows} images of a batch on each of {host_count} hosts are not a multiple of the mixing group's "
            f"{mixup_group}: take a --data.mixup-group that divides {rows}, or another batch size"
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
    """This host's rows of the global batches from a step on, without end.

    Epoch e visits the examples in an order that is a function of (seed, e) alone, less the last, incomplete batch. What
    is drawn for a view is a function of (seed, e, index of the example, which view) alone, whatever the hosts, threads
    and order. An image that cannot be read is replaced by the next readable one of the source.

    Args:
        source: the images.
        batch_size: images in the global batch.
        image_size: side of a view in pixels.
        augmentation: a key of augment.RECIPES.
        seed: of order and views.
        min_crop_area: smallest share of an image that a view shows.
        mixup_group: views are mixed among those of so many images; None: they are not mixed.
        color_ops: who computes jitter, gray, blur and mixing. The device needs numbers for it, see `device_augment`.
        start_step: the first batch.
        host_index, host_count: which rows of each batch.
        workers: threads that augment, and as many that read; None: one a core, and two that read.

    Yields:
        With b = batch_size / host_count, images uint8 [2b, S, S, 3], first views before second views; instance_ids
        int32 [2b], the index of the example, or [2b, 2] where views are mixed; requested and used int64 [b], which
        differ where an image was replaced. Left to the device: color_ops and mixing, what it has to do, [2b, ...].

    Raises:
        ValueError: the batch does not divide over the hosts, the mixing group not into a host's part of it, or the
            source has fewer examples than a batch.
        ImportError: the augmentation needs the extra augly, which is not installed.
    """
    check_batches(
        source, batch_size=batch_size, augmentation=augmentation, mixup_group=mixup_group, host_count=host_count
    )
    rows, steps_per_epoch = batch_size // host_count, len(source) // batch_size

    def place(position: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Position in this host's stream to epoch and example."""
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
        """The image that is pasted on a view, or an empty one."""
        one = tf.data.Dataset.from_tensors(index)
        empty = one.map(lambda _: tf.zeros([0, 0, 3], tf.uint8))
        loaded = one.filter(lambda index: index >= 0).map(lambda index: decode(source.read(index))).ignore_errors()
        return loaded.concatenate(empty).take(1)

    draw = partial(draw_views, size=image_size, augmentation=augmentation, min_crop_area=min_crop_area)

    @tf.autograph.experimental.do_not_convert
    def augmented(
        image: tf.Tensor, epoch: tf.Tensor, requested: tf.Tensor, used: tf.Tensor, *others: tf.Tensor
    ) -> dict[str, Any]:
        key = tf.stack([seed + epoch * 2**32, requested])  # so that an image and one that it replaces differ
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
        made = tf.nest.map_structure(lambda both: tf.concat([both[:, 0], both[:, 1]], 0), batch["views"])
        if mixup_group:
            ids = mixed_ids(ids, made["mixing"].pop("kept"), mixup_group)
            if color_ops == "host":
                made["images"] = mix(made["images"], **made.pop("mixing"), group=mixup_group)
        return made | {"instance_ids": ids, "requested": batch["requested"], "used": batch["used"]}

    dataset = tf.data.Dataset.range(start_step * rows, np.iinfo(np.int64).max)
    dataset = _interleave(dataset, readable, workers)
    dataset = dataset.map(augmented, num_parallel_calls=workers or os.cpu_count())
    dataset = dataset.batch(rows, drop_remainder=True).map(first_before_second)
    return dataset.with_options(_options(workers)).prefetch(2)


def numpy_batches(dataset: tf.data.Dataset) -> Iterator[dict[str, np.ndarray]]:
    """The batches of a pipeline as numpy.

    Raises:
        ValueError: the images of a source cannot be read.
    """
    try:
        yield from dataset.as_numpy_iterator()
    except tf.errors.OpError as error:
        raise ValueError(_reason(error)) from error


def why_unreadable(source: Source, index: int) -> str:
    """The reason for which an image cannot be read, found by reading it again; one line."""
    try:
        open_image(source.load(index))
    except (OSError, ValueError) as error:
        return str(error)
    return "not decoded by TensorFlow"


def _reason(error: tf.errors.OpError) -> str:
    """What the error says, without TensorFlow's names of operations."""
    line = error.message.splitlines()[0]
    if asserted := re.search(r"assertion failed: \[(.*?)\]", line):
        return asserted[1]
    return re.sub(r"\{\{.*?\}\} ?| \[Op:.*", "", line)


def _interleave(dataset: tf.data.Dataset, function, workers: int | None) -> tf.data.Dataset:
    """`flat_map` with several elements under way: what one gives stays in its place."""
    under_way = workers or 2 * (os.cpu_count() or 1)
    return dataset.interleave(function, cycle_length=under_way, num_parallel_calls=under_way, deterministic=True)


def _options(workers: int | None) -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Its thread may miss that the pipeline ends, and be waited for, up to a minute (TensorFlow 2.21).
    options.autotune.enabled = False
    if workers is not None:
        options.threading.private_threadpool_size = workers
    return options
