"""The Python interface: `sscd_jax.load` loads a network, and `Model.embed` embeds images."""

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np
from tqdm import tqdm

from sscd_jax import distributed, weights
from sscd_jax.data.image_source import ERRORS_SHOWN, Source
from sscd_jax.data.inference_pipeline import Unreadable
from sscd_jax.data.names import printable
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates.collect import contents_of
from sscd_jax.duplicates.image_files import look_at
from sscd_jax.duplicates.matching import BEST, Matches, match
from sscd_jax.duplicates.options import MAX_GROUP, Grouping, Options, ScoreKind
from sscd_jax.duplicates.preference import preferred
from sscd_jax.duplicates.result import Duplicates, find
from sscd_jax.duplicates.sides import Described, described, of_descriptors, preset_of
from sscd_jax.embedding.collection import default_batch_size, made_by
from sscd_jax.embedding.compute import output_dims
from sscd_jax.embedding.embed import embed
from sscd_jax.embedding.given_images import ImageLike, open_given
from sscd_jax.models import SSCD, describe
from sscd_jax.presets import PRESETS, Preset, choose
from sscd_jax.provenance import Provenance
from sscd_jax.sharding import check_divisible, create_local_mesh
from sscd_jax.weights.fetch import ensure


def load(name_or_path: str | os.PathLike[str]) -> "Model":
    """Loads a network with its weights.

    Args:
        name_or_path: the name of published weights, such as "sscd_disc_mixup", which are downloaded at first use with
            a progress bar and then kept in the cache; or a file of weights of any format that
            `sscd-jax weights convert` reads, a training run or one of its checkpoints, or a bundle that
            `sscd-jax weights export` wrote.

    Raises:
        FileNotFoundError: there is no such file, folder or published name.
        ValueError: the file is broken, or is not the weights of an SSCD network; the error names the file.
        OSError: the published weights cannot be downloaded; the error says which other ways there are.
        ImportError: the format needs an extra; the error says which.

    Examples:
        >>> model = sscd_jax.load("sscd_disc_mixup")
        >>> found = model.embed(["a.jpg", "photos/"])
        >>> found.vectors @ found.vectors.T  # the similarity of every pair of images, at most 1
    """
    distributed.start()
    name = os.fspath(name_or_path)
    ensure(name)
    read = weights.read(name)
    preset = choose(None, default=read.preset)
    made = made_by(read.model, read.variables, preset, name)
    details = {**made.details, "source": "", "weights": {"name": name, "format": read.format, **read.origin}}
    return Model(read.model, read.variables, Provenance(made.weights, made.preset, details, made.computation), preset)


@dataclass(frozen=True)
class Model:
    """A network with its weights, ready to embed images; `load` makes it.

    Attributes:
        network: the Linen module; `network.apply(variables, images)` maps normalized images, float [B, H, W, 3], to
            descriptors of norm 1, float32 [B, dims].
        variables: its weights, {"params": ..., "batch_stats": ...}.
        provenance: the provenance of the descriptors that `embed` computes with the default preset. Its details say
            where the weights come from.
        preset: how `embed` resizes and normalizes images by default.
    """

    network: SSCD
    variables: Any
    provenance: Provenance
    preset: Preset

    def __repr__(self) -> str:
        return f"<sscd_jax.Model: {describe(self.network)['backbone']}, {self.dims} dims, {self.provenance}>"

    @property
    def dims(self) -> int:
        """The length of a descriptor."""
        return output_dims(self.network)

    def embed(
        self,
        images: ImageLike | Iterable[ImageLike],
        *,
        preset: str | Preset | None = None,
        ids: Sequence[str] | None = None,
        batch_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool | None = None,
    ) -> Descriptors:
        """Computes the descriptors of images, as the command `sscd-jax embed` computes them.

        Args:
            images: one image or several: paths of files; PIL images; arrays, uint8 RGB [H, W, 3] or [N, H, W, 3];
                folders, which are searched recursively, and whatever else the command reads (a .txt list of paths, .tar
                and .parquet files, "tfds:NAME", "sample"). Images may also be at addresses (https://HOST/NAME).
            preset: how images are resized and normalized: "small_288", "skew_320", "long_800", "dcr_224" or a `Preset`.
                By default, it is the preset that the network is for, as its run or file says, or "small_288" if it
                does not say.
            ids: an id for each image. By default, the id of a file is its path as given, without the extension; that
                of a file in a folder is its path relative to the folder, without the extension; and that of an array
                or PIL image is its position in `images`, such as "0". Files whose ids would be the same keep their
                extensions.
            batch_size: the number of images in a batch over all devices of this process; by default 1 on a CPU, where
                several batches are computed in parallel, and 128 per accelerator.
            on_error: "raise" raises an error at the first image that cannot be read; "skip" leaves such images out and
                names them in a warning.
            progress: whether to show a progress bar. By default, it is shown in a terminal, after a second.

        Returns:
            A descriptor of length `self.dims` for each image, in the order of `images`.

        Raises:
            ValueError: an image cannot be read (unless "skip"), two images have the same id, an array is not uint8 RGB,
                or there is no such preset.
        """
        source = open_given(images, ids)
        return self.embed_source(source, preset=preset, batch_size=batch_size, on_error=on_error, progress=progress)

    def embed_source(
        self,
        source: Source,
        *,
        preset: str | Preset | None = None,
        batch_size: int | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        progress: bool | None = None,
    ) -> Descriptors:
        """Does the same as `embed` for a source, which `sscd_jax.data.sources.open_source` opens."""
        if on_error not in ("raise", "skip"):
            raise ValueError(f'on_error is {on_error!r}; it must be "raise" or "skip"')
        chosen = self._preset(preset)
        batch_size = default_batch_size() if batch_size is None else batch_size
        check_divisible(batch_size, "batch_size", jax.local_device_count())
        vectors = np.empty((len(source), self.dims), np.float32)
        unreadable: dict[int, str] = {}
        shown = {"disable": None, "delay": 1} if progress is None else {"disable": not progress}
        batches = embed(self.network, self.variables, source, chosen, batch_size=batch_size, mesh=create_local_mesh())
        with tqdm(total=len(source), desc="embed", unit="image", **shown) as bar:
            for item in batches:
                if isinstance(item, Unreadable):
                    if on_error == "raise":
                        raise ValueError(f"{printable(source.paths[item.index])} cannot be read: {item.reason}")
                    unreadable[item.index] = item.reason
                    bar.update()
                else:
                    index, found = item
                    vectors[index] = found
                    bar.update(len(index))
        _warn_of_unreadable(source, unreadable, stacklevel=4)
        kept = [i for i in range(len(source)) if i not in unreadable]
        details = {**self.provenance.details, "preset": chosen.parameters(), "source": source.name}
        made_by = Provenance(self.provenance.weights, chosen.name, details, self.provenance.computation)
        return Descriptors([source.ids[i] for i in kept], vectors[kept], made_by)

    def _preset(self, preset: str | Preset | None) -> Preset:
        if not isinstance(preset, str):
            return preset or self.preset
        if preset not in PRESETS:
            raise ValueError(f"there is no preset {preset!r}; choose one of {', '.join(PRESETS)}, or give a Preset")
        return PRESETS[preset]


def find_duplicates(
    images: ImageLike | Iterable[ImageLike] | Descriptors,
    *,
    threshold: float | None = None,
    keep: str = "largest",
    score: ScoreKind = "background",
    grouping: Grouping = "leaders",
    max_group: int = MAX_GROUP,
    model: "Model | str" = "sscd_disc_mixup",
    preset: str | Preset | None = None,
    ids: Sequence[str] | None = None,
    progress: bool | None = None,
) -> Duplicates:
    """Finds duplicates, as the command `sscd-jax dedup` does, without writing anything.

    Args:
        images: what `Model.embed` takes; or descriptors, of which only near copies are found, and of whose images
            nothing is known but what their source tells, if it is a place that can still be read.
        threshold: the least score of a copy. The default is 0.2, or 0.75 if `score` is "similarity".
        keep: which image of a group is kept: "largest", "first", "oldest", or the beginning of an id or a path.
        score: "background" for the similarity less what is similar to both images anyway, or "similarity".
        grouping: "leaders", so that each image reaches the threshold with the kept one, or "components".
        max_group: the largest group of "components".
        model: the network, or what `load` takes; it is not used for descriptors.
        preset, ids, progress: as for `Model.embed`.

    Returns:
        What was found: `.groups`, `.keep`, `.remove` (lists of ids), `.pairs` (numpy arrays), `.to_pandas()` and
        `.to_html(folder)`. It shows itself in a notebook.

    Raises:
        ValueError: no image can be read, two images have the same id, or an option is wrong.

    Examples:
        >>> found = sscd_jax.find_duplicates("photos")
        >>> found.remove
        ['copies/a_small', 'd']
    """
    options = Options(threshold, score, grouping, max_group, keep)
    if isinstance(images, Descriptors):
        side = of_descriptors(images)
        return find(side.source, side.seen, images, options, preferred(keep, side.source.ids, side.seen))
    source = open_given(images, ids)
    seen, unread = look_at(source)
    _warn_of_unreadable(source, unread, stacklevel=3)
    order = preferred(keep, source.ids, seen)
    chosen = load(model) if isinstance(model, str) else model
    contents = contents_of(source, seen)
    embedded = chosen.embed_source(contents, preset=preset, on_error="skip", progress=progress)
    return find(source, seen, embedded, options, order)


def _warn_of_unreadable(source: Source, reasons: Mapping[int, str], *, stacklevel: int) -> None:
    """Says in a warning which images of a source cannot be read, and why, by their indexes."""
    if not reasons:
        return
    listed = [f"\n  {printable(source.paths[i])}: {reasons[i]}" for i in sorted(reasons)]
    more = ["\n  ..."] if len(listed) > ERRORS_SHOWN else []
    message = f"{len(listed)} of {len(source)} images cannot be read and are left out:"
    warnings.warn("".join([message, *listed[:ERRORS_SHOWN], *more]), stacklevel=stacklevel)


def find_copies(
    queries: ImageLike | Iterable[ImageLike] | Descriptors,
    references: ImageLike | Iterable[ImageLike] | Descriptors,
    *,
    k: int = BEST,
    threshold: float | None = None,
    score: ScoreKind = "background",
    model: "Model | str" = "sscd_disc_mixup",
    preset: str | Preset | None = None,
    progress: bool | None = None,
) -> Matches:
    """Finds the copies of some images among others, as the command `sscd-jax search` does.

    Args:
        queries: the images whose copies are looked for: what `Model.embed` takes, or descriptors.
        references: the images among which they are looked for; likewise.
        k: the number of references that are returned for each query, the best ones; fewer if there are fewer.
        threshold: the least score of what is returned, in the place of `k`: then all references at or above it are.
        score: "background" for the similarity less what is similar to both images anyway, measured among the
            references; or "similarity".
        model: the network, or what `load` takes; it is not used where both are descriptors.
        preset: as for `Model.embed`; by default that of the descriptors, if one of both are.
        progress: as for `Model.embed`.

    Returns:
        What was found: `.query`, `.reference` (ids), `.similarity`, `.score` and `.is_copy`, a numpy array each, with a
        row for each pair, and `.to_pandas()`. It shows itself in a notebook.

    Raises:
        ValueError: two sets of descriptors are of different networks or presets, two images of a set have the same id,
            or an option is wrong.

    Examples:
        >>> found = sscd_jax.find_copies("suspect.jpg", "photos", k=3)
        >>> found.reference[found.is_copy]
        array(['holiday/041'], dtype=object)
    """
    options = Options(threshold, score)
    if k < 1:
        raise ValueError(f"k is {k}; it must be positive")
    given = [one.provenance for one in (queries, references) if isinstance(one, Descriptors)]
    chosen = load(model) if isinstance(model, str) and len(given) < 2 else model
    if len(given) == 1 and preset is None:
        preset = preset_of(given[0])

    def opened(images: ImageLike | Iterable[ImageLike] | Descriptors) -> Described:
        if isinstance(images, Descriptors):
            return described(images)
        assert isinstance(chosen, Model)
        source = open_given(images)
        return Described(chosen.embed_source(source, preset=preset, on_error="skip", progress=progress), source)

    return match(opened(queries), opened(references), options, k=k)
