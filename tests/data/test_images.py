"""Images of every format, depth and color, upright or not; a reason for each that cannot be read."""

import io
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
import pytest
from helpers.extras import needs_heif
from helpers.mutations import KINDS, MUTABLE, PHOTOGRAPH, encoded, mutated
from PIL import Image

from sscd_jax.data import images
from sscd_jax.data.images import apply_preset, open_image
from sscd_jax.presets import PRESETS

GRAY = np.asarray(PHOTOGRAPH.convert("L"))


def difference(data: bytes, expected: Image.Image) -> float:
    image = open_image(data)
    assert (image.mode, image.size) == ("RGB", expected.size)
    return float(np.abs(np.asarray(image).astype(int) - np.asarray(expected)).mean())


@pytest.mark.parametrize(
    ("fmt", "options", "bound"),
    [
        ("PNG", {}, 0),
        ("BMP", {}, 0),
        ("TIFF", {}, 0),
        ("TIFF", {"compression": "tiff_lzw"}, 0),
        ("TIFF", {"compression": "jpeg"}, 4),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 95}, 4),
        ("AVIF", {"quality": 90}, 4),
        pytest.param("HEIF", {"quality": 90}, 4, marks=needs_heif),
        ("GIF", {}, 12),
    ],
)
def test_formats(fmt, options, bound):
    assert difference(encoded(PHOTOGRAPH, fmt, **options), PHOTOGRAPH) <= bound


@pytest.mark.parametrize("fmt", ["JPEG", "TIFF"])
def test_cmyk(fmt):
    assert difference(encoded(PHOTOGRAPH.convert("CMYK"), fmt), PHOTOGRAPH) < 4


@pytest.mark.parametrize("fmt", ["PNG", "TIFF"])
def test_sixteen_bits(fmt):
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    assert difference(encoded(deep, fmt), Image.fromarray(GRAY).convert("RGB")) == 0


def test_sixteen_bits_whose_zero_is_white():
    data = encoded(Image.fromarray(65535 - GRAY.astype(np.uint16) * 257), "TIFF")
    photometric, inverted = (struct.pack("<HHIHH", 262, 3, 1, value, 0) for value in (1, 0))
    assert data.count(photometric) == 1
    assert difference(data.replace(photometric, inverted), Image.fromarray(GRAY).convert("RGB")) == 0


def test_transparent_color_of_sixteen_bits():
    white = Image.fromarray(np.where(GRAY == 7, 255, GRAY).astype(np.uint8)).convert("RGB")
    assert (GRAY == 7).any()
    deep = Image.fromarray(GRAY.astype(np.uint16) * 257)
    assert difference(encoded(deep, "PNG", transparency=7 * 257), white) == 0

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.repeat((GRAY.astype(">u2") * 257)[..., None], 3, axis=2)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)
    height, width = GRAY.shape
    parts = [
        chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        chunk(b"tRNS", struct.pack(">HHH", *[7 * 257] * 3)),
        chunk(b"IDAT", zlib.compress(lines)),
        chunk(b"IEND", b""),
    ]
    assert difference(b"\x89PNG\r\n\x1a\n" + b"".join(parts), white) == 0


@pytest.mark.parametrize(("dtype", "reason"), [(np.int32, "32-bit"), (np.float32, "floating-point")])
def test_pixels_without_a_range_are_refused(dtype, reason):
    with pytest.raises(ValueError, match=reason):
        open_image(encoded(Image.fromarray(GRAY.astype(dtype) * 1000), "TIFF"))


@pytest.mark.parametrize("fmt", ["PNG", "WEBP", "TIFF", "AVIF"])
def test_alpha_is_composited_on_white(fmt):
    see_through = PHOTOGRAPH.convert("RGBA")
    see_through.putalpha(Image.linear_gradient("L").resize(PHOTOGRAPH.size))
    white = Image.new("RGBA", PHOTOGRAPH.size, "white")
    expected = Image.alpha_composite(white, see_through).convert("RGB")
    options = {"lossless": True} if fmt == "WEBP" else {"quality": 95} if fmt == "AVIF" else {}
    assert difference(encoded(see_through, fmt, **options), expected) <= (4 if fmt == "AVIF" else 0)


@pytest.mark.parametrize("fmt", ["GIF", "WEBP", "PNG", "TIFF", "AVIF"])
def test_first_frame(fmt):
    other = PHOTOGRAPH.rotate(180)
    data = encoded(PHOTOGRAPH, fmt, save_all=True, append_images=[other])
    assert Image.open(io.BytesIO(data)).n_frames == 2
    assert difference(data, PHOTOGRAPH) < 12 < difference(data, other)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_a_switch(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(PHOTOGRAPH, "PNG", exif=exif)
    np.testing.assert_array_equal(open_image(data), PHOTOGRAPH)
    # What each orientation says of the stored image (EXIF 2.32, tag 274), as operations on its rows and columns.
    stored = np.asarray(PHOTOGRAPH)
    upright = [
        stored,
        stored[:, ::-1],
        stored[::-1, ::-1],
        stored[::-1],
        stored.swapaxes(0, 1),
        np.rot90(stored, -1),
        stored.swapaxes(0, 1)[::-1, ::-1],
        np.rot90(stored),
    ]
    np.testing.assert_array_equal(open_image(data, exif=True), upright[orientation - 1])


def test_reasons():
    jpeg = encoded(PHOTOGRAPH, "JPEG")
    for data, reason in [
        (b"", "the file is empty"),
        (b"text", "not an image of a known format"),
        (jpeg[:400], "Truncated"),
        (jpeg[:-200], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
    ]:
        with pytest.raises(ValueError, match=reason):
            open_image(data)


@pytest.mark.parametrize("fmt", ["PNG", "TIFF", "WEBP", "GIF"])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_large_images_are_converted_band_by_band_to_the_same_pixels(fmt, mode, monkeypatch):
    image = Image.fromarray(GRAY.astype(np.uint16) * 257) if mode == "I;16" else PHOTOGRAPH.convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    try:
        data = encoded(image, fmt, **({"transparency": 3} if mode == "P" and fmt in ("PNG", "GIF") else {}))
    except (OSError, ValueError):
        pytest.skip(f"Pillow writes no {fmt} of mode {mode}")
    expected = np.asarray(open_image(data))
    monkeypatch.setattr(images, "_BAND_PIXELS", 7 * PHOTOGRAPH.width)
    np.testing.assert_array_equal(open_image(data), expected)


@pytest.mark.slow
def test_pixel_limit():
    with pytest.raises(ValueError, match="160 x 120 are too many pixels: over 19199"):
        open_image(encoded(PHOTOGRAPH, "PNG"), max_pixels=19199)
    assert open_image(encoded(PHOTOGRAPH, "PNG"), max_pixels=19200).size == PHOTOGRAPH.size
    bomb = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    with pytest.raises(ValueError, match="too many pixels: over 89478485"):
        open_image(bomb)
    assert open_image(bomb, max_pixels=200_000_000).size == (20_000, 10_000)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", KINDS)
def test_mutated_files_are_images_or_have_a_reason(name):
    """400 of each kind; that it does not end the process is half of the test."""
    rng = np.random.default_rng(list(name.encode()))
    read, reasons = 0, set()
    for _ in range(400):
        try:
            image = open_image(mutated(MUTABLE[name], rng), exif=True, max_pixels=2**20)
        except ValueError as error:
            reasons.add(str(error))
        else:
            assert image.mode == "RGB"
            assert apply_preset(image, PRESETS["skew_320"]).size == (320, 320)
            read += 1
    assert read
    assert reasons
    assert "" not in reasons


def test_importing_changes_nothing_and_opening_prints_nothing():
    """Neither the state of Pillow nor the filters of warnings change at import; Pillow's warnings do not show."""
    code = """
import io, os, warnings
import numpy  # which adds filters of its own
from PIL import Image
before = dict(os.environ), [*warnings.filters], {**Image.OPEN}, Image.MAX_IMAGE_PIXELS
import sscd_jax.data.images, sscd_jax.data.inference_pipeline, sscd_jax.data.sources, sscd_jax.datasets.rendering
assert (dict(os.environ), [*warnings.filters], {**Image.OPEN}, Image.MAX_IMAGE_PIXELS) == before
from sscd_jax.data.images import open_image
file = io.BytesIO()
Image.new("1", (10_000, 10_000)).save(file, "PNG")
for data in (file.getvalue(), PNG):
    try:
        open_image(data)
    except ValueError as error:
        print(error)
assert Image.MAX_IMAGE_PIXELS == before[-1]
"""
    png, chunk = encoded(PHOTOGRAPH, "PNG"), b"acTL" + bytes(8)  # an animation of no frames
    animation = png[:33] + struct.pack(">I", 8) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[33:]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        Image.open(io.BytesIO(animation)).load()
    assert warned, "Pillow warns of it"
    run = subprocess.run([sys.executable, "-c", f"PNG = {animation!r}\n{code}"], capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert "10000 x 10000 are too many pixels" in run.stdout


def test_heic_without_its_extra_says_which(monkeypatch):
    data = encoded(PHOTOGRAPH, "HEIF") if images.HEIF else b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"
    monkeypatch.setattr(images, "HEIF", False)
    with pytest.raises(ValueError, match=r"HEIC needs the extra heif: pip install 'sscd_jax\[heif\]'"):
        open_image(data)
