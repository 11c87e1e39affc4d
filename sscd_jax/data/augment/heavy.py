"""The augmentations of HEAVY, which cover edits of DISC2021 and later work that the paper's augmentations lack.

Before the crop, another image is pasted onto the image or put under it, the frame of a screenshot is added, or the
perspective is changed. After the colors, channels are swapped or dropped, pixels are enlarged, noise is added, or a
rectangle is erased. (tf-image also has `channel_swap` and `channel_drop`, but they draw from TensorFlow's global random
state, so that views would depend on the order of threads.)
"""

import itertools
import math
from typing import Any

import tensorflow as tf

from sscd_jax.data.augment.overlays import composite, overlay_text
from sscd_jax.data.augment.random_draws import Uniforms
from sscd_jax.data.augment.warp import warp

PASTE = 0.15  # probability that another image is pasted
_SWAPS = [order for order in itertools.permutations(range(3)) if order != (0, 1, 2)]


def draw_other(seed: tf.Tensor, count: int) -> tf.Tensor:
    """Draws which of `count` images is pasted on each of the two views, or -1 for none: int64 [2]."""
    numbers = tf.random.stateless_uniform([2, 2], seed)
    index = tf.minimum(tf.cast(numbers[:, 1] * tf.cast(count, tf.float32), tf.int64), count - 1)
    return tf.where(numbers[:, 0] < PASTE, index, -1)


def draw_before(uniform: Uniforms) -> dict[str, Any]:
    """Draws the edits of the image before the crop."""
    dark = uniform.chance(0.5)
    paper = uniform(0.0, 30.0) + tf.where(dark, 0.0, 225.0)
    return {
        "paste": {
            "under": uniform.chance(0.5),
            "size": uniform(0.2, 0.7),
            "opacity": uniform(0.4, 1.0),
            "fx": uniform(),
            "fy": uniform(),
        },
        "frame": {
            "applied": uniform.chance(0.1),
            "paper": paper,
            "margins": tf.stack([uniform(0.05, 0.3), uniform(0.05, 0.3), uniform(0.0, 0.15)]),  # top, bottom, sides
            "text": {
                "font": uniform(),
                "length": uniform(),
                "seed": tf.cast(uniform.array(2) * 2**24, tf.int32),
                "size": uniform(0.25, 0.6),
                "opacity": uniform(0.7, 1.0),
                "color": tf.fill([3], tf.where(dark, 220.0, 40.0)),
                "fx": uniform(0.0, 0.3),
                "fy": uniform(),
            },
        },
        "perspective": {"applied": uniform.chance(0.1), "corners": 0.4 * uniform.array(8) - 0.2},
    }


def draw_after(uniform: Uniforms) -> dict[str, Any]:
    """Draws the edits of a view after its color operations."""
    area, aspect = uniform(0.02, 0.25), tf.exp(uniform(-math.log(3), math.log(3)))
    return {
        "swap": {
            "applied": uniform.chance(0.1),
            "order": tf.gather(tf.constant(_SWAPS), uniform.integer(len(_SWAPS))),
        },
        "drop": {"applied": uniform.chance(0.05), "channel": uniform.integer(3)},
        "pixelate": {"applied": uniform.chance(0.1), "cells": 12 + uniform.integer(53)},
        "noise": {
            "applied": uniform.chance(0.1),
            "spread": uniform(2.0, 30.0),
            "seed": tf.cast(uniform.array(2) * 2**24, tf.int32),
        },
        "erase": {
            "applied": uniform.chance(0.15),
            "sides": tf.minimum(tf.sqrt(tf.stack([area / aspect, area * aspect])), 1.0),
            "at": uniform.array(2),
            "color": tf.floor(256 * uniform.array(3)),
        },
    }


def paste(image: tf.Tensor, drawn: dict[str, Any], other: tf.Tensor) -> tf.Tensor:
    """Pastes `other` onto a part of the image, or the image onto a part of `other`: uint8 [H, W, 3] -> [H, W, 3]."""
    shape = tf.shape(image)[:2]
    over, under = tf.cond(drawn["under"], lambda: (image, other), lambda: (other, image))
    # Where the image is pasted onto the other one, it covers most of it.
    share = tf.where(drawn["under"], 0.3 + drawn["size"], drawn["size"])
    size = tf.maximum(tf.cast(tf.cast(shape, tf.float32) * share, tf.int32), 1)
    canvas = tf.cond(drawn["under"], lambda: _resized(under, shape), lambda: under)
    layer = tf.image.resize(over, size, antialias=True)
    alpha = tf.fill(tf.shape(layer), drawn["opacity"])
    return composite(tf.ensure_shape(canvas, [None, None, 3]), layer * alpha, alpha, drawn["fx"], drawn["fy"])


def frame(image: tf.Tensor, drawn: dict[str, Any]) -> tf.Tensor:
    """Shows the image on a page with a line of text above and below, as a screenshot does: uint8 [H, W, 3]."""
    height, width = tf.unstack(tf.shape(image)[:2])
    top, bottom, side = tf.unstack(drawn["margins"])
    page_width = width + 2 * tf.cast(side * tf.cast(width, tf.float32), tf.int32)

    def page(rows: tf.Tensor) -> tf.Tensor:
        return tf.fill([rows, page_width, 3], tf.cast(drawn["paper"], tf.uint8))

    def lines(share: tf.Tensor, seed: int) -> tf.Tensor:
        rows = tf.maximum(tf.cast(share * tf.cast(height, tf.float32), tf.int32), 1)
        return overlay_text(page(rows), drawn["text"] | {"seed": drawn["text"]["seed"] + seed})

    margin = page(height)[:, : (page_width - width) // 2]
    middle = tf.concat([margin, image, margin], 1)
    return _resized(tf.concat([lines(top, 0), middle, lines(bottom, 1)], 0), [height, width])


def perspective(image: tf.Tensor, drawn: dict[str, Any]) -> tf.Tensor:
    """Moves each corner by up to a fifth of a side, with black outside of the image: uint8 [H, W, 3] -> [H, W, 3]."""
    shape = tf.shape(image)[:2]
    side = tf.cast(shape[::-1], tf.float32) - 1
    corners = tf.constant([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    here, there = corners * side, (corners + tf.reshape(drawn["corners"], [4, 2])) * side
    return warp(image, homography(here, there), shape)


def homography(here: tf.Tensor, there: tf.Tensor) -> tf.Tensor:
    """Returns the projective transform that maps four points (x, y) to four others: float32 [4, 2], [4, 2] -> [8]."""
    x, y = tf.unstack(tf.cast(here, tf.float64), axis=1)
    u, v = tf.unstack(tf.cast(there, tf.float64), axis=1)
    zero, one = tf.zeros_like(x), tf.ones_like(x)
    rows = [
        tf.stack([x, y, one, zero, zero, zero, -u * x, -u * y], 1),
        tf.stack([zero, zero, zero, x, y, one, -v * x, -v * y], 1),
    ]
    # The tiny diagonal makes the equations solvable for an image of one row or column.
    matrix = tf.concat(rows, 0) + 1e-6 * tf.eye(8, dtype=tf.float64)
    return tf.cast(tf.linalg.solve(matrix, tf.concat([u, v], 0)[:, None])[:, 0], tf.float32)


def swap(view: tf.Tensor, drawn: dict[str, Any]) -> tf.Tensor:
    """Reorders the channels: uint8 [S, S, 3] -> [S, S, 3]."""
    return tf.gather(view, drawn["order"], axis=2)


def drop(view: tf.Tensor, drawn: dict[str, Any]) -> tf.Tensor:
    """Sets one channel to 0: uint8 [S, S, 3] -> [S, S, 3]."""
    return tf.where(tf.range(3) == drawn["channel"], tf.constant(0, tf.uint8), view)


def pixelate(view: tf.Tensor, drawn: dict[str, Any]) -> tf.Tensor:
    """Reduces a view to `cells` pixels a side and enlarges these to squares: uint8 [S, S, 3] -> [S, S, 3]."""
    cells = _resized(view, tf.fill([2], drawn["cells"]))
    return tf.image.resize(cells, view.shape[:2], method="nearest")


def noise(view: tf.Tensor, drawn: dict[str, Any]) -> tf.Tensor:
    """Adds Gaussian noise with the standard deviation `spread`, in gray levels: uint8 [S, S, 3] -> [S, S, 3]."""
    added = tf.random.stateless_normal(view.shape, drawn["seed"]) * drawn["spread"]
    return tf.cast(tf.clip_by_value(tf.round(tf.cast(view, tf.float32) + added), 0, 255), tf.uint8)


def erase(view: tf.Tensor, drawn: dict[str, Any]) -> tf.Tensor:
    """Fills a rectangle with one color: uint8 [S, S, 3] -> [S, S, 3]."""
    size = tf.constant([float(side) for side in view.shape[:2]])
    first = drawn["at"] * (size - drawn["sides"] * size)
    rows, columns = (
        (tf.range(view.shape[axis], dtype=tf.float32) >= first[axis])
        & (tf.range(view.shape[axis], dtype=tf.float32) < first[axis] + drawn["sides"][axis] * size[axis])
        for axis in range(2)
    )
    inside = (rows[:, None] & columns[None])[..., None]
    return tf.where(inside, tf.cast(drawn["color"], tf.uint8), view)


AFTER = {"swap": swap, "drop": drop, "pixelate": pixelate, "noise": noise, "erase": erase}


def _resized(image: tf.Tensor, shape: tf.Tensor | list[tf.Tensor]) -> tf.Tensor:
    return tf.cast(tf.round(tf.image.resize(image, shape, antialias=True)), tf.uint8)
