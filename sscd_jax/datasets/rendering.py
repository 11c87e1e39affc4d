"""The images of `benchmark_make`, made by processes of their own, which import neither JAX nor TensorFlow.

Whatever is drawn for an image comes from the seed and the image's name alone, so it does not matter which process
makes it, in what order, or whether another one began.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from sscd_jax.data.image_source import read_file
from sscd_jax.data.images import open_image
from sscd_jax.datasets.annotations import Strength
from sscd_jax.datasets.edits import WITH_OTHERS, edit

FOLDERS = {"T": "training", "R": "references", "Q": "queries"}  # of images, by the first letter of their names

_QUALITIES = (85, 96)  # of JPEG


@dataclass(frozen=True)
class Job:
    """What is made of one image.

    Attributes:
        path: its file.
        plain: name, as R00001, of the image itself; "" where only queries are made of it.
        queries: numbers and strengths of those that are edits of it.
    """

    path: str
    plain: str
    queries: tuple[tuple[int, Strength], ...] = ()


@dataclass(frozen=True)
class Maker:
    """What the processes share: options, the folder, and the files of the images that are held back."""

    folder: Path
    held_back: Sequence[str]
    seed: int
    edits: tuple[int, int]
    kinds: tuple[str, ...]
    max_side: int
    max_pixels: int

    def make(self, job: Job) -> dict[str, list[str]]:
        """Writes the images, and returns the edits of each by its name."""
        image = self._open(job.path)
        edits: dict[str, list[str]] = {}
        if job.plain:
            self._save(image, job.plain, self._rng(job.plain))
            edits[job.plain] = []
        for number, strength in job.queries:
            name = f"Q{number:05d}"
            rng = self._rng(name)
            count = int(rng.integers(self.edits[0], self.edits[1] + 1))
            offered = self._others(job.path, rng) if {*self.kinds} & {*WITH_OTHERS} else []
            edited, edits[name] = edit(image, rng, offered, count, kinds=self.kinds, strength=strength)
            self._save(_reduced(edited, self.max_side), name, rng)
        return edits

    def path(self, name: str) -> Path:
        """Of an image, as R00001."""
        return self.folder / FOLDERS[name[0]] / f"{name}.jpg"

    def _others(self, path: str, rng: np.random.Generator) -> Sequence[Image.Image]:
        """Up to three of those that are held back, none of them that of `path`."""
        drawn = rng.choice(len(self.held_back), min(4, len(self.held_back)), replace=False)
        return _Opened(self._open, [self.held_back[i] for i in drawn if self.held_back[i] != path][:3])

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, ord(name[0]), int(name[1:])])

    def _open(self, path: str) -> Image.Image:
        try:
            image = open_image(read_file(path), exif=True, max_pixels=self.max_pixels)
        except ValueError as error:
            raise OSError(f"{path} could be read before, and now cannot: {error}") from error
        image.info = {}  # a comment of the original would be written again
        return _reduced(image, self.max_side)

    def _save(self, image: Image.Image, name: str, rng: np.random.Generator) -> None:
        path = self.path(name)
        unfinished = path.with_suffix(".unfinished")
        image.save(unfinished, "JPEG", quality=int(rng.integers(*_QUALITIES)))
        unfinished.replace(path)


class _Opened(Sequence[Image.Image]):
    """Images that are opened where an edit takes them: most take none."""

    def __init__(self, opener: Callable[[str], Image.Image], paths: Sequence[str]) -> None:
        self.opener, self.paths = opener, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return self.opener(self.paths[index])


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """With sides of at most `side` pixels; never enlarged."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Resampling.LANCZOS)
