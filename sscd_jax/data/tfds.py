"""Opens prepared data sets of tensorflow-datasets (TFDS) as sources. Nothing is downloaded."""

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

from sscd_jax.data import storage
from sscd_jax.data.image_source import Source
from sscd_jax.descriptors import is_line
from sscd_jax.files import atomic_file
from sscd_jax.string_list import MappedStrings, StringList, repeated

# Data sets that this package adds to those of TFDS.
OURS = {
    "copydays": "sscd_jax.datasets.tfds_copydays",
    "disc2021": "sscd_jax.datasets.tfds_disc2021",
}
ID = "image_id"
_BATCH = 256


def open_tfds(source: str, split: str, data_dir: str | None) -> Source:
    """Opens a TFDS data set.

    Args:
        source: "tfds:NAME".
        split: the name of a split, a part of one such as "train[:100]", or "all".
        data_dir: as for `open_source`.

    Raises:
        ValueError: the data set is not prepared, or has no such split or no image; the error says what to do.
    """
    import tensorflow_datasets as tfds

    name = source.removeprefix("tfds:")
    builder = _image_folder(data_dir) if name == "ImageFolder" else _builder(name, data_dir)
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
    else:  # files of this format can only be read in order
        encoded = (example[images[0]] for example in _in_order(builder, split, decoders))
        examples = _copy_for_random_access(
            Path(builder.data_dir), split, encoded, builder.info.splits[split].num_examples
        )

    def record(index: int) -> bytes:
        try:
            example = examples[index]
        except Exception as error:  # each file format raises its own
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

    numbers = StringList(f"{split}/{i:08d}" for i in range(len(examples)))
    # Examples are identified by numbers, which may mean other images in another version. So the name has the version.
    where = str(builder.data_dir) if "://" in str(builder.data_dir) else os.path.abspath(builder.data_dir)
    name = f"{source} {builder.version}, {split} of {len(examples)} in {where}"
    ids: Sequence[str] = numbers
    if isinstance(features.get(ID), tfds.features.Text):
        ids = _Ids(epath.Path(builder.data_dir), split, numbers, all_ids)
        name += f", by {ID}"
    return Source(name, ids, MappedStrings(numbers, lambda one: f"{source}/{one}"), record)


def _in_order(builder: Any, split: str, decoders: Any) -> Iterator[Any]:
    import tensorflow_datasets as tfds

    return iter(tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders, shuffle_files=False)))


class _Ids(Sequence[str]):
    """The ids in the examples of a data set, which are read when the first id is needed.

    They are stored beside the images, so that all images are read to get them: 2 to 3 minutes for a million from a fast
    disk. That is done once, and never for training, which needs no ids.
    """

    def __init__(self, folder: epath.Path, split: str, numbers: Sequence[str], read: Callable[[], Iterable[bytes]]):
        self._file = folder / "sscd_jax" / f"{split}-{len(numbers)}.{ID}.txt"
        self._numbers, self._read = numbers, read

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        return self._all[index]

    @cached_property
    def _all(self) -> Sequence[str]:
        if self._file.exists():
            return StringList.from_lines(self._file.read_bytes())
        note = f"reading the {ID} of each image in {self._file.parent.parent}, once"
        read = tqdm(self._read(), total=len(self), desc=note, dynamic_ncols=True)
        ids: Sequence[str] = StringList(image_id.decode() for image_id in read)
        if repeated(ids) or not all(map(is_line, ids)):
            print(f"{self._file.parent.parent}: {ID} is not unique; ids are numbers instead", file=sys.stderr)
            ids = self._numbers
        with contextlib.suppress(OSError):  # in a read-only folder, ids are read again each time
            self._file.parent.mkdir(exist_ok=True)
            storage.write_bytes(os.fspath(self._file), "".join(f"{image_id}\n" for image_id in ids).encode())
        return ids


def _image_folder(data_dir: str | None) -> Any:
    import tensorflow_datasets as tfds

    if data_dir is None:
        raise ValueError("tfds:ImageFolder needs --data-dir (train: --data.data-dir), a folder of SPLIT/LABEL/IMAGE")
    return tfds.ImageFolder(data_dir)


def _builder(name: str, data_dir: str | None) -> Any:
    """Returns the builder of a prepared data set."""
    import tensorflow_datasets as tfds

    where = f" --data_dir {data_dir}" if data_dir else ""
    prepare = f"tfds build {name} --file_format array_record{where}"
    if module := OURS.get(name):
        prepare += f" --imports {module} --manual_dir DIR"
    if not importlib.util.find_spec("mlcroissant"):  # the command tfds imports it and does not require it
        prepare += "; first pip install 'sscd_jax[tfds]'"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        if module:
            within = data_dir or tfds.core.constants.DATA_DIR
            raise ValueError(f"the TFDS data set {name} is not prepared in {within}: {prepare}") from error
        near = difflib.get_close_matches(name, tfds.list_builders(), 3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise ValueError(f"TFDS has no data set {name}, and none of this name is prepared{hint}") from error
    if not builder.is_prepared():
        raise ValueError(f"the TFDS data set {name} is not prepared in {builder.data_dir}: {prepare}")
    return builder


def _copy_for_random_access(folder: Path, split: str, encoded: Iterable[bytes], count: int) -> Any:
    """Copies the images of a data set to an ArrayRecord file in its folder, at its first use."""
    from array_record.python import array_record_data_source, array_record_module

    path = folder / "sscd_jax" / f"{split}-{count}.array_record"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        note = f"copying {folder} once, for random access (not needed for file_format array_record)"
        with atomic_file(path) as temporary:
            writer = array_record_module.ArrayRecordWriter(str(temporary), "group_size:1")
            for data in tqdm(encoded, total=count, desc=note, dynamic_ncols=True):
                writer.write(data)
            writer.close()
    return array_record_data_source.ArrayRecordDataSource(str(path))
