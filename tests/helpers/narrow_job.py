"""Runs jobs with a narrow network, reads the tables that they write, and kills them in the middle of writing."""

import csv
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.small_collection import MODEL, PRESET, make_variables
from sscd_jax.data.image_source import Source
from sscd_jax.duplicates.options import Options
from sscd_jax.embedding.collection import write_descriptors

OPTIONS = Options(0.9995, "similarity")  # the narrow network finds all photographs alike
VARIABLES = make_variables()


class Embedder:
    """Embeds what it is given, and notes how many images each call embedded."""

    def __init__(self, **options: Any) -> None:
        self.embedded: list[int] = []
        self.options = {"batch_size": 8, "shard_size": 12, "retry": True, "prune": True} | options

    def __call__(self, source: Source, folder: Path) -> dict[str, Any]:
        found = write_descriptors(MODEL, VARIABLES, source, PRESET, folder, **self.options)
        self.embedded.append(found["embedded"])
        return found


def table(path: Path) -> list[dict[str, str]]:
    """Reads a CSV file."""
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file))


class Killed(BaseException):
    """As if the process were gone."""


def killed_runs(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch, call: str) -> Iterator[None]:
    """Calls a function again and again, each time killed at a later place, until it comes to its end.

    Args:
        run: the function.
        monkeypatch: the fixture.
        call: "replace", to die at a rename, or "open", to die before a file is opened for writing.

    Yields:
        After each time that it was killed.
    """
    original, number = os.replace if call == "replace" else Path.open, 0
    while True:
        left = number

        def dying(*arguments, **options):
            nonlocal left
            if call == "replace" or any("w" in str(mode) or "a" in str(mode) for mode in arguments[1:2]):
                left -= 1
                if left < 0:
                    raise Killed
            return original(*arguments, **options)

        with monkeypatch.context() as patch:
            patch.setattr(os if call == "replace" else Path, call, dying)
            try:
                run()
            except Killed:
                yield
            else:
                assert number > 5
                return
        number += 1 if number < 4 else 3
