"""Contrastive mixup and cutmix on a host batch (paper section 3; official transforms/mixup.py).

Views are mixed within groups of fixed size, whatever the number of hosts. The partner of a view is the view opposite it
in the group's [first views; second views]: the other view of the image as far from the group's end as its own from
the start.
"""

import tensorflow as tf

from sscd_jax.data.augment.random_draws import Uniforms


def draw_mixing(uniform: Uniforms, size: int) -> dict[str, tf.Tensor]:
    """How a view is mixed with its partner: with probability 0.05 at all, half of these by cutmix.

    Returns:
        share: float32 in [0, 1], the view's part in mixup, 1 where it is not mixed or cut.
        box: int32 [4], top, left, bottom and right of what cutmix takes from the partner; empty where it does not.
        kept: float32 in [0, 1], what of the view is there in the end.
    """
    applied, cut = uniform.chance(0.05), uniform.chance(0.5)
    share = tf.sort(uniform.some(3))[1]  # the median of three uniform numbers is distributed as Beta(2, 2)
    half = tf.cast(size * tf.sqrt(1 - share), tf.int32) // 2
    center = tf.stack([uniform.integer(size), uniform.integer(size)])
    box = tf.clip_by_value(tf.concat([center - half, center + half], 0), 0, size)
    box = tf.where(applied & cut, box, 0)
    share = tf.where(applied & ~cut, share, 1.0)
    area = tf.cast((box[2] - box[0]) * (box[3] - box[1]), tf.float32)
    return {"share": share, "box": box, "kept": share * (1 - area / size**2)}


def partners(rows: tf.Tensor, group: int) -> tf.Tensor:
    """Each view's partner: [2 b, ...], first views before second views, in groups of `group` images -> [2 b, ...]."""
    shape = tf.shape(rows)
    grouped = tf.reshape(rows, tf.concat([[2, -1, group], shape[1:]], 0))
    return tf.reshape(tf.reverse(grouped, [0, 2]), shape)


def mixed_ids(ids: tf.Tensor, kept: tf.Tensor, group: int) -> tf.Tensor:
    """Content of the mixed views: int32 [2 b] and float32 [2 b] -> int32 [2 b, 2]."""
    return tf.stack([ids, tf.where(kept < 1, partners(ids, group), ids)], 1)


def mix(images: tf.Tensor, share: tf.Tensor, box: tf.Tensor, group: int) -> tf.Tensor:
    """The views of a host batch, mixed: uint8 [2 b, S, S, 3], float32 [2 b], int32 [2 b, 4] -> uint8 [2 b, S, S, 3].

    Mixing pixels and normalizing them commute; values are rounded.
    """
    rows = tf.where((share < 1) | (box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1]))[:, 0]
    others = tf.gather(images, tf.gather(partners(tf.range(tf.shape(images)[0]), group), rows))
    share, box = tf.gather(share, rows)[:, None, None, None], tf.gather(box, rows)
    own, other = tf.cast(tf.gather(images, rows), tf.float32), tf.cast(others, tf.float32)
    at = tf.range(images.shape[1])
    inside = [(at >= box[:, axis, None]) & (at < box[:, 2 + axis, None]) for axis in range(2)]
    cut = (inside[0][:, :, None] & inside[1][:, None, :])[..., None]
    mixed = tf.where(cut, other, share * own + (1 - share) * other)
    return tf.tensor_scatter_nd_update(images, rows[:, None], tf.cast(tf.round(mixed), tf.uint8))
