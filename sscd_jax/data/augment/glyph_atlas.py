"""The letters of AugLy's fonts and its emoji as arrays, which are rendered once and cached.

The font and emoji files are read from the installed package, without running its code. Pillow renders the fonts at one
size, and the augmentations resize the letters from there.
"""

import contextlib
import functools
import sys
import unicodedata
from dataclasses import dataclass, fields
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from sscd_jax.files import atomic_file, cache_folder

FONT_SIZE = 48  # pixels
_ROWS, _BASELINE = 84, 58  # height and baseline of a rendered letter in pixels, with room for accents
_LETTERS = 128  # letters that are rendered of each font, spread evenly over its characters
EMOJI_SIZE = 72  # pixels, as in the wheel
_FORMAT = 2  # version of the cached file


@dataclass(frozen=True)
class Atlas:
    """Letters and emoji.

    Attributes:
        ink: uint8 [columns, rows], the letters of all fonts side by side, transposed, so that a letter is a range of
            the first axis.
        letter_columns: int32 [letters + 1], where each letter begins in `ink`.
        font_letters: int32 [fonts + 1], where the letters of each font begin.
        characters: int32 [letters], the Unicode code points of the letters.
        font_names: str [fonts].
        emoji: uint8 [emoji, EMOJI_SIZE, EMOJI_SIZE, 4], red, green, blue and alpha, not premultiplied.
        emoji_names: str [emoji].
    """

    ink: np.ndarray
    letter_columns: np.ndarray
    font_letters: np.ndarray
    characters: np.ndarray
    font_names: np.ndarray
    emoji: np.ndarray
    emoji_names: np.ndarray


@functools.cache
def load_atlas() -> Atlas:
    """Returns the atlas from the cache, or renders it, which takes some seconds.

    If it cannot be cached, a line on stderr says so.

    Raises:
        ImportError: AugLy or fontTools is not installed; the error names the extra to install.
        ValueError: the installed AugLy has no fonts or no emoji.
    """
    assets = _assets()
    path = cache_folder("overlays") / f"augly-{version('augly')}-{FONT_SIZE}-{_LETTERS}-{_FORMAT}.npz"
    # If the cached file is missing or damaged in any way, the atlas is rendered again.
    with contextlib.suppress(Exception), np.load(path, allow_pickle=False) as arrays:
        return Atlas(**{field.name: arrays[field.name] for field in fields(Atlas)})
    atlas = _render(assets)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **{field.name: getattr(atlas, field.name) for field in fields(Atlas)})
    except OSError as error:
        print(f"fonts and emoji cannot be cached for the next time ({error}): set XDG_CACHE_HOME", file=sys.stderr)
    return atlas


def _assets() -> Path:
    augly = find_spec("augly")
    if augly is None or not augly.submodule_search_locations or find_spec("fontTools") is None:
        raise ImportError("text and emoji need AugLy and fontTools: pip install 'sscd_jax[augly]'")
    return Path(augly.submodule_search_locations[0]) / "assets"


def _render(assets: Path) -> Atlas:
    font_paths = sorted((assets / "fonts").glob("*.ttf"))
    emoji_paths = sorted((assets / "twemojis").glob("*/*.png"))
    if not font_paths or not emoji_paths:
        raise ValueError(f"{assets} has no fonts or no emoji: pip install --force-reinstall 'sscd_jax[augly]'")
    fonts = [
        (path.stem, letters) for path in tqdm(font_paths, desc="rendering fonts, once") if (letters := _letters(path))
    ]
    letters = [letter for _, letters in fonts for letter in letters]
    emoji = np.stack([np.asarray(Image.open(path).convert("RGBA").resize([EMOJI_SIZE] * 2)) for path in emoji_paths])
    return Atlas(
        ink=np.concatenate([ink for _, ink in letters]),
        letter_columns=np.cumsum([0, *(len(ink) for _, ink in letters)]).astype(np.int32),
        font_letters=np.cumsum([0, *(len(letters) for _, letters in fonts)]).astype(np.int32),
        characters=np.array([ord(character) for character, _ in letters], np.int32),
        font_names=np.array([name for name, _ in fonts]),
        emoji=emoji,
        emoji_names=np.array([path.stem for path in emoji_paths]),
    )


def _letters(path: Path) -> list[tuple[str, np.ndarray]]:
    """Renders characters of a font, and returns those that leave ink, each with its uint8 [columns, _ROWS]."""
    font = ImageFont.truetype(str(path), FONT_SIZE, layout_engine=ImageFont.Layout.BASIC)
    characters = [c for c in map(chr, sorted(_character_map(path))) if unicodedata.category(c)[0] not in "CZ"]
    evenly = {round(i) for i in np.linspace(0, len(characters) - 1, _LETTERS)} if characters else set()
    letters = []
    for character in (characters[i] for i in sorted(evenly)):
        try:
            left, _, right, _ = font.getbbox(character, anchor="ls")
            advance = font.getlength(character)
            first, last = min(0, int(left)), max(round(advance), int(right))
            canvas = Image.new("L", (max(last - first, 1), _ROWS))
            ImageDraw.Draw(canvas).text((-first, _BASELINE), character, fill=255, font=font, anchor="ls")
        except OSError:  # FreeType refuses some glyphs
            continue
        if canvas.getbbox():
            letters.append((character, np.asarray(canvas).T))
    return letters


def _character_map(path: Path) -> set[int]:
    from fontTools.ttLib import TTFont

    with TTFont(path, lazy=True) as font:
        return set(font.getBestCmap() or ())
