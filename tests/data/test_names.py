"""Ids are unique, printable and reversible; those of images without a sibling are their stems."""

import re
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.data.names import escape, printable, stem, unique_ids
from sscd_jax.descriptors import is_line


def ids(*names: str, rule="stem") -> list[str]:
    return unique_ids([stem(name) for name in names], names, rule)


def original(text: str) -> str:
    """The inverse of `escape`, by Python's rules of escapes."""
    if not re.search(r"\\(x[0-9a-f]{2}|u[0-9a-f]{4})", text):
        return text
    return re.sub(r"\\(\\|x..|u....)", lambda m: "\\" if m[1] == "\\" else chr(int(m[1][1:], 16)), text)


HOSTILE = ["a\nb", "a\r", "\x1b[31mred", "abc\u202egpj.exe", "\udc80\udcff", "\u2028", "\x9b31m", "\ufeff", "\0", "\t"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_printable(name):
    made = escape(name)
    assert made.isprintable()
    assert is_line(made)
    assert original(made) == name
    assert printable(name) == printable(made) == made


@pytest.mark.parametrize("name", ["a/b", "-rf", r"C:\photos\x", "Ünï", "👩‍👩‍👧", "$\\frac$", "日本"])
def test_other_names_stay(name):
    assert escape(name) == printable(name) == name


@given(st.text(st.sampled_from("a\\xu0019\n\x1b\udc80\u202e"), max_size=12))
@settings(max_examples=500)
def test_escapes_are_reversible(name):
    assert original(escape(name)) == name


def test_siblings_keep_their_extensions():
    assert ids("IMG_1.jpg", "IMG_2.jpg", "IMG_1.HEIC", "b/IMG_2.jpg") == [
        *("IMG_1.jpg", "IMG_2", "IMG_1.HEIC", "b/IMG_2"),
    ]
    assert ids("IMG_1.jpg", "IMG_1.JPG") == ["IMG_1.jpg", "IMG_1.JPG"]
    assert ids("IMG_1.jpg", "IMG_1") == ["IMG_1.jpg", "IMG_1."], "IMG_1 may have been that of the other one"
    assert ids("IMG_1") == ["IMG_1"]
    assert ids("a.2019", "a.2020", "a.jpg~") == ["a.2019", "a.2020", "a.jpg~"], "no extensions of images"
    assert ids("a.jpg", "a.png", "b.jpg", rule="path") == ["a.jpg", "a.png", "b.jpg"]
    assert ids("a.jpg", "a.jpg") == ["a.jpg", "a.jpg"], "for `check_unique_ids` to refuse"


@pytest.mark.parametrize("names", [*permutations(["a.jpg", "a.png", "a.jpg.png", "a.jpg.png.gif", "a"])])
def test_ids_that_siblings_get_are_not_those_of_others(names):
    assert dict(zip(names, ids(*names), strict=True)) == {name: name if name != "a" else "a." for name in names}


@given(st.lists(st.text(st.sampled_from("a.\n\\"), min_size=1, max_size=4), unique=True, max_size=12), st.data())
@settings(max_examples=300)
def test_ids_are_unique(roots, data):
    names = [root + data.draw(st.sampled_from(["", ".jpg", ".JPG", ".png", ".jpg.png"])) for root in roots]
    names = list(dict.fromkeys(names))
    made = ids(*names)
    assert len({*made}) == len(made) or any(name.endswith(".") for name in names)
    assert len({*ids(*names, rule="path")}) == len(names)
