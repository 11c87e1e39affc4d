"""Rows of a shard that is being computed, saved so that an interruption does not lose them."""

import contextlib
import io
import itertools
import re
import uuid
from collections.abc import Sequence

import numpy as np
from etils import epath

from sscd_jax.descriptors import shard_name
from sscd_jax.embedding.plan import replace_file
from sscd_jax.files import NPZ_ERRORS

# What is known of an image: the bytes of its file, or -1; the time of its last change in nanoseconds since 1970, or 0;
# BLAKE2b of its bytes.
IMAGE = np.dtype([("size", "<i8"), ("time", "<i8"), ("content", "V16")])
_SAVED = re.compile(r"\.?saved-(\d+)-")


class SavedRows:
    """The files saved-*.npz of a folder of descriptors.

    Args:
        folder: the folder, on disk or in a store.
    """

    def __init__(self, folder: epath.Path) -> None:
        self.folder = folder
        self._process, self._saves = uuid.uuid4().hex, itertools.count()

    def save(self, number: int, rows: Sequence[int], vectors: np.ndarray, images: np.ndarray) -> None:
        """Saves some rows of a shard that is being computed, so that an interruption does not lose them.

        Each call writes a new file. `Shards.write` removes the files of a shard that it writes.

        Args:
            number: the number of the shard.
            rows: n positions among the ids that are planned for the shard.
            vectors: float32 [n, D], their descriptors.
            images: `IMAGE` [n], what was embedded.
        """
        data = io.BytesIO()
        np.savez(data, rows=np.asarray(rows, np.int64), vectors=vectors, images=images)
        name = f"saved-{shard_name(number)}-{self._process}-{next(self._saves)}.npz"
        replace_file(self.folder / name, lambda file: file.write(data.getbuffer()))

    def read(self, number: int) -> dict[int, tuple[np.ndarray, np.void]]:
        """Returns what processes have saved of a shard: float32 [D] and `IMAGE`, by position among the planned ids.

        A damaged file is ignored, so that its rows are computed again.
        """
        found: dict[int, tuple[np.ndarray, np.void]] = {}
        for path in self.folder.glob(f"saved-{shard_name(number)}-*.npz"):
            with (
                contextlib.suppress(*NPZ_ERRORS),
                np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as data,
            ):
                images = data["images"]
                if images.dtype == IMAGE and data["vectors"].dtype == np.float32:
                    pairs = zip(data["vectors"], images, strict=True)
                    found.update(zip(data["rows"].tolist(), pairs, strict=True))
        return found

    def numbers(self) -> set[int]:
        """Returns the numbers of the shards of which rows are saved, from one listing of the folder."""
        listed = self.folder.iterdir() if self.folder.exists() else ()
        return {int(match[1]) for path in listed if (match := _SAVED.match(path.name)) and path.suffix == ".npz"}

    def remove(self, complete: set[int]) -> None:
        """Removes the saved rows of shards that are complete."""
        for path in itertools.chain(self.folder.glob("saved-*"), self.folder.glob(".saved-*.tmp")):
            match = _SAVED.match(path.name)
            if match and int(match[1]) in complete:
                path.unlink(missing_ok=True)
