"""Turns images and their descriptors into a collection, in which each different content has one descriptor."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from sscd_jax.data.image_source import Source
from sscd_jax.data.storage import DamagedError
from sscd_jax.descriptors import Descriptors, check_same_provenance
from sscd_jax.duplicates import background
from sscd_jax.duplicates.background_cache import measured
from sscd_jax.duplicates.find import Collection
from sscd_jax.duplicates.identical import numbered, same_pixels
from sscd_jax.duplicates.image_files import Seen
from sscd_jax.duplicates.options import ScoreKind
from sscd_jax.duplicates.scores import Scores
from sscd_jax.search.calibration import Calibration
from sscd_jax.search.knn import knn
from sscd_jax.string_list import Lookup, StringList


def contents_of(source: Source, seen: Sequence[Seen | None]) -> Source:
    """Returns one image for each different content, as a source whose ids are the SHA-256 of the bytes, in their order.

    Descriptors are kept by these ids, so that files that are moved, renamed or copied are not embedded again.

    Args:
        source: all images.
        seen: what is known of each. Images that were not read are left out.
    """
    first: dict[str, int] = {}
    for index, file in enumerate(seen):
        if file:
            first.setdefault(file.sha256, index)
    ids = StringList(sorted(first))
    chosen = [first[one] for one in ids]

    def record(at: int) -> bytes:
        data = source.load(chosen[at])
        if hashlib.sha256(data).hexdigest() != ids[at]:
            raise DamagedError("it has changed since it was hashed; rerun the command")
        return data

    return Source("sscd-jax dedup", ids, StringList(source.paths[index] for index in chosen), record)


def embedded(contents: Source, folder: Path, embed: Callable[[Source, Path], object]) -> Descriptors | None:
    """Embeds what has no descriptor yet, and returns the descriptors; None if there are no contents.

    Args:
        contents: what `contents_of` returned.
        folder: the folder of the descriptors.
        embed: writes the descriptors of a source to a folder, as `write_descriptors` with a network and a preset does.

    Raises:
        ValueError: the folder has descriptors of other weights or of another preset; the error says what to do.
    """
    if not len(contents):
        return None
    try:
        embed(contents, folder)
    except ValueError as error:
        hint = "name another folder for the descriptors"
        if hint not in str(error):
            raise
        raise ValueError(str(error).replace(hint, f"name another --out, or remove {folder}")) from error
    return Descriptors.read(folder)


def collect(
    source: Source,
    seen: Sequence[Seen | None],
    order: np.ndarray,
    descriptors: Descriptors | None,
    score: ScoreKind = "background",
    *,
    outside: Descriptors | None = None,
    calibration: Calibration | None = None,
) -> Collection:
    """Returns the images as a collection.

    Args:
        source: the images.
        seen: what is known of each.
        order: int64 [N], the images in order of preference.
        descriptors: the descriptors of `contents_of`; None if no image could be read.
        score: what a score is.
        outside: descriptors of unrelated images, of which the background is taken; by default, the collection's own.
        calibration: a transform and a background that were fitted on images, which take the place of both.

    Raises:
        ValueError: `outside` or `calibration` have other weights or another preset.
    """
    vectors = descriptors.vectors if descriptors else np.empty((0, 1), np.float32)
    found = Lookup(descriptors.ids if descriptors else []).find([file.sha256 if file else "" for file in seen])
    # What cannot be read is left out, also where two such files are equal.
    content = numbered([file.sha256 if file and found[index] >= 0 else index for index, file in enumerate(seen)])
    images = order[found[order] >= 0]
    images = images[np.sort(np.unique(found[images], return_index=True)[1])]  # the most preferred one of each content
    rows = found[images]
    own = None
    if score == "background" and outside is None and calibration is None:
        grouped, own = measured(vectors, rows)
    else:
        grouped = background.first_pass(vectors, rows)
    same = same_pixels(grouped, rows, lambda at: source.load(int(images[at])))
    pixels_of = np.arange(len(source))
    pixels_of[content[images]] = content[images][same]
    scores = Scores.plain(vectors)
    if calibration is not None and descriptors is not None:
        scores = _calibrated(descriptors, calibration)
    elif outside is not None and descriptors is not None:
        check_same_provenance(images=descriptors, background=outside)
        scores = Scores(vectors, background.of_others(vectors, outside.vectors))
    elif own is not None:
        scores = Scores(vectors, own)
    return Collection(scores, found, content, pixels_of[content], order)


def _calibrated(descriptors: Descriptors, calibration: Calibration) -> Scores:
    """Returns scores whose background is that of a calibration, taken from both images alike instead of one alone."""
    mine = Descriptors([], np.empty((0, descriptors.vectors.shape[1]), np.float32), calibration.provenance)
    check_same_provenance(calibration=mine, images=descriptors)
    vectors = calibration.transform(descriptors.vectors)
    if (norm := calibration.norm) is None:
        return Scores.plain(vectors)
    nearest, _ = knn(vectors, calibration.background, norm.last + 1, "inner_product")
    return Scores(vectors, norm.weight * nearest[:, norm.first :].mean(1, dtype=np.float64))
