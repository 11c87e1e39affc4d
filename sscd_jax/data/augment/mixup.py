"""Contrastive mixup and cutmix on a host's batch (paper section 3; official transforms/mixup.py).

Views are mixed within groups of a fixed size, so that the number of hosts does not matter. In a group of G views in the
order [first views; second views], the partner of view i is view G - 1 - i. For image k of n images in a group, that is
the other view of image n - 1 - k.
"""

import tensorflow as tf

from sscd_jax.data.augment.random_draws import Uniforms


def draw_mixing(uniform: Uniforms, size: int) -> dict[str, tf.Tensor]:
    """Draws how a view of `size` x `size` pixels is mixed with its partner.

    A view is mixed with probability 0.05, half of the time by cutmix and otherwise by mixup.

    Returns:
        A dict of
          * share: float32 in [0, 1], the weight of the view in mixup; 1 without mixup.
          * box: int32 [4], top, left, bottom and right of the part that cutmix takes from the partner; empty without
            cutmix.
          * kept: float32 in [0, 1], the share of the view that remains (lambda).
    """
    applied, cut = uniform.chance(0.05), uniform.chance(0.5)
    share = tf.sort(uniform.array(3))[1]  # the median of three uniform numbers has the distribution Beta(2, 2)
    half = tf.cast(size * tf.sqrt(1 - share), tf.int32) // 2
    center = tf.stack([uniform.integer(size), uniform.integer(size)])
    box = tf.clip_by_value(tf.concat([center - half, center + half], 0), 0, size)
    box = tf.where(applied & cut, box, 0)
    share = tf.where(applied & ~cut, share, 1.0)
    area = tf.cast((box[2] - box[0]) * (box[3] - box[1]), tf.float32)
    return {"share": share, "box": box, "kept": share * (1 - area / size**2)}


def partners(rows: tf.Tensor, group: int) -> tf.Tensor:
    """Returns the row of each view's partner, in groups of `group` images: [2b, ...] -> [2b, ...].

    First views come before second views.
    """
    shape = tf.shape(rows)
    grouped = tf.reshape(rows, tf.concat([[2, -1, group], shape[1:]], 0))
    return tf.reshape(tf.reverse(grouped, [0, 2]), shape)


def mixed_ids(ids: tf.Tensor, kept: tf.Tensor, group: int) -> tf.Tensor:
    """Returns the two ids of each view, which are equal if it is not mixed: int32 [2b], float32 [2b] -> [2b, 2]."""
    return tf.stack([ids, tf.where(kept < 1, partners(ids, group), ids)], 1)


def mix(images: tf.Tensor, share: tf.Tensor, box: tf.Tensor, group: int) -> tf.Tensor:
    """Mixes the views of a host's batch.

    Pixels are mixed before they are normalized, which changes the result only by rounding.

    Args:
        images: uint8 [2b, S, S, 3], first views before second views.
        share, box: float32 [2b] and int32 [2b, 4], as `draw_mixing` draws them for each view.
        group: the number of images in a group.

    Returns:
        uint8 [2b, S, S, 3].
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
