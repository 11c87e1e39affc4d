"""Edits of an image, as people make them who pass a copy on, in three strengths. Pillow and numpy only.

They make the queries of evaluations and share no code with the training augmentations
(`sscd_jax/data/augment/views.py`), so that the descriptor is measured on edits made by another hand.

Every edit takes an RGB image, a `numpy.random.Generator` and a strength (some take other images
as well), leaves its arguments as they are, and gives a new RGB image that depends on nothing else.
Images may have any size from 1x1; an edit makes the area at most about four times as large.
Lengths are relative to the image, so an edit is as strong on a small image as on a large one.
The weaker strengths are such that anyone sees at once whose copy it is.
"""

from collections.abc import Callable, Sequence

from PIL import Image

from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits.color import brightness, color, contrast, gray, hue, invert_channel, saturation
from sscd_jax.datasets.edits.common import Rng
from sscd_jax.datasets.edits.frame import caption, collage, pad, paste_onto, screenshot
from sscd_jax.datasets.edits.geometry import crop, flip, perspective, rotate, stretch
from sscd_jax.datasets.edits.overlay import overlay, stickers, text
from sscd_jax.datasets.edits.quality import blur, jpeg, noise, pixelate

Edit = Callable[[Image.Image, Rng, Strength, Sequence[Image.Image]], Image.Image]


def _alone(function: Callable[[Image.Image, Rng, Strength], Image.Image]) -> Edit:
    """As an edit that is offered other images and takes none."""
    return lambda image, rng, strength, others: function(image, rng, strength)


# Each is called as (image, rng, strength, others), where `others` are images to draw from.
KINDS: dict[str, Edit] = {
    "crop": _alone(crop),
    "rotate": _alone(rotate),
    "flip": _alone(flip),
    "stretch": _alone(stretch),
    "perspective": _alone(perspective),
    "JPEG": _alone(jpeg),
    "blur": _alone(blur),
    "noise": _alone(noise),
    "pixelate": _alone(pixelate),
    "brightness": _alone(brightness),
    "contrast": _alone(contrast),
    "saturation": _alone(saturation),
    "hue": _alone(hue),
    "gray": _alone(gray),
    "invert channel": _alone(invert_channel),
    "color": _alone(color),
    "text": _alone(text),
    "stickers": _alone(stickers),
    "overlay": overlay,
    "paste onto": paste_onto,
    "caption": _alone(caption),
    "pad": _alone(pad),
    "collage": collage,
    "screenshot": _alone(screenshot),
}
# Those that use the others; the rest work without any.
WITH_OTHERS = ("overlay", "paste onto", "collage")
# Of these, in this order, the demo draws: another order or number would change its image set.
DEMO_KINDS = ("crop", "rotate", "flip", "JPEG", "blur", "color", "text", "paste onto", "overlay")
# `color` is any of the six color edits, which count here one by one.
BENCHMARK_KINDS = tuple(name for name in KINDS if name != "color")

# What frames an image comes last, in this order: a crop or a blur afterwards would hit the frame,
# which is most of the area, and might leave little of the image.
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
    """Applies `count` edits of different kinds, each kind as likely, in random order, frames last.

    Args:
      image: an RGB image; not changed.
      rng: the only source of randomness: the same state gives the same result.
      others: RGB images to set beside, under and over `image`; they must copy nothing that is
        searched for. May be empty where no kind is in WITH_OTHERS.
      count: how many edits, 1 to len(kinds).
      kinds: keys of KINDS, each once.
      strength: of every edit; each says what it means.

    Returns:
      The edited RGB image and the names of the edits as applied.
    """
    names = [str(name) for name in rng.choice(list(kinds), count, replace=False)]
    names.sort(key=lambda name: _FRAMES.index(name) if name in _FRAMES else -1)
    for name in names:
        image = KINDS[name](image, rng, strength, others)
    return image, names
