"""Encoded bytes to the pixels that a network sees at inference, all by Pillow, as the official code does it."""

import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError, features

from sscd_jax.presets import Preset

try:  # the extra heif
    import pillow_heif
except ImportError:
    HEIF = False
else:
    pillow_heif.register_heif_opener()
    HEIF = True

# Those of Pillow's formats that images come in, none that runs a program on the file, as EPS does.
_WANTED = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "MPO", "JPEG2000", "PPM", "AVIF", "HEIF")
Image.init()
FORMATS = tuple(name for name in _WANTED if name in Image.OPEN)

MAX_PIXELS = 89_478_485  # Pillow's guard against decompression bombs
# Pillow refuses at twice its limit and warns at once; `open_image` refuses at MAX_PIXELS, or what it is told.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of metadata, and they name no file


def open_image(data: bytes, *, exif: bool = False, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """An image of any format of Pillow as RGB of 8 bits; the first frame of an animation.

    Alpha is composited on white. Of 16 bits the upper 8 are taken, of CMYK what Pillow makes of it.

    Args:
        data: the encoded image.
        exif: turn it upright as its EXIF orientation says; the official code does not.
        max_pixels: larger images are refused before they are decoded.

    Raises:
        ValueError: the bytes are no image, are cut off, hold too many pixels, or pixels that have no range.
    """
    if not data:
        raise ValueError("the file is empty")
    if not HEIF and data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"hevx", b"mif1", b"msf1"):
        raise ValueError("HEIC needs the extra heif: pip install 'sscd_jax[heif]'")
    if not features.check("avif") and data[4:12] in (b"ftypavif", b"ftypavis"):
        raise ValueError("this Pillow was built without AVIF: take the wheel from PyPI")
    if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = max_pixels
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
        if opened.width * opened.height > max_pixels:
            raise ValueError(f"{opened.width} x {opened.height} are too many pixels: over {max_pixels}")
        inverted = (
            opened.format == "TIFF" and opened.mode.startswith("I") and getattr(opened, "tag_v2", {}).get(262) == 0
        )
        transparent = opened.info.get("transparency")
        if isinstance(transparent, tuple) and "16B" in str(opened.tile):  # of 16 bits, where Pillow gives 8
            opened.info["transparency"] = tuple(value >> 8 for value in transparent)
        return _rgb(ImageOps.exif_transpose(opened) if exif else opened, inverted=inverted)
    except UnidentifiedImageError as error:
        raise ValueError("not an image of a known format") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels: over {max_pixels}") from error
    except Exception as error:  # on hostile bytes Pillow's plugins raise all kinds, SyntaxError and struct.error too
        raise ValueError(str(error) or type(error).__name__) from error


def _rgb(image: Image.Image, *, inverted: bool) -> Image.Image:
    """`inverted`: a TIFF of more than 8 bits whose 0 is white; of 8 bits Pillow knows."""
    if image.mode.startswith("I"):
        deep = np.asarray(image)
        if deep.min() < 0 or deep.max() > 65535:
            raise ValueError("pixels of 32 bits: they have no range that could be scaled to 8 bits")
        if inverted:
            deep = 65535 - deep
        if isinstance(transparent := image.info.get("transparency"), int):
            deep = np.where(deep == transparent, 65535, deep)
        return Image.fromarray((deep >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels: they have no range that could be scaled to 8 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode == "RGB":
        image.load()
        return image
    return image.convert("RGB")


def apply_preset(image: Image.Image, preset: Preset) -> Image.Image:
    """An RGB image resized, and cropped where the preset says so: the pixels that torchvision gives.

    Raises:
        ValueError: the preset keeps the aspect, and it is beyond 1:32.
    """
    resized = image.resize(preset.resized(*image.size), Image.Resampling.BILINEAR)
    if preset.mode == "crop":
        left, top = (round((side - preset.size) / 2) for side in resized.size)
        resized = resized.crop((left, top, left + preset.size, top + preset.size))
    return resized
