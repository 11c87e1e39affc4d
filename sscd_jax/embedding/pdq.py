"""PDQ, a perceptual hash, as vectors: the baseline that a learned descriptor has to beat.

Facebook, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm" (2019), by the package `pdqhash`.
The package is optional, because for most versions of Python it is published as source code only.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

BITS = 256
HINT = "pdqhash is not installed: pip install 'sscd_jax[pdq]', which may need a C++ compiler"


def is_installed() -> bool:
    """Returns whether hashes can be computed."""
    return find_spec("pdqhash") is not None


def pdq_vectors(paths: Sequence[Path]) -> np.ndarray:
    """Returns the PDQ hash of each image as a unit vector.

    The inner product of two of them is 1 - 2 d / 256 at a Hamming distance of d bits, so hashes go through the same
    search and the same metrics as descriptors.

    Args:
        paths: N image files.

    Returns:
        float32 [N, 256]; all values are 1/16 or -1/16.

    Raises:
        ImportError: pdqhash is not installed; the error says how to install it.
        ValueError: a file is not an image that Pillow can read; the error names it.
    """
    if not is_installed():
        raise ImportError(HINT, name="pdqhash")
    import pdqhash

    vectors = np.empty((len(paths), BITS), np.float32)
    for vector, path in zip(vectors, tqdm(paths, desc="PDQ"), strict=True):
        try:
            with Image.open(path) as image:
                pixels = np.asarray(image.convert("RGB"))
        except (OSError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path}: {error}; replace or remove the file") from error
        bits, _quality = pdqhash.compute(pixels)
        vector[:] = (bits.astype(np.float32) * 2 - 1) / np.sqrt(BITS)
    return vectors
