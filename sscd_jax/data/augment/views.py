"""The augmentations of the paper. They are stateless: the same seed gives the same views, anywhere and in any order.

`draw` first draws everything that is random about a view, as numbers. `apply` then computes the pixels from the image
and these numbers, and equals the Pillow calls of the official pipeline (transforms/settings.py).
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from sscd_jax.data.augment import color, heavy, resize, warp
from sscd_jax.data.augment.blur import blur
from sscd_jax.data.augment.mixup import draw_mixing
from sscd_jax.data.augment.overlays import overlay_emoji, overlay_text
from sscd_jax.data.augment.packed_pixels import to_words, upright, xla
from sscd_jax.data.augment.random_draws import Uniforms

View = dict[str, Any]
"""What was drawn for a view: a nested dict of scalars and small tensors by name."""


@dataclass(frozen=True)
class Recipe:
    """The settings in which the augmentations differ (official transforms/settings.py)."""

    blur_radius: tuple[float, float]
    """Smallest and largest radius of the Gaussian blur, in pixels."""
    advanced: bool = False
    """Whether to add rotations, text and emoji before the crop, and JPEG compression after the blur."""
    heavy: bool = False
    """Whether to add the augmentations of heavy.py, and crops of twice the aspect ratio in a fifth of the views."""


RECIPES = {
    "SIMCLR": Recipe(blur_radius=(0.1, 2.0)),
    "STRONG_BLUR": Recipe(blur_radius=(1.0, 5.0)),
    "ADVANCED": Recipe(blur_radius=(1.0, 5.0), advanced=True),
    "HEAVY": Recipe(blur_radius=(1.0, 5.0), advanced=True, heavy=True),
}
_UNIFORMS = 128  # random numbers for each view; no recipe uses all
_ORDERS = list(itertools.permutations(range(4)))


def views(image: tf.Tensor, seed: tf.Tensor, **options: Any) -> tuple[tf.Tensor, list[View]]:
    """Returns the two views of an image, uint8 [2, size, size, 3], and what was drawn for them.

    The arguments are those of `draw_views`.
    """
    drawn = draw_views(image, seed, **options)
    return tf.stack([apply(image, view) for view in drawn]), drawn


def draw_views(
    image: tf.Tensor,
    seed: tf.Tensor,
    *,
    size: int,
    augmentation: str,
    min_crop_area: float = 0.08,
    others: Sequence[tf.Tensor] = (),
) -> list[View]:
    """Draws everything that is random about the two views of an image.

    Args:
        image: uint8 [H, W, 3].
        seed: int32 or int64 [2].
        size: the side of a view in pixels.
        augmentation: a key of RECIPES.
        min_crop_area: the smallest share of the image's area that a crop keeps.
        others: for HEAVY, the image that is pasted on each view, uint8 [h, w, 3]; empty if none is pasted.
    """
    draw = _draw(augmentation, size, min_crop_area)
    drawn = draw(tf.random.stateless_uniform([2, _UNIFORMS], seed), tf.shape(image)[:2])
    for view, other in zip(drawn, others, strict=False):
        view["paste"] |= {"applied": tf.size(other) > 0, "other": other}
        view["edited"] |= view["paste"]["applied"]
    return drawn


def apply(image: tf.Tensor, view: View) -> tf.Tensor:
    """Computes the pixels of a view from an image: uint8 [H, W, 3] -> uint8 [size, size, 3]."""
    pixels = color_ops(crop(image, view), view)
    for name, operation in _AFTER.items():
        pixels = _if_applied(view, name, pixels, operation)
    return pixels


def apply_before_color_ops(image: tf.Tensor, view: View) -> tuple[tf.Tensor, View]:
    """Computes the pixels of a view without color jitter, grayscale and blur, which are left to the device.

    If another operation follows these, such as JPEG compression, the view is completed here and nothing is left to do.

    Returns:
        The pixels, uint8 [size, size, 3], and what is left to do: `flags`, bool [3] (jitter, grayscale, blur), and the
        numbers for it.
    """

    def unchanged() -> tf.Tensor:
        pixels = crop(image, view)
        return upright(to_words(pixels.shape[0])(pixels))

    names = ("order", "factors", "hue", "radius")
    flags = tf.stack([view["jitter"], view["gray"], view["blur"]])
    if after := [view[name]["applied"] for name in _AFTER if name in view]:
        complete = tf.reduce_any(after)
        flags &= ~complete
        pixels = tf.cond(complete, lambda: apply(image, view), unchanged)
    else:
        pixels = unchanged()
    return pixels, {"flags": flags} | {name: view[name] for name in names}


def crop(image: tf.Tensor, view: View) -> tf.Tensor:
    """Applies everything before the color operations: uint8 [H, W, 3] -> a packed view, int32 [size, size]."""
    # Text must not be mirrored, so an edited image is mirrored first. Any other is mirrored as it is resized, for free.
    flip = view["flip"]
    if "edited" in view:
        image = tf.cond(view["edited"], lambda: edit(image, view), lambda: image)
        flip &= ~view["edited"]
    return resize.resize(_crop(image, view), view["bucket"], view["rows"], view["columns"], flip)


def color_ops(pixels: tf.Tensor, view: View) -> tf.Tensor:
    """Applies color jitter, grayscale and blur: a packed view, int32 [size, size] -> uint8 [size, size, 3]."""
    flags = tf.stack([view["jitter"], view["gray"]])
    words = color.color_ops(pixels.shape[0])(pixels, flags, view["order"], view["factors"], view["hue"])
    pixels = upright(words)
    return tf.cond(view["blur"], lambda: blur(pixels, view["radius"]), lambda: pixels)


def edit(image: tf.Tensor, view: View) -> tf.Tensor:
    """Applies the edits of the image, up to the last rotation: uint8 [H, W, 3] -> [H, W, 3]."""
    image = tf.cond(view["flip"], lambda: tf.reverse(image, [1]), lambda: image)
    for name, operation in _BEFORE.items():
        image = _if_applied(view, name, image, operation)
    return image


def _crop(image: tf.Tensor, view: View) -> tf.Tensor:
    box = view["box"]

    def straight() -> tf.Tensor:
        return image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]

    if "rotation" not in view:
        return straight()
    drawn = view["rotation"]
    return tf.cond(drawn["applied"], lambda: warp.rotated_box(image, drawn["degrees"], box), straight)


def _if_applied(
    view: View, name: str, image: tf.Tensor, operation: Callable[[tf.Tensor, View], tf.Tensor]
) -> tf.Tensor:
    if name not in view or "applied" not in view[name]:
        return image
    return tf.cond(view[name]["applied"], lambda: operation(image, view[name]), lambda: image)


# Applied in this order.
_BEFORE: dict[str, Callable[[tf.Tensor, View], tf.Tensor]] = {
    "quarters": lambda image, drawn: warp.rotate_by_quarters(image, drawn["count"]),
    "paste": lambda image, drawn: heavy.paste(image, drawn, drawn["other"]),
    "text": overlay_text,
    "emoji": overlay_emoji,
    "frame": heavy.frame,
    "perspective": heavy.perspective,
}
_AFTER: dict[str, Callable[[tf.Tensor, View], tf.Tensor]] = {
    **heavy.AFTER,
    "jpeg": lambda image, drawn: warp.jpeg(image, drawn["quality"]),
}


@functools.cache
def _draw(augmentation: str, size: int, min_crop_area: float):
    """Returns `draw` for two views, compiled: TensorFlow would take longer for its many scalars than for the pixels."""

    def both(uniforms: tf.Tensor, shape: tf.Tensor) -> list[View]:
        recipe = RECIPES[augmentation]
        return [draw(Uniforms(uniforms[i]), shape, recipe, size, min_crop_area) for i in range(2)]

    return xla(tf.TensorSpec([2, _UNIFORMS]), tf.TensorSpec([2], tf.int32))(both)


def draw(uniform: Uniforms, shape: tf.Tensor, recipe: Recipe, size: int, min_crop_area: float) -> View:
    """Draws everything that is random about a view.

    Args:
        uniform: the random numbers of the view.
        shape: height and width of the image, int32 [2].
        recipe: the augmentations.
        size: the side of the view in pixels.
        min_crop_area: the smallest share of the image's area that the crop keeps.
    """
    view: View = {"flip": uniform.chance(0.5)}
    if recipe.advanced:
        view |= _draw_edits(uniform) | (heavy.draw_before(uniform) if recipe.heavy else {})
        edits = [view[name]["applied"] for name in (*_BEFORE, "rotation") if "applied" in view.get(name, ())]
        view["edited"] = tf.reduce_any(edits)
    view |= _draw_crop(uniform, shape, size, min_crop_area, heavy=recipe.heavy)
    view |= {
        "jitter": uniform.chance(0.8),
        "order": tf.gather(tf.constant(_ORDERS), uniform.integer(len(_ORDERS))),
        "factors": 0.2 + 1.6 * uniform.array(3),  # of brightness, contrast and saturation
        "hue": uniform(-0.2, 0.2),
        "gray": uniform.chance(0.2),
        "blur": uniform.chance(0.5),
        "radius": uniform(*recipe.blur_radius),
    }
    if recipe.heavy:
        view |= heavy.draw_after(uniform)
    if recipe.advanced:
        view["jpeg"] = {"applied": uniform.chance(0.2), "quality": uniform.integer(101)}
    return view | {"mixing": draw_mixing(uniform, size)}


def _draw_edits(uniform: Uniforms) -> View:
    return {
        "quarters": {"applied": uniform.chance(0.05), "count": 1 + uniform.integer(3)},
        "text": {
            "applied": uniform.chance(0.1),
            "font": uniform(),
            "length": uniform(),
            "seed": tf.cast(uniform.array(2) * 2**24, tf.int32),
            "size": uniform(0.1, 0.3),
            "opacity": uniform(0.1, 1.0),
            "color": tf.floor(256 * uniform.array(3)),
            "fx": uniform(),
            "fy": uniform(),
        },
        "emoji": {
            "applied": uniform.chance(0.2),
            "which": uniform(),
            "size": uniform(0.1, 0.5),
            "opacity": uniform(0.7, 1.0),
            "fx": uniform(),
            "fy": uniform(),
        },
        "rotation": {"applied": uniform.chance(0.05), "degrees": tf.cast(uniform.integer(360), tf.float32)},
    }


def _draw_crop(uniform: Uniforms, shape: tf.Tensor, size: int, min_area: float, *, heavy: bool) -> View:
    stretched = uniform.chance(0.2) if heavy else tf.constant(False)
    box = crop_box(uniform, shape[0], shape[1], min_area, tf.where(stretched, 8 / 3, 4 / 3))
    bucket = resize.resize_bucket(box[2:], size)
    height, width = tf.unstack(tf.cast(tf.where(bucket == resize.BUCKETS, size, box[2:]), tf.float32))
    return {
        "box": box,
        "bucket": bucket,
        "rows": resize.resize_taps(height, size),
        "columns": resize.resize_taps(width, size),
    }


def crop_box(
    uniform: Uniforms, height: tf.Tensor, width: tf.Tensor, min_area: float, aspect: tf.Tensor | float = 4 / 3
) -> tf.Tensor:
    """Draws the box of a crop, as torchvision's RandomResizedCrop.get_params does.

    It is the first of ten draws that fits into the image, or else the largest central box of an allowed aspect ratio.

    Args:
        uniform: the random numbers of the view.
        height, width: the height and the width of the image, int32.
        min_area: the smallest share of the image's area; the largest is 1.
        aspect: the largest ratio of width to height; the smallest is its inverse.

    Returns:
        int32 [4]: top, left, height and width.
    """
    area = tf.cast(height, tf.float32) * tf.cast(width, tf.float32)
    areas = area * (min_area + (1 - min_area) * uniform.array(10))
    aspects = tf.exp(tf.math.log(aspect) * (2 * uniform.array(10) - 1))
    widths = tf.cast(tf.round(tf.sqrt(areas * aspects)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(areas / aspects)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(tf.cast(fits, tf.int32))
    h, w = tf.gather(heights, first), tf.gather(widths, first)
    top, left = uniform.integer(tf.maximum(height - h, 0) + 1), uniform.integer(tf.maximum(width - w, 0) + 1)
    drawn = tf.stack([top, left, h, w])

    def scaled(side: tf.Tensor, ratio: tf.Tensor | float) -> tf.Tensor:
        return tf.maximum(tf.cast(tf.round(tf.cast(side, tf.float32) * ratio), tf.int32), 1)

    h, w = tf.minimum(height, scaled(width, aspect)), tf.minimum(width, scaled(height, aspect))
    central = tf.stack([(height - h) // 2, (width - w) // 2, h, w])
    return tf.where(tf.reduce_any(fits), drawn, central)
