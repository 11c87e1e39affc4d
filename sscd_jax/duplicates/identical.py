"""Images with the same bytes, and images with the same pixels in different files."""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import ImageOps, ImageSequence
from tqdm import tqdm

from sscd_jax.data.images import open_header
from sscd_jax.data.pixel_budget import PixelBudget
from sscd_jax.duplicates.groups import Groups

_EQUAL = 1e-5  # of similarities to one image: the same pixels in batches of other sizes differ by 2e-6 at most


def numbered(keys: Sequence[object]) -> np.ndarray:
    """Returns equal numbers for equal keys, int64 [N]: the index of the first one."""
    first: dict[object, int] = {}
    return np.fromiter((first.setdefault(key, index) for index, key in enumerate(keys)), np.int64, len(keys))


def same_pixels(grouped: Groups, rows: np.ndarray, load: Callable[[int], bytes]) -> np.ndarray:
    """Finds images with the same pixels.

    The network maps the same pixels to the same descriptor, up to rounding. So only images whose descriptors are as
    similar as that to the same kept image are decoded, and their pixels are compared by a hash. Images that differ in
    what the network does not see, such as a second frame, have other pixels.

    Args:
        grouped: groups of descriptors at any threshold.
        rows: int64 [M], the rows of the descriptors.
        load: a function from the position of an image in `rows` to its encoded bytes.

    Returns:
        int64 [M], equal numbers for images with equal pixels.
    """
    kept, similarity = grouped.kept[rows], grouped.similarity[rows]
    order = np.lexsort((similarity, kept))
    near = (np.diff(kept[order]) == 0) & (np.diff(similarity[order]) <= _EQUAL)
    candidates = order[np.concatenate([near, [False]]) | np.concatenate([[False], near])] if len(rows) else order
    number = np.arange(len(rows))
    if not len(candidates):
        return number
    shown = {"desc": "compare pixels", "unit": "image", "dynamic_ncols": True, "delay": 1, "leave": False}
    budget = PixelBudget()
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda index: _hash(load, index, budget), candidates.tolist())
        hashes = list(tqdm(found, total=len(candidates), **shown))
    number[candidates] = candidates[numbered(hashes)]
    return number


def _hash(load: Callable[[int], bytes], index: int, budget: PixelBudget) -> object:
    """Returns what identifies the pixels of an image, or a key of its own if it cannot be read now.

    These are the pixels that people see, of which the network sees less: all frames, with their alpha and their 16
    bits, turned as the EXIF orientation says.
    """
    digest, sizes = hashlib.sha256(), []
    try:
        opened = open_header(load(index))
        with budget.take(opened.width * opened.height):
            for frame in ImageSequence.Iterator(opened):
                image = ImageOps.exif_transpose(frame)
                image = image if image.mode.startswith(("I", "F")) else image.convert("RGBA")
                digest.update(image.mode.encode() + image.tobytes())
                sizes.append(image.size)
    except Exception:  # Pillow's plugins raise many types on damaged frames
        return index
    return tuple(sizes), digest.digest()
