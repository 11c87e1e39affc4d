"""Images of every format, and damage to files that is the same each time."""

import io

import numpy as np
import pytest
from PIL import Image

from helpers.extras import needs_heif
from sscd_jax.data.images import HEIF, formats
from sscd_jax.data.sample import photograph_paths

assert ("HEIF" in formats()) == HEIF  # which registers it, also for saving
PHOTOGRAPH = Image.open(photograph_paths()["china"]).convert("RGB").resize((160, 120))


def encoded(image: Image.Image, fmt: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


MUTABLE = {
    "jpeg": encoded(PHOTOGRAPH, "JPEG"),
    "progressive jpeg": encoded(PHOTOGRAPH, "JPEG", progressive=True),
    "cmyk jpeg": encoded(PHOTOGRAPH.convert("CMYK"), "JPEG"),
    "png": encoded(PHOTOGRAPH.resize((80, 60)), "PNG"),
    "palette png": encoded(PHOTOGRAPH.quantize(16), "PNG", transparency=0),
    "gif": encoded(PHOTOGRAPH.resize((80, 60)), "GIF", save_all=True, append_images=[PHOTOGRAPH.resize((80, 60))]),
    "webp": encoded(PHOTOGRAPH, "WEBP"),
    "bmp": encoded(PHOTOGRAPH.resize((40, 30)), "BMP"),
    "tiff": encoded(PHOTOGRAPH.resize((80, 60)), "TIFF", compression="tiff_lzw"),
    "avif": encoded(PHOTOGRAPH, "AVIF"),
} | ({"heif": encoded(PHOTOGRAPH, "HEIF")} if HEIF else {})
KINDS = [*(name for name in MUTABLE if name != "heif"), pytest.param("heif", marks=needs_heif)]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, cut off, cut out, doubled or put in; mostly near the beginning, where the headers are."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(min(rng.exponential(len(out) / 4), len(out) - 1))
        length = int(rng.integers(1, 32))
        kind = rng.integers(5)
        if kind == 0:
            out[at : at + length] = rng.bytes(length)
        elif kind == 1:
            out[at] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            del out[max(at, 8) :]
        elif kind == 3:
            del out[at : at + length]
        else:
            out[at:at] = out[at : at + length]
    return bytes(out)
