"""The images that could not be read, in errors.jsonl."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sscd_jax.data.image_source import Source
from sscd_jax.duplicates.image_files import Seen
from sscd_jax.files import write_text

FILE = "errors.jsonl"


def unreadable(
    source: Source, seen: Sequence[Seen | None], unread: Mapping[int, str], descriptors: Path
) -> list[dict[str, Any]]:
    """Returns the images that have no descriptor, and why: their `id`, `path` and `reason`.

    Args:
        source: the images.
        seen, unread: what `look_at` returned for them.
        descriptors: the folder of the descriptors of `collect.contents_of`.
    """
    why = {str(error.get("id")): error["reason"] for error in read_errors(descriptors / FILE)}
    found = []
    for index, one in enumerate(seen):
        reason = unread.get(index, "it could not be read") if one is None else why.get(one.sha256)
        if reason is not None:
            found.append({"id": source.ids[index], "path": source.paths[index], "reason": reason})
    return found


def read_errors(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a file of errors; none if there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def write_errors(folder: Path, errors: Sequence[Mapping[str, Any]]) -> None:
    """Writes errors.jsonl, or removes it if there are no errors."""
    if errors:
        write_text(folder / FILE, "".join(json.dumps(error) + "\n" for error in errors))
    else:
        (folder / FILE).unlink(missing_ok=True)
