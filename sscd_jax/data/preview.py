"""A contact sheet of what training sees: a row for each image, the original and its views, captions below."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from sscd_jax.config import Config
from sscd_jax.data.augment.glyph_atlas import load_atlas
from sscd_jax.data.augment.heavy import draw_other
from sscd_jax.data.augment.mixup import mix, mixed_ids
from sscd_jax.data.augment.views import RECIPES, views
from sscd_jax.data.contact_sheet import draw_sheet, fitted
from sscd_jax.data.decode_tf import decode
from sscd_jax.data.image_source import Source
from sscd_jax.data.sources import open_source
from sscd_jax.data.train_pipeline import why_unreadable

_AFTER = {
    "swap": "channels swapped",
    "drop": "channel dropped",
    "pixelate": "pixelated",
    "noise": "noise",
    "erase": "erased",
}


def write_preview(config: Config, out: Path, *, rows: int = 8, pairs: int = 2) -> list[list[list[str]]]:
    """Writes the sheet: the views of the first `pairs` epochs of `rows` images, evenly over the source.

    They are the views of training; only mixing is among those of the sheet, in place of those of a mixing group.

    Returns:
        The captions: of each row, for each view, what was applied.

    Raises:
        ValueError: there are no rows or pairs, `out` is no name of an image, or the source has no readable image.
        ImportError: the augmentation needs the extra augly, which is not installed.
    """
    for option, value in (("--rows", rows), ("--pairs", pairs)):
        if value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--out {out}: its name must end in .png or .jpg")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file in it")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: there is no folder {out.parent}")
    source = open_source(config.data.source or "sample", split=config.data.split, data_dir=config.data.data_dir)
    if RECIPES[config.data.augmentation].advanced:
        load_atlas()
    originals, make = _readable(source, rows), _maker(config, source)
    columns = [_epoch(config, originals, make, epoch) for epoch in range(pairs)]
    sheet = [
        [fitted(image), *(pixels[row + view * len(originals)] for pixels, _ in columns for view in range(2))]
        for row, image in enumerate(map(Image.fromarray, originals.values()))
    ]
    names = [source.ids[index] for index in originals]
    captions = [
        [drawn[row + view * len(originals)] for _, drawn in columns for view in range(2)]
        for row in range(len(originals))
    ]
    drawn = [[[name], *row] for name, row in zip(names, captions, strict=True)]
    unfinished = out.with_name(f"{out.stem}.unfinished{out.suffix}")
    draw_sheet(sheet, drawn).save(unfinished, quality=85)
    unfinished.replace(out)
    return captions


def _readable(source: Source, count: int) -> dict[int, np.ndarray]:
    """Images evenly over the source; of those that cannot be read, the next ones."""
    found: dict[int, np.ndarray] = {}
    for number in range(min(count, len(source))):
        for index in range(max([number * len(source) // count, *(i + 1 for i in found)]), len(source)):
            try:
                found[index] = decode(source.read(tf.constant(index, tf.int64))).numpy()
                break
            except tf.errors.OpError:
                print(f"{source.paths[index]} is left out: {why_unreadable(source, index)}", file=sys.stderr)
    if not found:
        raise ValueError(f"no image of {source.name} can be read")
    return found


def _maker(config: Config, source: Source) -> Callable[[np.ndarray, int, int], Any]:
    """A function from an image, its index and the epoch to its views and what was drawn for them, as in training."""
    data, heavy = config.data, RECIPES[config.data.augmentation].heavy
    image_spec = tf.TensorSpec([None, None, 3], tf.uint8)

    @tf.function(autograph=False, input_signature=[image_spec, tf.TensorSpec([2], tf.int64), *[image_spec] * 2 * heavy])
    def make(image: tf.Tensor, seed: tf.Tensor, *others: tf.Tensor) -> Any:
        options: dict[str, Any] = {"size": data.image_size, "augmentation": data.augmentation}
        return views(image, seed, min_crop_area=data.min_crop_area, others=others, **options)

    def pasted(index: int) -> tf.Tensor:
        with contextlib.suppress(tf.errors.OpError):
            if index >= 0:
                return decode(source.read(tf.constant(index)))
        return tf.zeros([0, 0, 3], tf.uint8)

    def made(image: np.ndarray, index: int, epoch: int) -> Any:
        number = config.seed + epoch * 2**32
        others = draw_other(tf.constant([number, -1 - index], tf.int64), len(source)).numpy() if heavy else ()
        return make(tf.constant(image), tf.constant([number, index], tf.int64), *map(pasted, others))

    return made


def _epoch(
    config: Config, originals: dict[int, np.ndarray], make: Callable[[np.ndarray, int, int], Any], epoch: int
) -> tuple[np.ndarray, list[list[str]]]:
    """The views of an epoch, first views before second views, and their captions."""
    made = [make(image, index, epoch) for index, image in originals.items()]
    pixels = tf.concat([tf.stack([pair[i] for pair, _ in made]) for i in range(2)], 0)
    drawn = [tf.nest.map_structure(lambda value: value.numpy(), pair[i]) for i in range(2) for _, pair in made]
    captions = [describe(view, image.shape) for view, image in zip(drawn, [*originals.values()] * 2, strict=True)]
    if config.data.mixup:
        kept, share, box = (np.stack([view["mixing"][name] for view in drawn]) for name in ("kept", "share", "box"))
        pixels = mix(pixels, tf.constant(share), tf.constant(box), len(originals))
        rows = mixed_ids(tf.range(2 * len(originals)), tf.constant(kept), len(originals)).numpy() % len(originals)
        for caption, part, (own, other) in zip(captions, share, rows, strict=True):
            if own != other:
                caption.append(f"{'mixup' if part < 1 else 'cutmix'} with row {other + 1}")
    return pixels.numpy(), captions


def describe(view: dict[str, Any], shape: Sequence[int]) -> list[str]:
    """What was applied to a view, in order, from the numbers drawn for an image of this height and width."""
    height, width = shape[:2]
    done = ["mirrored"] if view["flip"] else []
    if _applied(view, "quarters"):
        done.append(f"turned by {90 * view['quarters']['count']}°")
    if _applied(view, "paste"):
        done.append(f"{'over' if view['paste']['under'] else 'under'} another, opacity {view['paste']['opacity']:.0%}")
    if _applied(view, "text"):
        names, text = load_atlas().font_names, view["text"]
        name = names[int(text["font"] * len(names))]
        done.append(f"text in {name}, {text['size']:.0%} high, opacity {text['opacity']:.0%}")
    if _applied(view, "emoji"):
        names, emoji = load_atlas().emoji_names, view["emoji"]
        done.append(f"emoji {names[int(emoji['which'] * len(names))]}, {emoji['size']:.0%}")
    done += [name for name in ("frame", "perspective") if _applied(view, name)]
    if _applied(view, "rotation"):
        done.append(f"rotated by {view['rotation']['degrees']:.0f}°")
    done.append(f"crop of {view['box'][2] * view['box'][3] / (height * width):.0%}")
    if view["jitter"]:
        brightness, contrast, saturation = view["factors"]
        parts = [
            f"brightness {brightness:.1f}",
            f"contrast {contrast:.1f}",
            f"saturation {saturation:.1f}",
            f"hue {view['hue']:+.2f}",
        ]
        done += [parts[i] for i in view["order"]]
    if view["gray"]:
        done.append("gray")
    if view["blur"]:
        done.append(f"blur of {view['radius']:.1f} px")
    done += [_AFTER[name] for name in _AFTER if _applied(view, name)]
    if _applied(view, "jpeg"):
        done.append(f"JPEG quality {view['jpeg']['quality']}")
    return done


def _applied(view: dict[str, Any], name: str) -> bool:
    return name in view and bool(view[name]["applied"])
