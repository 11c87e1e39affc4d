"""Which image of a group is kept: all images in order of preference."""

from collections.abc import Sequence

import numpy as np

from sscd_jax.duplicates.image_files import Seen
from sscd_jax.duplicates.options import KEEP

_LATEST = np.iinfo(np.int64).max


def preferred(keep: str, ids: Sequence[str], seen: Sequence[Seen | None]) -> np.ndarray:
    """Returns the rows of all images in order of preference, int64 [N].

    Args:
        keep: "largest" prefers more pixels, then more bytes, then the id that sorts first; "first" the order of the
            source; "oldest" the file that was changed longest ago, then as "largest". Anything else is the beginning of
            an id or of a path: such images come first, and within both parts the order is that of "largest".
        ids: the ids of the images.
        seen: what is known of each image.

    Raises:
        ValueError: no id and no path begins with `keep`.
    """
    if keep == "first":
        return np.arange(len(ids))
    if not keep:
        raise ValueError(f"keep is empty: give {', '.join(KEEP)}, or the beginning of an id or a path")
    area = np.array([(one.width or 0) * (one.height or 0) if one else 0 for one in seen], np.int64)
    size = np.array([(one.bytes or 0) if one else 0 for one in seen], np.int64)
    name = np.argsort(np.argsort(np.array(ids, object), kind="stable"), kind="stable") if len(ids) else np.arange(0)
    # A link comes after files: what it leads to may not be a file of the source, which can be moved or kept.
    is_link = np.array([bool(one and one.link) for one in seen], bool)
    keys = [name, -size, -area, is_link]
    if keep == "oldest":
        known = (one.time if one and (one.time or one.file) else _LATEST for one in seen)
        keys.append(np.fromiter(known, np.int64, len(ids)))
    elif keep != "largest":
        paths = (file.path if file else "" for file in seen)
        named = (one.startswith(keep) or path.startswith(keep) for one, path in zip(ids, paths, strict=True))
        begins = np.fromiter(named, bool, len(ids))
        if not begins.any():
            raise ValueError(
                f"keep is {keep!r}, and no id and no path begins like this; give {', '.join(KEEP)}, or such a beginning"
            )
        keys.append(~begins)
    return np.lexsort(keys)
