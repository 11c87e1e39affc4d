"""The background of a large collection is measured once."""

import errno
import os

import numpy as np
import pytest

from sscd_jax.duplicates import background, background_cache
from sscd_jax.duplicates.background_cache import measured
from sscd_jax.files import cache_folder
from sscd_jax.mapped_vectors import MappedVectors


@pytest.fixture
def calls(monkeypatch, tmp_path) -> list[int]:
    """The number of images of each time that a background is measured; ten images are a large collection."""
    counted: list[int] = []
    original = background.first_pass

    def first_pass(vectors, order, **options):
        counted.append(len(order))
        return original(vectors, order, **options)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(background_cache, "LEAST", 10)
    monkeypatch.setattr(background, "first_pass", first_pass)
    return counted


def make(count: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, 8)) + 0.3
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def same(one, other) -> bool:
    return all(
        np.array_equal(a, b)
        for a, b in zip((*vars(one[0]).values(), one[1]), (*vars(other[0]).values(), other[1]), strict=True)
    )


def test_it_is_measured_once_for_each_collection_and_order(calls):
    vectors, order = make(30), np.arange(30)
    first = measured(vectors, order)
    assert same(measured(vectors, order), first)
    assert same(measured(MappedVectors([vectors[:7], vectors[7:]], 8), order), first)  # the same, in two files
    assert calls == [30]
    measured(vectors, order[::-1])
    measured(make(30, 1), order)
    measured(vectors, order[:-1])
    assert calls == [30, 30, 30, 29]
    assert np.isinf(first[0].score).any()


def test_small_collections_are_not_kept(calls):
    for _ in range(2):
        measured(make(9), np.arange(9))
    assert calls == [9, 9]
    assert not cache_folder("background").exists()


@pytest.mark.parametrize("damage", [b"", b"PK\3\4nonsense", None])
def test_a_damaged_file_is_measured_again(calls, damage):
    vectors, order = make(30), np.arange(30)
    first = measured(vectors, order)
    (file,) = cache_folder("background").iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert same(measured(vectors, order), first)
    assert calls == [30, 30]
    assert same(measured(vectors, order), first)
    assert calls == [30, 30]


def test_the_oldest_go_and_a_full_disk_is_no_error(calls, monkeypatch):
    monkeypatch.setattr(background_cache, "MOST", 3)
    for seed in range(5):
        measured(make(20, seed), np.arange(20))
        for number, file in enumerate(sorted(cache_folder("background").iterdir(), key=lambda f: f.stat().st_mtime)):
            os.utime(file, (number, number))
    assert len(list(cache_folder("background").iterdir())) == 3

    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    _, found = measured(make(20, 9), np.arange(20))
    assert len(found) == 20
    assert not any(file.name.endswith(".tmp") for file in cache_folder("background").iterdir())
