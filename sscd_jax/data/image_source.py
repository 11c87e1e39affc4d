"""A source: encoded images by index, with their ids and paths."""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sscd_jax.data import storage
from sscd_jax.data.archives import MAX_BYTES

if TYPE_CHECKING:
    import tensorflow as tf

ERRORS_SHOWN = 20


UNNAMABLE = "its name has a line break, or is not valid Unicode: rename it"


def location(source: str) -> str:
    """A source as `Shards` compares it: an absolute path, if it is one."""
    return os.path.abspath(source) if os.path.exists(source) else source


@dataclass(frozen=True)
class Source:
    """Encoded images by index.

    Attributes:
        name: as the user gave it.
        ids: one for each image; training does not need them to be unique, see `check_unique_ids`.
        paths: where each image is: its file, or for messages its place in the data set.
        record: from an index to the encoded bytes; None where `paths` are files.
        files: that are read; none of TFDS.
    """

    name: str
    ids: Sequence[str]
    paths: Sequence[str]
    record: Callable[[int], bytes] | None = None
    files: Sequence[str] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def load(self, index: int) -> bytes:
        """The encoded bytes of an image.

        Raises:
            OSError: it cannot be read.
        """
        return read_file(self.paths[index]) if self.record is None else self.record(index)

    def read(self, index: "tf.Tensor") -> "tf.Tensor":
        """The same in a graph: int64 scalar to scalar string."""
        import tensorflow as tf

        if self.record is None:
            return tf.io.read_file(self._table[index])
        return tf.ensure_shape(
            tf.numpy_function(lambda i: np.array(self.load(int(i)), object), [index], tf.string, stateful=False), []
        )

    @cached_property
    def _table(self) -> "tf.Tensor":
        import tensorflow as tf

        with tf.init_scope():  # one table for all graphs
            return tf.constant(self.paths)


def read_file(path: str, _: int = 0) -> bytes:
    """The bytes of a regular file, or of an object of a store, of at most MAX_BYTES.

    Raises:
        OSError: it cannot be read.
    """
    if not storage.in_store(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is no regular file")
    size, _ = storage.status(path)
    if size > MAX_BYTES:
        raise OSError(f"it has {size} bytes, more than {MAX_BYTES}")
    return storage.read_bytes(path)


def check_unique_ids(source: Source) -> None:
    """Raises ValueError where two images have one id, as photo.jpg and photo.webp in one folder; names them."""
    first: dict[str, str] = {}
    for one, path in zip(source.ids, source.paths, strict=True):
        if one in first:
            raise ValueError(f"{first[one]} and {path} have the same id {one}: rename or remove one of them")
        first[one] = path
