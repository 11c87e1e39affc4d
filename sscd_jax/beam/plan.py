"""The plan of a pipeline: which files are in which shard. It is made before the pipeline starts."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from etils import epath

from sscd_jax.data import names, storage
from sscd_jax.data.image_source import Source, check_unique_ids
from sscd_jax.data.images import MAX_PIXELS
from sscd_jax.data.pack_reader import Pack, is_pack
from sscd_jax.data.sources import ARCHIVES, list_files
from sscd_jax.data.web import is_url
from sscd_jax.descriptors import FOLDER, FORMAT, VERSION
from sscd_jax.embedding.plan import PLAN, Plan, create_file, replace_file
from sscd_jax.presets import Preset

FILES = "files.jsonl"  # in the folder of the plan, with one line for each shard


@dataclass(frozen=True)
class Work:
    """The options of a pipeline, which every worker gets.

    Attributes:
        images: where the images are, as the user gave it.
        weights: the weights of the network, at a path that every worker can read.
        out: the folder of descriptors, which every worker can write to.
        preset: how images are resized and normalized; None for the preset that the network is for.
        dtype: the type of the vectors in the files.
        batch_size: the number of images in a batch over the devices of a worker; None for the default of
            `write_descriptors`.
        max_pixels: images with more pixels are not read.
        max_errors: the largest number of images that a disk or a network fails to deliver, see `write_descriptors`.
        retry: whether images that could not be read are tried again.
    """

    images: str
    weights: str
    out: str
    preset: Preset | None = None
    dtype: Literal["float32", "float16"] = "float32"
    batch_size: int | None = None
    max_pixels: int = MAX_PIXELS
    max_errors: int | None = None
    retry: bool = False


@dataclass(frozen=True)
class Files:
    """The files of a shard: one archive, one tar file of a pack, or several images.

    Attributes:
        number: the number of the shard.
        names: the files' names relative to the folder of images.
        paths: the files' paths.
        ids: the ids of the images, if each file is one; empty if the ids are in the file, or if they are the names
            without extensions.
    """

    number: int
    names: Sequence[str]
    paths: Sequence[str]
    ids: Sequence[str] = ()

    def gives(self) -> list[str]:
        """Returns the ids of the images, or what the ids of an archive start with."""
        return [*self.ids] or [_prefix(name) if _is_archive(name) else _stem(name) for name in self.names]


def holds_pack(images: str) -> bool:
    """Returns whether the images of a pipeline are a pack.

    Raises:
        OSError: the store does not answer.
    """
    return not is_url(images) and is_pack(images)


def read_plan(path: epath.PathLike) -> list[Files]:
    """Returns the shards of a plan."""
    return [Files(**json.loads(line)) for line in epath.Path(path).read_text().splitlines()]


def plan_files(work: Work, shard_size: int) -> str:
    """Adds shards to the plan for files that it does not have yet.

    Args:
        work: the options of the pipeline.
        shard_size: the number of image files in a shard.

    Returns:
        The path of the plan, a text file whose lines are the JSON of `Files`.

    Raises:
        ValueError: `list_files` raises it, files give the same ids, the pack is incomplete or damaged, or the folder
            was written by something else.
    """
    storage.check_place(work.out)
    out = epath.Path(work.out)
    path = out / PLAN / FILES
    FOLDER.check(out)
    planned = read_plan(path) if path.exists() else []
    known = {one for files in planned for one in files.gives()}
    numbers = {files.number for files in planned}
    plan = Plan(out)
    embedded: set[str] = set()  # ids that `sscd-jax embed` has planned
    for number in plan.numbers():
        if number not in numbers:
            numbers.add(number)
            embedded.update(plan.ids(number))
    if holds_pack(work.images):
        new = _of_pack(work.images, known, embedded)
    else:
        new = _of_files(work.images, shard_size, known, embedded)
    planned += [Files(number, *shard) for number, shard in enumerate(new, max(numbers, default=-1) + 1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    # The launcher need not have the weights, which made_by.json names: workers write that.
    create_file(path.with_name("format.json"), json.dumps({"format": FORMAT, "version": VERSION}))
    text = "".join(f"{json.dumps(asdict(files))}\n" for files in planned)
    replace_file(path, lambda file: file.write(text.encode()))
    return str(path)


_Shard = tuple[list[str], list[str], list[str]]  # names, paths and ids


def _of_pack(images: str, known: set[str], embedded: set[str]) -> list[_Shard]:
    """Returns the new shards of a pack, one for each of its tar files."""
    pack = Pack(images)
    check_unique_ids(Source(images, pack.ids, pack.ids))
    shards: list[_Shard] = []
    for number, path in enumerate(pack.shards):
        name = path.rpartition("/")[2]
        if _prefix(name) not in known and embedded.isdisjoint(pack.shard_ids(number)):
            shards.append(([name], [path], []))
    return shards


def _of_files(images: str, shard_size: int, known: set[str], embedded: set[str]) -> list[_Shard]:
    """Returns the new shards of other sources: one for each archive, then those of the images that are files."""
    found, places = list_files(images)
    path_of: dict[str, str] = {}
    for name, place in zip(found, places, strict=True):
        if name in path_of:
            raise ValueError(f"{images} has {name} twice: remove one of them")
        path_of[name] = place
    archives = [name for name in path_of if _is_archive(name)]
    single = [name for name in path_of if not _is_archive(name)]
    id_of = dict(zip(single, names.unique_ids([*map(names.stem, single)], single), strict=True))
    parents = {parent for name in single for parent in _parents(id_of[name])}
    parents |= {parent for name in archives for parent in _parents(_stem(name))}
    with_prefix: dict[str, str] = {}
    for name in archives:
        prefix = _prefix(name)
        if prefix in parents or prefix in with_prefix:
            other = with_prefix.get(prefix, "a folder of that name")
            raise ValueError(f"{name} and {other} in {images} give the same ids: rename or remove one of them")
        with_prefix[prefix] = name
    embedded = embedded.union(parent for one in embedded for parent in _parents(one))  # a parent may be an archive
    shards: list[_Shard] = [
        ([name], [path_of[name]], [])
        for name in archives
        if _prefix(name) not in known and _prefix(name) not in embedded
    ]
    new = [name for name in single if id_of[name] not in known and id_of[name] not in embedded]
    for start in range(0, len(new), shard_size):
        some = new[start : start + shard_size]
        shards.append((some, [path_of[name] for name in some], [id_of[name] for name in some]))
    return shards


def _is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def _stem(name: str) -> str:
    return names.escape(names.stem(name))


def _prefix(archive: str) -> str:
    return f"{_stem(archive)}/"


def _parents(one: str) -> list[str]:
    """Returns the folders above an image or an archive, each with a slash at its end."""
    parts = one.split("/")
    return ["/".join(parts[:count]) + "/" for count in range(1, len(parts))]
