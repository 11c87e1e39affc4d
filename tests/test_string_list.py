"""Lists of strings behave as Python's lists, and take little memory."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sscd_jax import string_list
from sscd_jax.string_list import Lookup, MappedStrings, StringList, repeated

ANY = st.lists(st.text(st.characters(), max_size=6), max_size=12)  # with line breaks and lone surrogates
LINES = st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\n"), max_size=6), max_size=12)


@given(ANY, ANY, st.slices(12), st.integers(-13, 13))
def test_it_is_like_a_list(strings, more, part, index):
    found = StringList(strings)
    assert found == strings
    assert strings == found
    assert found == StringList(strings)
    assert [*found] == strings
    assert found[part] == strings[part]
    assert (found != more) == (strings != more)
    if -len(strings) <= index < len(strings):
        assert found[index] == strings[index]
    else:
        with pytest.raises(IndexError):
            found[index]
    found.extend(more)
    found.extend(StringList(more))
    found.append("ä\n")
    assert found == [*strings, *more, *more, "ä\n"]


@given(ANY)
def test_the_order_is_pythons(strings):
    """Also where so many are sorted that they are sorted in parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(string_list, "_SORTED", 3)
        assert StringList.sorted(strings) == sorted(strings)


@pytest.mark.slow
@given(LINES, LINES)
def test_lines(strings, more):
    found = StringList.from_lines("".join(f"{one}\n" for one in strings).encode())
    assert found == strings
    found.extend(StringList.from_lines("".join(f"{one}\n" for one in more).encode()))
    assert found == [*strings, *more]


@pytest.mark.parametrize("text", [b"a\nb", b"\xff\n"])
def test_what_is_not_lines(text):
    with pytest.raises(ValueError, match=r"end|decode"):
        StringList.from_lines(text)


@given(ANY, ANY)
def test_lookup(strings, asked):
    found = Lookup(StringList(strings)).find(StringList(asked))
    assert found.tolist() == [strings.index(one) if one in strings else -1 for one in asked]
    assert repeated(StringList(strings)) == [k for k, one in enumerate(strings) if strings.count(one) > 1]


@given(ANY)
def test_strings_of_equal_hashes(strings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(string_list, "hashes_of", lambda some: np.array([len(one) for one in some], np.int64))
        found = Lookup(strings).find([*strings, "absent", "here no"])
        assert found.tolist() == [*map(strings.index, strings), -1, -1]
        assert repeated(strings) == [k for k, one in enumerate(strings) if strings.count(one) > 1]


def test_strings_that_are_computed():
    calls = []
    found = MappedStrings(["a/1", "a/2", "a/3"], lambda one: calls.append(one) or one[2:])
    assert len(found) == 3
    assert not calls
    assert (found[-1], found[1:], [*found]) == ("3", ["2", "3"], ["1", "2", "3"])
    assert found == StringList("123")
    assert found != ["1", "2", "4"]


def test_memory():
    tracemalloc.start()
    found = StringList(f"photos/{k % 1000:04d}/an_image_with_a_name_of_sixty_bytes_{k:08d}.jpg" for k in range(100_000))
    taken, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = len(found[0])
    assert taken < 1.15 * 100_000 * (size + 9)  # what grows has some room at its end
    assert peak < 2.3 * 100_000 * (size + 9)
