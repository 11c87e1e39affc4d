"""Renders the images of a benchmark, in processes that import neither JAX nor TensorFlow.

What is drawn for an image depends only on the seed and on the name of the image. It does not matter which process
renders it, or in which order.
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
from sscd_jax.files import atomic_file

FOLDERS = {"T": "training", "R": "references", "Q": "queries"}  # by the first letter of an image's name
_QUALITIES = (85, 96)  # of JPEG, the upper bound excluded


@dataclass(frozen=True)
class Job:
    """What is rendered from one image.

    Attributes:
        path: the file of the image.
        plain: the name of the image itself, such as R00001, or "" if only queries are rendered.
        queries: the number and the strength of each query that is an edit of the image.
    """

    path: str
    plain: str
    queries: tuple[tuple[int, Strength], ...] = ()


@dataclass(frozen=True)
class Renderer:
    """Renders images with the options of a benchmark.

    Attributes:
        folder: the folder of the benchmark.
        held_back: the files of images that are in no other part, which edits may use.
        seed: the random seed.
        edits: the smallest and the largest number of edits of a query.
        kinds: the kinds of edits, keys of `edits.KINDS`.
        max_side: the longest side of an image in pixels.
        max_pixels: images with more pixels than this are not read.
    """

    folder: Path
    held_back: Sequence[str]
    seed: int
    edits: tuple[int, int]
    kinds: tuple[str, ...]
    max_side: int
    max_pixels: int

    def render(self, job: Job) -> dict[str, list[str]]:
        """Writes the images of a job, and returns the edits of each image by its name."""
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
        """Returns the path of an image with a name such as R00001."""
        return self.folder / FOLDERS[name[0]] / f"{name}.jpg"

    def _others(self, path: str, rng: np.random.Generator) -> Sequence[Image.Image]:
        """Draws up to three of the images that are held back, other than that of `path`."""
        drawn = rng.choice(len(self.held_back), min(4, len(self.held_back)), replace=False)
        return _Opened(self._open, [self.held_back[i] for i in drawn if self.held_back[i] != path][:3])

    def _rng(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self.seed, ord(name[0]), int(name[1:])])

    def _open(self, path: str) -> Image.Image:
        try:
            image = open_image(read_file(path), exif=True, max_pixels=self.max_pixels)
        except ValueError as error:
            raise OSError(f"{path} could be read before and now cannot: {error}") from error
        image.info = {}  # Pillow would write a comment of the original again
        return _reduced(image, self.max_side)

    def _save(self, image: Image.Image, name: str, rng: np.random.Generator) -> None:
        with atomic_file(self.path(name)) as temporary:
            image.save(temporary, "JPEG", quality=int(rng.integers(*_QUALITIES)))


class _Opened(Sequence[Image.Image]):
    """Images that are opened when an edit uses them, as most edits use none."""

    def __init__(self, opener: Callable[[str], Image.Image], paths: Sequence[str]) -> None:
        self.opener, self.paths = opener, paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: Any) -> Any:
        return self.opener(self.paths[index])


def _reduced(image: Image.Image, side: int) -> Image.Image:
    """Returns the image with sides of at most `side` pixels. It is never enlarged."""
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), Resampling.LANCZOS)
