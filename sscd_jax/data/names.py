"""Names of images: their ids, and how names are written where people and other programs read them."""

import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sscd_jax.string_list import StringList

IdRule = Literal["stem", "path"]

IMAGE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".jp2"),
    *(".heic", ".heif", ".avif", ".heics", ".heifs", ".hif", ".avifs", ".apng", ".mpo", ".dib"),
    *(".j2c", ".j2k", ".jpc", ".jpf", ".jpx", ".pbm", ".pgm", ".pnm", ".ppm"),
)
ARCHIVES = (".tar", ".parquet")
_DROPPED = frozenset(IMAGE_EXTENSIONS + ARCHIVES)

# Control characters, line breaks, marks of the direction of text, and the bytes of a name that are not valid Unicode.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_LIKE_AN_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|u[0-9a-f]{4})")


def printable(text: str) -> str:
    r"""Returns a text as one line that is harmless on a terminal, in a chart and on a page, for messages.

    Control characters, line breaks, marks that change the direction of text, and bytes that are not valid Unicode
    become \xNN or \uNNNN, as in Python. All other characters stay.

    Examples:
        >>> printable("a/1\n2\x1b[31m")
        'a/1\\x0a2\\x1b[31m'
    """
    return _UNSAFE.sub(_code, text)


def printable_lines(text: str) -> str:
    """Does the same as `printable` for each line of a text."""
    return "\n".join(map(printable, text.split("\n")))


def escape(name: str) -> str:
    r"""Returns a name as `printable` does, so that different names stay different, for ids.

    Backslashes are doubled in names that `printable` changes, and in those that could be mistaken for such a name. So
    Python's rules of escapes lead back to the original name from an id with an escape, and other names are their ids.

    Examples:
        >>> escape("a\n"), escape(r"a\x0a"), escape(r"C:\photos")
        ('a\\x0a', 'a\\\\x0a', 'C:\\photos')
    """
    if name.isprintable() and "\\" not in name:  # nearly all names, of which there may be millions
        return name
    if not _UNSAFE.search(name) and not _LIKE_AN_ESCAPE.search(name):
        return name
    return printable(name.replace("\\", r"\\"))


def _code(found: re.Match[str]) -> str:
    number = ord(found[0])
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


def stem(name: str) -> str:
    """Returns the name of a file without the extension, if that is one of an image or an archive."""
    root, extension = os.path.splitext(name)
    return root if extension.lower() in _DROPPED else name


def unique_ids(stems: Sequence[str], names: Sequence[str], rule: IdRule = "stem") -> "StringList":
    """Returns the ids of images: by the rule "stem" their stems, by the rule "path" their names, each escaped.

    By the rule "stem", images with the same stem keep their extensions, all of them: IMG_1.jpg and IMG_1.heic have the
    ids "IMG_1.jpg" and "IMG_1.heic", and an image IMG_1 beside them has the id "IMG_1.". None of them is "IMG_1", so
    that this id never passes from one of them to another one when a collection grows: an image that was embedded as
    IMG_1 counts as gone when it gets a sibling, both are embedded as new images, and no vector gets another image's id.

    Args:
        stems: the names of the images without their extensions.
        names: the names of the images. Two ids can only be equal if two of these are.
        rule: "stem" or "path".
    """
    import numpy as np  # not before: `sscd-jax --help` imports this module

    from sscd_jax.string_list import StringList, hashes_of, repeated

    if rule == "path":
        return StringList(map(escape, names))
    ids = StringList(map(escape, stems))
    if not (new := set(repeated(ids))):
        return ids
    hashes = hashes_of(ids)
    changed: dict[int, str] = {}
    while new:  # an extension that was kept may make an id the stem of another image, as that of IMG_1.jpg.png
        changed |= {k: escape(names[k] if names[k] != stems[k] else f"{names[k]}.") for k in new}
        taken = {changed[k] for k in new}
        hits = np.flatnonzero(np.isin(hashes, hashes_of([*taken]))).tolist()
        new = {k for k in hits if k not in changed and ids[k] in taken}
    return StringList(changed.get(k, one) for k, one in enumerate(ids))
