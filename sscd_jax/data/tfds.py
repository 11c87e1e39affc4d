"""TFDS data sets that are on disk, as sources. Nothing is downloaded."""

import contextlib
import difflib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from etils import epath
from tqdm import tqdm

from sscd_jax.data.image_source import Source
from sscd_jax.descriptors import is_line

# Not among the data sets of TFDS itself.
OURS = {
    "copydays": "sscd_jax.datasets.tfds_copydays",
    "disc2021": "sscd_jax.datasets.tfds_disc2021",
}
ID = "image_id"
_BATCH = 256


def open_prepared(source: str, split: str, data_dir: str | None) -> Source:
    """A split of a TFDS data set, one with [:100] or so behind it, or all.

    Raises:
        ValueError: it is not prepared, has no such split or no image; says what to do.
    """
    import tensorflow_datasets as tfds

    name = source.removeprefix("tfds:")
    builder = _image_folder(data_dir) if name == "ImageFolder" else _prepared(name, data_dir)
    features = dict(builder.info.features.items())
    if split != "all" and split.split("[")[0] not in builder.info.splits:
        raise ValueError(f"{source} has no split {split}; it has {', '.join(builder.info.splits)}")
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    if not images:
        raise ValueError(f"{source} has no image among its features: {', '.join(features)}")
    decoders = {images[0]: tfds.decode.SkipDecoding()}
    examples: Any
    random_access = builder.info.available_file_formats() & tfds.core.file_adapters.FileFormat.with_random_access()
    if random_access:
        examples = builder.as_data_source(split, decoders=decoders)
    else:  # its files can only be read in order
        encoded = (example[images[0]] for example in _in_order(builder, split, decoders))
        examples = _packed(Path(builder.data_dir), split, encoded, builder.info.splits[split].num_examples)

    def record(index: int) -> bytes:
        try:
            example = examples[index]
        except Exception as error:  # of the readers of many formats
            raise OSError(str(error)) from error
        return example if isinstance(example, bytes) else example[images[0]]

    def all_ids() -> Iterator[bytes]:
        if random_access:
            for first in range(0, len(examples), _BATCH):
                batch = examples.__getitems__(range(first, min(first + _BATCH, len(examples))))
                yield from (example[ID] for example in batch)
        else:
            only = tfds.decode.PartialDecoding({ID: features[ID]})
            yield from (example[ID] for example in _in_order(builder, split, only))

    numbers = [f"{split}/{i:08d}" for i in range(len(examples))]
    # Examples are known by their numbers: of another version, or with one more, they are other images.
    where = str(builder.data_dir) if "://" in str(builder.data_dir) else os.path.abspath(builder.data_dir)
    name = f"{source} {builder.version}, {split} of {len(examples)} in {where}"
    ids: Sequence[str] = numbers
    if isinstance(features.get(ID), tfds.features.Text):
        ids = _Ids(epath.Path(builder.data_dir), split, numbers, all_ids)
        name += f", by {ID}"
    return Source(name, ids, [f"{source}/{i}" for i in numbers], record)


def _in_order(builder: Any, split: str, decoders: Any) -> Iterator[Any]:
    import tensorflow_datasets as tfds

    return iter(tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)))


class _Ids(Sequence[str]):
    """Ids that examples have themselves, read when the first is asked for.

    They lie beside the images, so that all must be read for them: 2 to 3 minutes a million from a fast disk. That is
    done once, and not for training, which asks for none.
    """

    def __init__(self, folder: epath.Path, split: str, numbers: list[str], read: Callable[[], Iterable[bytes]]):
        self._file = folder / "sscd_jax" / f"{split}-{len(numbers)}.{ID}.txt"
        self._numbers, self._read = numbers, read

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._all[index]

    @cached_property
    def _all(self) -> list[str]:
        if self._file.exists():
            return self._file.read_text(encoding="utf-8").split("\n")[:-1]
        note = f"reading the {ID} of each of the images in {self._file.parent.parent} once"
        ids = [one.decode() for one in tqdm(self._read(), total=len(self), desc=note, dynamic_ncols=True)]
        if len({*ids}) < len(ids) or not all(map(is_line, ids)):
            print(f"{self._file.parent.parent}: {ID} is not unique; images are known by numbers", file=sys.stderr)
            ids = self._numbers
        with contextlib.suppress(OSError):  # of a folder where others only read, they are read anew each time
            self._file.parent.mkdir(exist_ok=True)
            unfinished = self._file.with_name(f"{self._file.name}.unfinished-{os.getpid()}")
            unfinished.write_text("".join(f"{one}\n" for one in ids), encoding="utf-8")
            unfinished.replace(self._file)
        return ids


def _image_folder(data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    if data_dir is None:
        raise ValueError("tfds:ImageFolder needs --data-dir (train: --data.data-dir), a folder of SPLIT/LABEL/IMAGE")
    return tfds.ImageFolder(data_dir)


def _prepared(name: str, data_dir: str | None) -> Any:
    """The builder of a data set that is on disk; nothing is downloaded."""
    import tensorflow_datasets as tfds

    where = f" --data_dir {data_dir}" if data_dir else ""
    prepare = f"tfds build {name} --file_format array_record{where}"
    if module := OURS.get(name):
        prepare += f" --imports {module} --manual_dir DIR"
    if not importlib.util.find_spec("mlcroissant"):  # TFDS's command imports it and does not ask for it
        prepare += "; first pip install 'sscd_jax[tfds]'"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        if module:
            within = data_dir or tfds.core.constants.DATA_DIR
            raise ValueError(f"the TFDS data set {name} is not prepared in {within}: {prepare}") from error
        near = difflib.get_close_matches(name, tfds.list_builders(), 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"TFDS knows no data set {name}, and none is prepared under that name{hint}") from error
    if not builder.is_prepared():
        raise ValueError(f"the TFDS data set {name} is not prepared in {builder.data_dir}: {prepare}")
    return builder


def _packed(folder: Path, split: str, encoded: Iterable[bytes], count: int) -> Any:
    """The images of a data set in one ArrayRecord file beside it, written at its first use."""
    from array_record.python import array_record_data_source, array_record_module

    path = folder / "sscd_jax" / f"{split}-{count}.array_record"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        unfinished = path.with_suffix(f".unfinished-{os.getpid()}")
        writer = array_record_module.ArrayRecordWriter(str(unfinished), "group_size:1")
        note = f"copying {folder} once, to read it at random (not needed for file_format array_record)"
        for data in tqdm(encoded, total=count, desc=note):
            writer.write(data)
        writer.close()
        unfinished.replace(path)
    return array_record_data_source.ArrayRecordDataSource(str(path))
