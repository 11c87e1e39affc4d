"""Where files are kept that are made or fetched once."""

import os
from pathlib import Path


def cache_folder(room: str) -> Path:
    """$XDG_CACHE_HOME/sscd_jax/ROOM, or the same below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sscd_jax" / room


def write_whole(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
