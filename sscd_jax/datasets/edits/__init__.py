"""Edits that people make when they share a copy of an image, in three strengths, with Pillow and numpy only.

They make the queries of evaluations. They share no code with the training augmentations
(`sscd_jax/data/augment/views.py`), so that descriptors are measured on edits that they were not trained on.

Every edit takes an RGB image, a `numpy.random.Generator` and a strength, and some also take other images. It does not
change its arguments, and returns a new RGB image that depends on nothing else. Images may have any size from 1 x 1
pixels. An edit makes the area at most about four times as large. Lengths are relative to the image, so that an edit is
as strong on a small image as on a large one. With the weaker strengths, anyone sees at once which image was copied.
"""

from collections.abc import Callable, Sequence

from PIL import Image

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits import color, frame, geometry, overlay, quality
from sscd_jax.datasets.edits.common import Rng

Edit = Callable[[Image.Image, Rng, Strength, Sequence[Image.Image]], Image.Image]


def _alone(function: Callable[[Image.Image, Rng, Strength], Image.Image]) -> Edit:
    """Returns an edit that ignores the other images."""
    return lambda image, rng, strength, others: function(image, rng, strength)


# All edits by name. Each is called as (image, rng, strength, others), where `others` are images that it may use.
KINDS: dict[str, Edit] = {
    "crop": _alone(geometry.crop),
    "rotate": _alone(geometry.rotate),
    "flip": _alone(geometry.flip),
    "stretch": _alone(geometry.stretch),
    "perspective": _alone(geometry.perspective),
    "JPEG": _alone(quality.jpeg),
    "blur": _alone(quality.blur),
    "noise": _alone(quality.noise),
    "pixelate": _alone(quality.pixelate),
    "brightness": _alone(color.brightness),
    "contrast": _alone(color.contrast),
    "saturation": _alone(color.saturation),
    "hue": _alone(color.hue),
    "gray": _alone(color.gray),
    "invert channel": _alone(color.invert_channel),
    "color": _alone(color.color),
    "text": _alone(overlay.text),
    "stickers": _alone(overlay.stickers),
    "overlay": overlay.overlay,
    "paste onto": frame.paste_onto,
    "caption": _alone(frame.caption),
    "pad": _alone(frame.pad),
    "collage": frame.collage,
    "screenshot": _alone(frame.screenshot),
}
# Edits that use other images.
WITH_OTHERS = ("overlay", "paste onto", "collage")
# The edits of the demo. Another order or number of them would change its image set.
DEMO_KINDS = ("crop", "rotate", "flip", "JPEG", "blur", "color", "text", "paste onto", "overlay")
# All but `color`, which is any of the six color edits.
BENCHMARK_KINDS = tuple(name for name in KINDS if name != "color")

# Edits that add a frame come last, in this order. A crop after them might show mostly the frame.
_FRAMES = ("caption", "pad", "collage", "screenshot")


def edit(
    image: Image.Image,
    rng: Rng,
    others: Sequence[Image.Image],
    count: int,
    *,
    kinds: Sequence[str] = DEMO_KINDS,
    strength: Strength = "strong",
) -> tuple[Image.Image, list[str]]:
    """Applies random edits of different kinds to an image. Every kind is equally likely.

    Args:
        image: an RGB image, which is not changed.
        rng: the source of all randomness; the same state gives the same result.
        others: RGB images that edits may paste beside, under or over `image`. They must be copies of no reference. May
            be empty if no kind is in WITH_OTHERS.
        count: the number of edits, from 1 to len(kinds).
        kinds: the kinds to draw from, keys of KINDS, each once.
        strength: the strength of every edit. The docstring of each edit says what it means.

    Returns:
        The edited RGB image and the names of the edits in the order applied: random, but frames come last.
    """
    names = [str(name) for name in rng.choice(list(kinds), count, replace=False)]
    names.sort(key=lambda name: _FRAMES.index(name) if name in _FRAMES else -1)
    for name in names:
        image = KINDS[name](image, rng, strength, others)
    return image, names
