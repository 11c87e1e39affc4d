"""PDQ, a perceptual hash, as vectors: the baseline that a learned descriptor has to beat.

Facebook, "The TMK+PDQF video-hashing algorithm and the PDQ image-hashing algorithm" (2019), computed by the package
`pdqhash`.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

BITS = 256


def pdq_vectors(paths: Sequence[Path]) -> np.ndarray:
    """Returns the PDQ hash of each image as a unit vector.

    The inner product of two such vectors is 1 - 2 d / 256 for a Hamming distance of d bits, so hashes go through the
    same search and the same metrics as descriptors.

    Args:
        paths: N files.

    Returns:
        float32 [N, 256], each number 1/16 or -1/16.

    Raises:
        ValueError: a file is not an image that Pillow can read; names it.
        ImportError: `pdqhash` is not installed.
    """
    try:
        import pdqhash
    except ImportError as error:
        raise ImportError("PDQ hashes need the package pdqhash: pip install pdqhash") from error
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
