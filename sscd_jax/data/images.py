"""Decodes images and resizes them for inference, with Pillow as in the official code."""

import contextlib
import functools
import io
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from sscd_jax.presets import Preset

HEIF = find_spec("pillow_heif") is not None  # the extra heif
MAX_PIXELS = 89_478_485  # Pillow's guard against decompression bombs
_BAND_PIXELS = 1 << 20
# Pillow allocates images in blocks of at most this size. glibc gives blocks of over 32 MiB back to the system at once,
# and keeps smaller ones for the thread that had them.
_BLOCK_BYTES = 64 << 20
# Formats that photographs come in. EPS and others that Pillow decodes by another program are left out.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "JPEG2000", "PPM", "AVIF", "HEIF")


@functools.cache
def formats() -> tuple[str, ...]:
    """Returns the names of the formats that are read, as Pillow has them.

    The first call prepares Pillow: it loads all of its plugins, registers HEIC where the extra heif is installed, makes
    it give the memory of large images back, and silences its warnings, which name no file: `open_image` reports what is
    wrong with an image. Warning filters that a user has set take precedence.
    """
    Image.init()
    Image.core.set_block_size(_BLOCK_BYTES)
    if HEIF:
        import pillow_heif

        pillow_heif.register_heif_opener()
    # Pillow warns above its limit and refuses at twice that, where `open_image` refuses at `max_pixels`.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning, append=True)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.", append=True)  # about metadata
    return tuple(name for name in _WANTED if name in Image.OPEN)


def open_image(data: bytes, *, exif: bool = False, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes an image of any format that Pillow reads.

    Transparent images are composited on white. 16-bit channels are reduced to their upper 8 bits. CMYK is converted as
    Pillow does it, without color profiles. An animation gives its first frame.

    Args:
        data: the encoded image.
        exif: whether to turn the image upright as its EXIF orientation says. The official code does not.
        max_pixels: images with more pixels than this are refused before they are decoded.

    Returns:
        The image in mode RGB, 8 bits a channel.

    Raises:
        ValueError: the bytes are not an image, are truncated, have more than `max_pixels` pixels, or have 32-bit or
            floating-point pixels, whose range is not known.
    """
    return to_rgb(open_header(data, max_pixels=max_pixels), exif=exif)


def open_header(data: bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Reads the header of an image, which `to_rgb` decodes. Its attributes `width` and `height` are known.

    Raises:
        ValueError: as `open_image`, as far as the header shows it.
    """
    if not data:
        raise ValueError("the file is empty")
    if not HEIF and data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"):
        raise ValueError("HEIC needs the extra heif: pip install 'sscd_jax[heif]'")
    if not features.check("avif") and data[4:12] in (b"ftypavif", b"ftypavis"):
        raise ValueError("this Pillow was built without AVIF: install the wheel from PyPI")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    with _value_errors():
        try:
            opened = Image.open(io.BytesIO(data), formats=formats())
        except Image.DecompressionBombError as error:
            raise ValueError(f"too many pixels: over {max_pixels}") from error
    if opened.width * opened.height > max_pixels:
        raise ValueError(f"{opened.width} x {opened.height} are too many pixels: over {max_pixels}")
    return opened


def to_rgb(opened: Image.Image, *, exif: bool = False) -> Image.Image:
    """Decodes an image that `open_header` has opened, as `open_image` does.

    Raises:
        ValueError: as `open_image`.
    """
    with _value_errors():
        inverted = (
            opened.format == "TIFF" and opened.mode.startswith("I") and getattr(opened, "tag_v2", {}).get(262) == 0
        )
        transparent = opened.info.get("transparency")
        if isinstance(transparent, tuple) and "16B" in str(
            getattr(opened, "tile", "")
        ):  # it has 16 bits, and Pillow decodes to 8
            opened.info["transparency"] = tuple(value >> 8 for value in transparent)
        return _rgb(ImageOps.exif_transpose(opened) if exif else opened, inverted=inverted)


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
    """Turns what Pillow raises into a ValueError that says what is wrong with the image."""
    try:
        yield
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a known format") from error
    except MemoryError as error:
        raise ValueError("it does not fit into memory") from error
    except Exception as error:  # Pillow's plugins raise many types on damaged bytes, such as SyntaxError
        raise ValueError(str(error) or type(error).__name__) from error


def _rgb(image: Image.Image, *, inverted: bool) -> Image.Image:
    """Converts to RGB on white, band by band: several copies of a large image may not fit into memory.

    `inverted` says that 0 is white, which Pillow ignores in a TIFF of over 8 bits.
    """
    image.load()
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    rows = max(_BAND_PIXELS // image.width, 1)
    if image.height <= rows:
        return _rgb_band(image, inverted=inverted)
    converted = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        converted.paste(_rgb_band(band, inverted=inverted), (0, top))
    return converted


def _rgb_band(image: Image.Image, *, inverted: bool) -> Image.Image:
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("32-bit pixels have no known range that could be scaled to 8 bits")
        if inverted:
            deep = 65535 - deep
        if isinstance(transparent := image.info.get("transparency"), int):
            deep = np.where(deep == transparent, 65535, deep)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels have no known range that could be scaled to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def apply_preset(image: Image.Image, preset: Preset) -> Image.Image:
    """Resizes an RGB image, and crops its center if the preset says so. The pixels equal torchvision's.

    Raises:
        ValueError: the preset keeps the aspect ratio, and that of the image is beyond 1:32.
    """
    resized = image.resize(preset.resized(*image.size), Image.Resampling.BILINEAR)
    if preset.mode == "crop":
        left, top = (round((side - preset.size) / 2) for side in resized.size)
        resized = resized.crop((left, top, left + preset.size, top + preset.size))
    return resized
