"""Draws a contact sheet of what training sees: each row is an image followed by its views, with captions below."""

import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
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
from sscd_jax.data.contact_sheet import draw_sheet, fit_on_square
from sscd_jax.data.decode_tf import decode
from sscd_jax.data.image_source import Source
from sscd_jax.data.names import printable
from sscd_jax.data.sources import open_sample, open_source
from sscd_jax.data.train_pipeline import why_unreadable
from sscd_jax.files import atomic_file, check_file

CAPTIONS = ".captions.json"  # the extension of the file beside a sheet
_AFTER = {
    "swap": "channels swapped",
    "drop": "channel dropped",
    "pixelate": "pixelated",
    "noise": "noise",
    "erase": "erased",
}


def write_preview(config: Config, out: Path, *, rows: int = 8, pairs: int = 2) -> list[list[list[str]]]:
    """Writes a sheet with the views that training would see.

    Only mixing differs from training: views are mixed with others of the sheet, not with those of their mixing group.

    Args:
        config: the configuration of a training run.
        out: the sheet, a .png or .jpg file in an existing folder.
        rows: the number of images, which are taken evenly over the source.
        pairs: the number of epochs, each with two views of every image.

    Returns:
        The captions: for each row and each view, what was applied in order.

    Raises:
        ValueError: `rows` or `pairs` is not positive, `out` is not the name of an image, or the source has no readable
            image.
        ImportError: the augmentation needs the extra augly, which is not installed.
    """
    for option, value in (("--rows", rows), ("--pairs", pairs)):
        if value < 1:
            raise ValueError(f"{option} is {value}; it must be at least 1")
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise ValueError(f"--out {out}: its extension must be .png or .jpg")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder: name a file in it")
    if not out.parent.is_dir():
        raise ValueError(f"--out {out}: the folder {out.parent} does not exist")
    check_file(out, partial(_check_sheet, out.with_suffix(CAPTIONS)))
    with atomic_file(out) as temporary:  # so that a place where nothing can be written is said at once
        data = config.data
        source = open_source(data.source, split=data.split, data_dir=data.data_dir) if data.source else open_sample()
        if RECIPES[config.data.augmentation].advanced:
            load_atlas()
        originals, make_views = _readable(source, rows), _view_maker(config, source)
        columns = [_epoch(config, originals, make_views, epoch) for epoch in range(pairs)]
        sheet = [
            [fit_on_square(image), *(pixels[row + view * len(originals)] for pixels, _ in columns for view in range(2))]
            for row, image in enumerate(map(Image.fromarray, originals.values()))
        ]
        names = [source.ids[index] for index in originals]
        captions = [
            [drawn[row + view * len(originals)] for _, drawn in columns for view in range(2)]
            for row in range(len(originals))
        ]
        all_captions = [[[name], *row] for name, row in zip(names, captions, strict=True)]
        draw_sheet(sheet, all_captions).save(temporary, "PNG" if out.suffix.lower() == ".png" else "JPEG", quality=85)
    return captions


def _check_sheet(captions: Path, _: Path) -> None:
    """Raises ValueError if an image has no captions beside it, so that it is no sheet."""
    if not captions.is_file():
        raise ValueError(f"there is no {captions}")


def _readable(source: Source, count: int) -> dict[int, np.ndarray]:
    """Decodes images evenly over the source, with the next readable image in place of one that cannot be read."""
    found: dict[int, np.ndarray] = {}
    for number in range(min(count, len(source))):
        for index in range(max([number * len(source) // count, *(i + 1 for i in found)]), len(source)):
            try:
                found[index] = decode(source.read(tf.constant(index, tf.int64))).numpy()
                break
            except tf.errors.OpError:
                print(f"{printable(source.paths[index])} is left out: {why_unreadable(source, index)}", file=sys.stderr)
    if not found:
        raise ValueError(f"no image of {source.name} can be read")
    return found


def _view_maker(config: Config, source: Source) -> Callable[[np.ndarray, int, int], Any]:
    """Returns a function from an image, its index and an epoch to the views of training and what was drawn for them."""
    data, heavy = config.data, RECIPES[config.data.augmentation].heavy
    image_spec = tf.TensorSpec([None, None, 3], tf.uint8)

    @tf.function(autograph=False, input_signature=[image_spec, tf.TensorSpec([2], tf.int64), *[image_spec] * 2 * heavy])
    def make(image: tf.Tensor, seed: tf.Tensor, *others: tf.Tensor) -> Any:
        options: dict[str, Any] = {"size": data.image_size, "augmentation": data.augmentation}
        return views(image, seed, min_crop_area=data.min_crop_area, others=others, **options)

    def pasted_image(index: int) -> tf.Tensor:
        with contextlib.suppress(tf.errors.OpError):
            if index >= 0:
                return decode(source.read(tf.constant(index)))
        return tf.zeros([0, 0, 3], tf.uint8)

    def make_views(image: np.ndarray, index: int, epoch: int) -> Any:
        number = config.seed + epoch * 2**32
        others = draw_other(tf.constant([number, -1 - index], tf.int64), len(source)).numpy() if heavy else ()
        return make(tf.constant(image), tf.constant([number, index], tf.int64), *map(pasted_image, others))

    return make_views


def _epoch(
    config: Config, originals: dict[int, np.ndarray], make_views: Callable[[np.ndarray, int, int], Any], epoch: int
) -> tuple[np.ndarray, list[list[str]]]:
    """Returns the views of an epoch, first views before second views, and their captions."""
    made = [make_views(image, index, epoch) for index, image in originals.items()]
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
    """Describes what was applied to a view, in order.

    Args:
        view: what `draw_views` drew, as numpy arrays.
        shape: height and width of the image.
    """
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
