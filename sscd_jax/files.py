"""Where files are kept that are made or fetched once."""

import os
from pathlib import Path


def cache_folder(room: str) -> Path:
    """$XDG_CACHE_HOME/sscd_jax/ROOM, or the same below ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sscd_jax" / room
