"""Lists of many millions of strings, such as paths and ids, in about the memory of their characters."""

import heapq
from abc import abstractmethod
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Self, overload

import numpy as np

_BLOCK = 4096  # strings that are decoded at once
_SORTED = 1_000_000  # strings that are sorted at once, as Python's strings


class _Strings(Sequence[str]):
    """What lists of strings have in common: indexes, slices, and that they equal lists of the same strings."""

    @abstractmethod
    def _at(self, index: int) -> str:
        """Returns the string at an index from 0 to the length of the list less 1."""

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> "StringList": ...
    def __getitem__(self, index: int | slice) -> "str | StringList":
        some = range(len(self))[index]
        return self._at(some) if isinstance(some, int) else StringList(map(self._at, some))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(one == two for one, two in zip(self, other, strict=True))


class StringList(_Strings):
    """A list of strings that keeps their UTF-8 bytes one after the other, and 9 bytes more for each string.

    A list of Python's strings takes at least 57 bytes more for each. Strings can be appended, but not changed. Any
    string is kept as it is, also with line breaks, and with the surrogates by which Python writes bytes of a file's
    name that are not valid UTF-8.

    Args:
        strings: the first strings.

    Examples:
        >>> names = StringList(["a/1", "b"])
        >>> names.append("c")
        >>> names[0], len(names), names == ["a/1", "b", "c"]
        ('a/1', 3, True)
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        self._data = bytearray()  # after each string there is one more byte, as at the end of a line
        self._ends = array("q")  # where that of the next string begins
        self.extend(strings)

    @classmethod
    def from_lines(cls, text: bytes, end: bytes = b"\n") -> Self:
        """Returns the lines of a text in UTF-8, each of which ends in the byte `end`.

        Raises:
            ValueError: the text is not valid UTF-8, or its last line does not end in `end`.
        """
        text.decode()  # raises where it is not UTF-8
        if text and not text.endswith(end):
            raise ValueError("its last line has no end")
        made = cls()
        ends = np.flatnonzero(np.frombuffer(text, np.uint8) == ord(end)) + 1
        made._ends.frombytes(ends.astype(np.int64).tobytes())
        made._data += text
        return made

    @classmethod
    def sorted(cls, strings: Iterable[str]) -> Self:
        """Returns strings in Python's order, and keeps few of them as Python's strings meanwhile."""
        runs: list[Self] = []
        some: list[str] = []
        for one in strings:
            some.append(one)
            if len(some) == _SORTED:
                runs.append(cls(sorted(some)))
                some = []
        return cls(heapq.merge(*runs, sorted(some)))

    def append(self, string: str) -> None:
        """Adds a string at the end."""
        self._data += string.encode("utf-8", "surrogatepass")
        self._data += b"\n"
        self._ends.append(len(self._data))

    def extend(self, strings: Iterable[str]) -> None:
        """Adds strings at the end."""
        if isinstance(strings, StringList):
            ends = np.array(strings._ends, np.int64) + len(self._data)
            self._ends.frombytes(ends.tobytes())
            self._data += strings._data
            return
        for one in strings:
            self.append(one)

    def __len__(self) -> int:
        return len(self._ends)

    def _at(self, index: int) -> str:
        start = self._ends[index - 1] if index else 0
        return self._data[start : self._ends[index] - 1].decode("utf-8", "surrogatepass")

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), _BLOCK):
            ends = self._ends[first : first + _BLOCK]
            data, origin = self._data[start : ends[-1]], start
            for end in ends:
                yield data[start - origin : end - origin - 1].decode("utf-8", "surrogatepass")
                start = end

    def __repr__(self) -> str:
        some = ", ".join(repr(one) for one in self[:3])
        return f"<StringList of {len(self)}: {some}{', ...' if len(self) > 3 else ''}>"


class MappedStrings(_Strings):
    """A list of strings, each of which is computed from a string of another list when it is asked for.

    Args:
        strings: the other list.
        function: returns a string of this list for one of the other list.
    """

    def __init__(self, strings: Sequence[str], function: Callable[[str], str]) -> None:
        self._strings, self._function = strings, function

    def __len__(self) -> int:
        return len(self._strings)

    def _at(self, index: int) -> str:
        return self._function(self._strings[index])

    def __iter__(self) -> Iterator[str]:
        return map(self._function, self._strings)


class Lookup:
    """Finds strings in a list by their hashes, in 16 bytes for each string of the list.

    Args:
        strings: the list, which must not change.

    Examples:
        >>> Lookup(["a", "b", "c"]).find(["c", "x"])
        array([ 2, -1])
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self.strings = strings
        hashes = hashes_of(strings)
        self._order = np.argsort(hashes, kind="stable")
        self._hashes = hashes[self._order]

    def find(self, strings: Sequence[str]) -> np.ndarray:
        """Returns the index of the first string of the list that equals each of these, or -1: int64 [N]."""
        hashes = hashes_of(strings)
        found = np.full(len(strings), -1, np.int64)
        if not len(self._hashes):
            return found
        first, last = (np.searchsorted(self._hashes, hashes, side) for side in ("left", "right"))
        for k in np.flatnonzero(first < last).tolist():
            # Different strings may have equal hashes.
            places = self._order[first[k] : last[k]].tolist()
            found[k] = next((place for place in places if self.strings[place] == strings[k]), -1)
        return found


def hashes_of(strings: Sequence[str]) -> np.ndarray:
    """Returns Python's hash of each string, int64 [N]."""
    return np.fromiter(map(hash, strings), np.int64, len(strings))


def repeated(strings: Sequence[str]) -> list[int]:
    """Returns the indexes of all strings that occur more than once, in ascending order."""
    hashes = hashes_of(strings)
    ordered = np.sort(hashes)
    twice = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(twice):
        return []
    alike = np.flatnonzero(np.isin(hashes, twice)).tolist()
    counts: dict[str, int] = {}
    for k in alike:
        counts[strings[k]] = counts.get(strings[k], 0) + 1
    return [k for k in alike if counts[strings[k]] > 1]
