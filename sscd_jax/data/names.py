"""Names of images: their ids, and how names are written where people and other programs read them."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np

IdRule = Literal["stem", "path"]

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2"),
    *(".heic", ".heif", ".avif", ".heics", ".heifs", ".hif", ".avifs", ".apng", ".mpo", ".dib"),
    *(".j2c", ".j2k", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".pnm", ".ppm"),
)
ARCHIVES = (".tar", ".parquet")

# Control characters, line breaks, marks of the direction of text, and the bytes of a name that are not valid Unicode.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_LIKE_AN_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4})")
_ESCAPED = re.compile(rf"{_UNSAFE.pattern}|\\")


def printable(text: str) -> str:
    r"""Returns a text as one line that is harmless on a terminal, in a text file and on a page.

    Most names stay as they are. Control characters, line breaks, marks that change the direction of text, and bytes
    that are not valid Unicode become \xNN or \uNNNN, as in Python. Backslashes are doubled in names that have such
    characters, or that could be mistaken for a name that has. So different names stay different, and Python's rules of
    escapes lead back from an escaped name to the original one.

    Examples:
        >>> printable("a/1\n2\x1b[31m"), printable("rue de l'Église"), printable("C:\\photos")
        ('a/1\\x0a2\\x1b[31m', "rue de l'Église", 'C:\\photos')
    """
    if not _UNSAFE.search(text) and not _LIKE_AN_ESCAPE.search(text):
        return text
    return _ESCAPED.sub(lambda found: _escape(found[0]), text)


def _escape(character: str) -> str:
    if character == "\\":
        return r"\\"
    return f"\\x{ord(character):02x}" if ord(character) < 256 else f"\\u{ord(character):04x}"


def stem(name: str) -> str:
    """Returns the name of a file without the extension, if that is one of an image or an archive."""
    root, extension = os.path.splitext(name)
    return root if extension.lower() in IMAGE_EXTENSIONS + ARCHIVES else name


def unique_ids(stems: Sequence[str], names: Sequence[str], rule: IdRule = "stem") -> list[str]:
    """Returns the ids of images: by the rule "stem" their stems, by the rule "path" their names, made printable.

    By the rule "stem", images with the same stem keep their extensions, all of them: IMG_1.jpg and IMG_1.heic have the
    ids "IMG_1.jpg" and "IMG_1.heic", and an image IMG_1 beside them has the id "IMG_1.". None of them is "IMG_1", so
    that this id never passes from one of them to another one when a collection grows: an image that was embedded as
    IMG_1 counts as gone when it gets a sibling, both are embedded as new images, and no vector gets another image's id.

    Args:
        stems: the names of the images without their extensions.
        names: the names of the images. Two ids can only be equal if two of these are.
        rule: "stem" or "path".
    """
    if rule == "path":
        return [printable(name) for name in names]
    ids = [printable(one) for one in stems]
    hashes = np.fromiter(map(hash, ids), np.int64, len(ids))  # small beside the ids, of which there may be millions
    values, counts = np.unique(hashes, return_counts=True)
    alike = np.flatnonzero(np.isin(hashes, values[counts > 1])).tolist()
    count = Counter(ids[k] for k in alike)
    changed = {k for k in alike if count[ids[k]] > 1}
    new = changed
    while new:  # an extension that was kept may make an id the stem of another image, as that of IMG_1.jpg.png
        for k in new:
            ids[k] = printable(names[k] if names[k] != stems[k] else f"{names[k]}.")
        taken = {ids[k] for k in new}
        hits = np.flatnonzero(np.isin(hashes, np.fromiter(map(hash, taken), np.int64, len(taken)))).tolist()
        new = {k for k in hits if ids[k] in taken} - changed
        changed = changed | new
    return ids
