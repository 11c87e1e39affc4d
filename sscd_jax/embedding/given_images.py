"""Images as Python programs have them: paths, PIL images and arrays, opened as a source."""

import io
import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from sscd_jax.data import storage
from sscd_jax.data.image_source import Source, check_unique_ids, read_file
from sscd_jax.data.names import ARCHIVES, IMAGE_EXTENSIONS, stem, unique_ids
from sscd_jax.data.sources import is_bundled, open_source
from sscd_jax.data.web import is_url

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray

# Pillow's modes that these formats keep exactly; images of other modes become RGB, as files of them do.
PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
TIFF_MODES = ("I", "I;16B", "F")


def open_given(images: ImageLike | Iterable[ImageLike], ids: Sequence[str] | None = None) -> Source:
    """Opens images as a source. Those in memory are encoded without loss when they are read.

    Args:
        images: what `sscd_jax.Model.embed` takes.
        ids: an id for each image; by default as `Model.embed` says.

    Raises:
        ValueError: there are not as many ids as images, or two images have the same id.
    """
    is_one = isinstance(images, str | bytes | bytearray | os.PathLike | Image.Image) or getattr(images, "ndim", 4) != 4
    given: list[Any] = [images] if is_one else list(cast(Iterable[ImageLike], images))
    stems: list[str] = []
    names: list[str] = []
    places: list[str] = []
    readers: list[Callable[[], bytes]] = []
    for position, one in enumerate(given):
        if isinstance(one, str | os.PathLike) and _holds_several(os.fspath(one)):
            opened = open_source(os.fspath(one))
            stems += opened.ids
            names += opened.ids
            places += opened.paths
            readers += [partial(opened.load, index) for index in range(len(opened))]
            continue
        if isinstance(one, str | os.PathLike):
            place = os.fspath(one)
            name = place if storage.in_store(place) else str(Path(place))
            reader = partial(read_file, place)
        else:
            place, name = f"image {position}", str(position)
            reader = partial(_encode, one if isinstance(one, Image.Image) else _from_array(one, place))
        stems.append(stem(name))
        names.append(name)
        places.append(place)
        readers.append(reader)
    if ids is not None and len(ids) != len(names):
        raise ValueError(f"there are {len(ids)} ids for {len(names)} images")
    is_path = len(given) == 1 and isinstance(given[0], str | os.PathLike)
    source_name = os.fspath(given[0]) if is_path else f"{len(names)} images"
    chosen = unique_ids(stems, names) if ids is None else list(ids)
    source = Source(source_name, chosen, places, lambda index: readers[index]())
    try:
        check_unique_ids(source)
    except ValueError as error:
        raise ValueError(f"{error}, or give `ids`") from error
    return source


def _holds_several(path: str) -> bool:
    """Returns whether a path names several images, which `open_source` opens, rather than one image."""
    if is_bundled(path) or path.startswith("tfds:") or os.path.isdir(path):
        return True
    if is_url(path):
        return False
    lower = path.lower()
    return lower.endswith((".txt", *ARCHIVES)) or (
        storage.in_store(path) and not lower.endswith(IMAGE_EXTENSIONS) and storage.is_folder(path)
    )


def _from_array(array: Any, place: str) -> Image.Image:
    if isinstance(array, bytes | bytearray):
        raise ValueError(f"{place} is bytes: open them with Pillow first, PIL.Image.open(io.BytesIO(data))")
    array = np.asarray(array)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        found = f"{array.dtype} {list(array.shape)}"
        raise ValueError(f"{place} is an array of {found}; it must be RGB from 0 to 255, uint8 [H, W, 3]")
    return Image.fromarray(np.ascontiguousarray(array))


def _encode(image: Image.Image) -> bytes:
    file = io.BytesIO()
    exif = image.getexif()
    if image.mode not in (*PNG_MODES, *TIFF_MODES):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in PNG_MODES:
        image.save(file, "PNG", compress_level=0, exif=exif)
    else:
        image.save(file, "TIFF", exif=exif)
    return file.getvalue()
