"""Decoding gives Pillow's pixels."""

import contextlib
import io

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sscd_jax.data.decode_tf import decode
from sscd_jax.data.images import MAX_PIXELS, open_image
from sscd_jax.data.sample import photograph_paths

PHOTOGRAPH = Image.open(photograph_paths()["china"]).convert("RGB").resize((160, 120))


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def see_through() -> Image.Image:
    image = PHOTOGRAPH.convert("RGBA")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def transparent_palette() -> bytes:
    image = PHOTOGRAPH.quantize(16)
    return encoded(image, "PNG", transparency=0)


SIXTEEN_BIT = Image.fromarray(np.asarray(PHOTOGRAPH.convert("L")).astype(np.uint16) * 257)
OPAQUE = {
    "jpeg": encoded(PHOTOGRAPH, "JPEG", quality=80),
    "jpeg progressive": encoded(PHOTOGRAPH, "JPEG", progressive=True),
    "jpeg 4:4:4": encoded(PHOTOGRAPH, "JPEG", subsampling=0),
    "jpeg gray": encoded(PHOTOGRAPH.convert("L"), "JPEG"),
    "png": encoded(PHOTOGRAPH, "PNG"),
    "png gray": encoded(PHOTOGRAPH.convert("L"), "PNG"),
    "png palette": encoded(PHOTOGRAPH.quantize(64), "PNG"),
    "png 1 bit": encoded(PHOTOGRAPH.convert("1"), "PNG"),
    "webp": encoded(PHOTOGRAPH, "WEBP"),
    "bmp": encoded(PHOTOGRAPH, "BMP"),
    "bmp palette": encoded(PHOTOGRAPH.quantize(64), "BMP"),
    "gif": encoded(PHOTOGRAPH.quantize(64), "GIF"),
    "1x1": encoded(PHOTOGRAPH.crop((0, 0, 1, 1)), "PNG"),
    "1x500": encoded(PHOTOGRAPH.resize((1, 500)), "PNG"),
}
ALPHA = {
    "png": encoded(see_through(), "PNG"),
    "png palette": transparent_palette(),
    "png gray": encoded(see_through().convert("LA"), "PNG"),
    "webp": encoded(see_through(), "WEBP", lossless=True),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_formats(name):
    expected = np.asarray(Image.open(io.BytesIO(OPAQUE[name])).convert("RGB"))
    np.testing.assert_array_equal(decode(tf.constant(OPAQUE[name])), expected)


def test_cmyk_jpeg():
    data = encoded(PHOTOGRAPH.convert("CMYK"), "JPEG", quality=95)
    difference = decode(tf.constant(data)).numpy().astype(int) - np.asarray(PHOTOGRAPH)
    assert np.abs(difference).mean() < 4


def test_sixteen_bit_png():
    np.testing.assert_array_equal(decode(tf.constant(encoded(SIXTEEN_BIT, "PNG")))[..., 0], PHOTOGRAPH.convert("L"))


@pytest.mark.parametrize("name", ALPHA)
def test_alpha_is_composited_on_white(name):
    rgba = Image.open(io.BytesIO(ALPHA[name])).convert("RGBA")
    expected = np.asarray(Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB"))
    assert np.abs(decode(tf.constant(ALPHA[name])).numpy().astype(int) - expected).max() <= 1


def test_first_frame_of_an_animation():
    frames = [PHOTOGRAPH.quantize(64), PHOTOGRAPH.rotate(180).quantize(64)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(tf.constant(data)), frames[0].convert("RGB"))


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "bmp", "gif"])
@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d[:10], lambda d: b"x" + d, lambda d: b""])
def test_damaged_images_are_errors(name, damage):
    with pytest.raises(tf.errors.OpError):
        decode(tf.constant(damage(OPAQUE[name])))


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize(("mode", "fmt"), [("L", "JPEG"), ("L", "PNG"), ("1", "PNG")])
def test_too_many_pixels_are_an_error(mode, fmt):
    assert MAX_PIXELS < 10_000**2
    bomb = encoded(Image.new(mode, (10_000, 10_000)), fmt)
    with pytest.raises(tf.errors.OpError, match="too many pixels"):
        decode(tf.constant(bomb))


def declaring(size: int) -> bytes:
    """A JPEG whose header declares these sides."""
    data = bytearray(OPAQUE["jpeg"])
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = 2 * size.to_bytes(2, "big")
    return bytes(data)


@pytest.mark.filterwarnings("ignore:Image size")
@pytest.mark.parametrize("size", [10_000, 60_000])
def test_pillow_and_tensorflow_refuse_the_same_sizes(size):
    with pytest.raises(ValueError, match="pixels"):
        open_image(declaring(size))
    with pytest.raises(tf.errors.OpError, match="too many pixels"):
        decode(tf.constant(declaring(size)))


@pytest.mark.filterwarnings("ignore")
@given(st.sampled_from(sorted(OPAQUE)), st.integers(0), st.binary(min_size=1, max_size=8))
@settings(max_examples=300)
def test_damage_of_any_kind_is_a_value_error(name, where, damage):
    data = bytearray(OPAQUE[name])
    where %= min(len(data), 400)  # mostly in the headers
    data[where : where + len(damage)] = damage
    with contextlib.suppress(ValueError):
        assert open_image(bytes(data)).mode == "RGB"
