"""A source of encoded images, which are read by index."""

import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from sscd_jax.data import storage
from sscd_jax.data.archives import MAX_BYTES
from sscd_jax.data.names import printable
from sscd_jax.data.web import is_url, read_url
from sscd_jax.string_list import Lookup, StringList, repeated

if TYPE_CHECKING:
    import tensorflow as tf

ERRORS_SHOWN = 20  # unreadable images that are printed; a file lists all
UNNAMABLE = "its name has a line break or is not valid Unicode: rename it"


def location(source: str) -> str:
    """Returns a name of a source that does not depend on the current folder: its absolute path, if it is a path."""
    return os.path.abspath(source) if os.path.exists(source) else source


@dataclass(frozen=True)
class Source:
    """Encoded images, which are read by index.

    Attributes:
        name: the source as the user named it.
        ids: one for each image. They may repeat in training; code that needs unique ids calls `check_unique_ids`.
        paths: one for each image: its file, or its place in an archive or a data set, for messages.
        record: a function from the index of an image to its encoded bytes; None if `paths` are files.
        files: the files that are read; empty for TFDS data sets.
        regular: whether `paths` are known to be regular files or objects in a store, which TensorFlow may read by
            itself. It would wait without end for a pipe, and reads no web addresses.
    """

    name: str
    ids: Sequence[str]
    paths: Sequence[str]
    record: Callable[[int], bytes] | None = None
    files: Sequence[str] = ()
    regular: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, indexes: Sequence[int]) -> "Source":
        """Returns a source of some of the images, in the order of these indexes."""
        ids, paths = (StringList(part[index] for index in indexes) for part in (self.ids, self.paths))
        if self.record is None:
            return Source(self.name, ids, paths, files=paths, regular=self.regular)
        return Source(self.name, ids, paths, lambda index: self.load(indexes[index]), self.files)

    def load(self, index: int) -> bytes:
        """Returns the encoded bytes of an image.

        Raises:
            OSError: the image cannot be read.
        """
        return read_file(self.paths[index]) if self.record is None else self.record(index)

    def read(self, index: "tf.Tensor") -> "tf.Tensor":
        """Does the same as `load` in a TensorFlow graph, from an int64 scalar to a string scalar."""
        import tensorflow as tf

        if self.regular:
            return tf.io.read_file(self._table[index])
        return tf.ensure_shape(
            tf.numpy_function(lambda i: np.array(self.load(int(i)), object), [index], tf.string, stateful=False), []
        )

    @cached_property
    def lookup(self) -> Lookup:
        """Finds the index of an id."""
        return Lookup(self.ids)

    @cached_property
    def _table(self) -> "tf.Tensor":
        import tensorflow as tf

        with tf.init_scope():  # so that all graphs share one table
            return tf.constant([os.fsencode(path) for path in self.paths])


def read_file(path: str, _: int = 0) -> bytes:
    """Returns the bytes of a regular file, of an object in a store, or of a web address: at most MAX_BYTES.

    Raises:
        OSError: the file cannot be read.
    """
    if is_url(path):
        return read_url(path)
    if not storage.in_store(path) and not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError("it is not a regular file")
    size, _ = storage.status(path)
    if size > MAX_BYTES:
        raise storage.DamagedError(f"it has {size} bytes, more than {MAX_BYTES}")
    return storage.read_bytes(path)


def check_unique_ids(source: Source) -> None:
    """Checks that no two images have the same id, as one that a list names twice has.

    Raises:
        ValueError: two images have the same id; the error names them.
    """
    if alike := repeated(source.ids):
        twice = source.ids[alike[0]]
        first, second = [k for k in alike if source.ids[k] == twice][:2]
        if source.paths[first] == source.paths[second]:
            raise ValueError(f"{printable(source.paths[first])} is given twice: remove one of the two")
        both = f"{printable(source.paths[first])} and {printable(source.paths[second])}"
        raise ValueError(f"{both} have the same id {printable(twice)}: rename or remove one of them")
