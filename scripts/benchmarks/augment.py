"""Measures our augmentations and those of the official pipeline on one core, in source images per second.

    pip install -r requirements.txt -e '.[augly]'
    python scripts/benchmarks/augment.py [--out augment.json]

Each source image gives two views of 224 pixels. For the official pipeline, Pillow does what the official code does: its
torchvision transforms are calls of Pillow, and its text and emoji are its own code for Pillow. numpy then normalizes
the views to float32. Our pipeline decodes an image once and gives uint8, or, as a second figure, normalized float32.
Both pipelines take the same JPEGs, the photographs of the sample with long sides of 500, 400 and 350 pixels. They run
in turn, and the best round of each counts.
"""

import argparse
import io
import json
import math
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from sscd_jax.data.augment import views
from sscd_jax.data.augment.glyph_atlas import _assets, _character_map
from sscd_jax.data.decode_tf import decode
from sscd_jax.data.sample import photograph_paths

SIZE = 224
SIDES = (500, 400, 350)
BATCH = 8  # divides the number of files; a batch over 32 MB would be slow to allocate
# Source images per second of the official code itself, measured before on one core of another machine.
OFFICIAL = {"SIMCLR": 76.9, "STRONG_BLUR": 62.7, "ADVANCED": 50.5}
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


def photographs() -> list[bytes]:
    files = []
    for path in photograph_paths().values():
        for side in SIDES:
            image = Image.open(path).convert("RGB")
            image.thumbnail((side, side))
            file = io.BytesIO()
            image.save(file, "JPEG", quality=90)
            files.append(file.getvalue())
    return files


# ---- The official pipeline (transforms/settings.py), by Pillow.


def official_view(image: Image.Image, augmentation: str) -> Image.Image:
    if augmentation == "ADVANCED":
        image = mirrored(image)
        image = maybe(0.05, lambda i: rotated(i, random.choice([90, 180, 270])), image)
        image = maybe(0.1, with_text, image)
        image = maybe(0.2, with_emoji, image)
        image = maybe(0.05, lambda i: rotated(i, random.randint(0, 359)), image)
        image = resized_crop(image)
    else:
        image = mirrored(resized_crop(image))
    image = maybe(0.8, jittered, image)
    image = maybe(0.2, lambda i: Image.merge("RGB", [i.convert("L")] * 3), image)
    low, high = views.RECIPES[augmentation].blur_radius
    image = maybe(0.5, lambda i: i.filter(ImageFilter.GaussianBlur(random.uniform(low, high))), image)
    if augmentation == "ADVANCED":
        image = maybe(0.2, compressed, image)
    return image


def official_normalized(image: Image.Image) -> np.ndarray:
    pixels = np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1)).astype(np.float32) / 255
    return (pixels - MEAN[:, None, None]) / STD[:, None, None]


def maybe(chance: float, transform: Callable[[Image.Image], Image.Image], image: Image.Image) -> Image.Image:
    return transform(image) if random.random() < chance else image


def mirrored(image: Image.Image) -> Image.Image:
    return maybe(0.5, lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image)


def rotated(image: Image.Image, degrees: int) -> Image.Image:
    return image.rotate(degrees, Image.Resampling.BILINEAR)


def resized_crop(image: Image.Image) -> Image.Image:
    area = image.width * image.height
    for _ in range(10):
        aspect = math.exp(random.uniform(math.log(3 / 4), math.log(4 / 3)))
        pixels = area * random.uniform(0.08, 1)
        width, height = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < width <= image.width and 0 < height <= image.height:
            left, top = random.randint(0, image.width - width), random.randint(0, image.height - height)
            break
    else:
        width = min(image.width, round(image.height * 4 / 3))
        height = min(image.height, round(image.width * 4 / 3))
        left, top = (image.width - width) // 2, (image.height - height) // 2
    crop = image.crop((left, top, left + width, top + height))
    return crop.resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def jittered(image: Image.Image) -> Image.Image:
    parts: list[Callable[[Image.Image], Image.Image]] = [
        lambda i: ImageEnhance.Brightness(i).enhance(random.uniform(0.2, 1.8)),
        lambda i: ImageEnhance.Contrast(i).enhance(random.uniform(0.2, 1.8)),
        lambda i: ImageEnhance.Color(i).enhance(random.uniform(0.2, 1.8)),
        lambda i: hue_turned(i, random.uniform(-0.2, 0.2)),
    ]
    random.shuffle(parts)
    for part in parts:
        image = part(image)
    return image


def hue_turned(image: Image.Image, turns: float) -> Image.Image:
    hue, saturation, value = image.convert("HSV").split()
    moved = np.asarray(hue) + np.int32(turns * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(moved), saturation, value)).convert("RGB")


FONTS: list[tuple[bytes, list[int]]] = []
EMOJI: list[Image.Image] = []


def with_text(image: Image.Image) -> Image.Image:
    """Does what transforms/overlay_text.py does: adds letters until they do not fit."""
    data, characters = random.choice(FONTS)
    font = ImageFont.truetype(io.BytesIO(data), int(min(image.size) * random.uniform(0.1, 0.3)))
    text = "".join(map(chr, random.choices(characters, k=100)))
    longest = 0
    for length in range(1, len(text)):
        try:
            _, _, right, bottom = font.getbbox(text[:length])
        except (OSError, RuntimeError):  # a glyph that FreeType or Raqm refuses
            return image
        if right > image.width or bottom > image.height:
            longest = length - 1
            break
    if longest == 0:
        return image
    text = text[: random.randint(1, longest)]
    _, _, right, bottom = font.getbbox(text)
    at = random.random() * (image.width - right), random.random() * (image.height - bottom)
    color = (*(random.randint(0, 255) for _ in range(3)), int(random.uniform(0.1, 1) * 255 + 0.5))
    layer = Image.new("RGBA", image.size, (255, 255, 255, 0))
    ImageDraw.Draw(layer).text(at, text, fill=color, font=font)
    return Image.alpha_composite(image.convert("RGBA"), layer).convert("RGB")


def with_emoji(image: Image.Image) -> Image.Image:
    """Does what transforms/overlay_emoji.py does."""
    emoji = random.choice(EMOJI)
    scale = min(image.width / emoji.width, image.height / emoji.height) * random.uniform(0.1, 0.5)
    emoji = emoji.resize((int(emoji.width * scale), int(emoji.height * scale)), Image.Resampling.BILINEAR)
    at = int(random.random() * (image.width - emoji.width)), int(random.random() * (image.height - emoji.height))
    opacity = random.uniform(0.7, 1)
    if "A" in emoji.getbands():
        mask = Image.fromarray((np.array(emoji.getchannel("A")) * opacity).astype(np.uint8))
    else:
        mask = Image.new("L", emoji.size, int(opacity * 255))
    base = image.convert("RGBA")
    base.paste(emoji, at, mask)
    return base.convert("RGB")


def compressed(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=random.randint(0, 100))
    return Image.open(file).convert("RGB")


def read_overlays() -> None:
    for path in sorted((_assets() / "fonts").glob("*.ttf")):
        if characters := sorted(_character_map(path)):
            FONTS.append((path.read_bytes(), characters))
    for path in sorted((_assets() / "twemojis").glob("*/*.png")):
        emoji = Image.open(path)
        emoji.load()
        EMOJI.append(emoji)


def official(files: list[bytes], augmentation: str) -> None:
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for _ in range(2):
            official_normalized(official_view(image, augmentation))


def official_uint8(files: list[bytes], augmentation: str) -> None:
    for data in files:
        image = Image.open(io.BytesIO(data)).convert("RGB")
        for _ in range(2):
            np.asarray(official_view(image, augmentation))


def pillow_decode(files: list[bytes], _: str) -> None:
    for data in files:
        Image.open(io.BytesIO(data)).convert("RGB")


# ---- Ours, up to a stage.


def ours(files: list[bytes], augmentation: str, stage: str) -> Callable[[list[bytes], str], None]:
    """Returns a function that passes over the files by a pipeline that ends with `stage`."""

    def make(data: tf.Tensor, number: tf.Tensor) -> Any:
        image = decode(data)
        if stage == "decode":
            return tf.shape(image)
        drawn = views.draw_views(image, tf.stack([number, 7]), size=SIZE, augmentation=augmentation)
        if stage == "draw":
            return [view["box"] for view in drawn]
        if stage == "crop and resize":
            return tf.stack([views.crop(image, view) for view in drawn])
        pixels = tf.stack([views.apply(image, view) for view in drawn])
        if stage == "uint8":
            return pixels
        return normalized(pixels)

    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(files)).repeat().enumerate()
    dataset = dataset.map(lambda number, data: make(data, number))
    options = tf.data.Options()
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    options.autotune.enabled = False  # prepares nothing ahead while others are timed
    options.experimental_optimization.apply_default_optimizations = False
    iterator = iter(dataset.batch(BATCH).with_options(options))

    def one_pass(_: list[bytes], __: str) -> None:
        for _batch in range(len(files) // BATCH):
            next(iterator)

    return one_pass


@tf.function(jit_compile=True, input_signature=[tf.TensorSpec([2, SIZE, SIZE, 3], tf.uint8)])
def normalized(pixels: tf.Tensor) -> tf.Tensor:
    return (tf.cast(tf.cast(pixels, tf.int32), tf.float32) / 255 - MEAN) / STD


DECODE = "Pillow's decode"
STAGES = ("decode", "draw", "crop and resize", "uint8", "float32")


def rates(
    functions: dict[str, Callable[..., None]], files: list[bytes], augmentation: str, rounds: int
) -> dict[str, float]:
    """Returns source images per second of the best round of each; they run in turn, after a round that compiles."""
    best = dict.fromkeys(functions, 0.0)
    for number in range(rounds + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function(files, augmentation)
            if number:
                best[name] = max(best[name], len(files) / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--rounds", type=int, default=15, help="passes over the 48 files (default: %(default)s)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # one core, before TensorFlow makes its threads
    read_overlays()
    files, results = photographs(), {}
    for augmentation in OFFICIAL:
        random.seed(0)
        functions: dict[str, Callable[..., None]] = {stage: ours(files, augmentation, stage) for stage in STAGES}
        functions |= {"Pillow, float32": official, "Pillow, uint8": official_uint8, DECODE: pillow_decode}
        found = rates(functions, files, augmentation, arguments.rounds)
        results[augmentation] = found
        times = {stage: 1000 / found[stage] for stage in STAGES}
        print(f"\n{augmentation}: source images a second, two views each")
        print("             official work by Pillow    ours    ratio    ours to the official code's own figure")
        for kind in ("float32", "uint8"):
            pillow = found[f"Pillow, {kind}"]
            ratios = f"{found[kind] / pillow:6.2f}x {found[kind] / OFFICIAL[augmentation]:8.2f}x"
            print(f"  {kind:<8} {pillow:25.1f} {found[kind]:7.1f} {ratios}")
        print(f"  JPEG decode, the floor {found[DECODE]:11.1f} {found['decode']:7.1f}")
        print("  where our milliseconds go, for a source image:")
        before = 0.0
        for stage, name in zip(
            STAGES, ("decode", "draw", "edits, crop, resize", "colors, blur, JPEG", "normalize"), strict=True
        ):
            print(f"    {name:<22} {times[stage] - before:5.2f}")
            before = times[stage]
    if arguments.out:
        arguments.out.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
