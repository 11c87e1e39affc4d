"""Scores by an outside background and by a calibration, compared with plain numpy."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.data.image_source import Source
from sscd_jax.descriptors import Descriptors
from sscd_jax.duplicates.collect import collect, contents_of
from sscd_jax.duplicates.image_files import Seen
from sscd_jax.evaluation.fit_calibration import calibrate_by_rate
from sscd_jax.provenance import Provenance

MADE_BY = Provenance("weights", "small_288")


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def source_of(ids: list[str]) -> tuple[Source, list[Seen]]:
    def load(index: int) -> bytes:
        raise OSError("not needed")

    return Source("made up", ids, ids, load), [Seen(one, False, False, 1, 0, one, 1, 1) for one in ids]


@pytest.fixture
def descriptors() -> Descriptors:
    rng = np.random.default_rng(0)
    return Descriptors([f"{i:02d}" for i in range(40)], unit(rng.normal(size=(40, 8)) + 0.5), MADE_BY)


def test_a_background_from_outside(descriptors):
    rng = np.random.default_rng(1)
    outside = Descriptors([f"b{i}" for i in range(25)], unit(rng.normal(size=(25, 8)) + 0.3), MADE_BY)
    source, seen = source_of(list(descriptors.ids))
    found = collect(source, seen, np.arange(40), descriptors, outside=outside)
    similarity = descriptors.vectors @ np.asarray(outside.vectors).T
    expected = [np.sort(row[row < 0.5])[::-1][:10].mean() for row in similarity]
    np.testing.assert_allclose(found.scores.background, expected, atol=1e-6)
    foreign = Descriptors(["b"], outside.vectors[:1], Provenance("other", "small_288"))
    with pytest.raises(ValueError, match="embed both with the same weights and preset"):
        collect(source, seen, np.arange(40), descriptors, outside=foreign)


def test_a_calibration(descriptors):
    rng = np.random.default_rng(2)
    training = Descriptors([f"t{i}" for i in range(300)], unit(rng.normal(size=(300, 8)) + 0.5), MADE_BY)
    fitted = calibrate_by_rate(training, rate=0.05, score_norm="0.8[1,3]")
    source, seen = source_of(list(descriptors.ids))
    found = collect(source, seen, np.arange(40), descriptors, calibration=fitted)
    asked, searched = fitted.apply(descriptors, descriptors)
    expected = (asked @ searched.T + (asked @ searched.T).T) / 2  # of both images alike
    one, other = np.triu_indices(40, 1)
    np.testing.assert_allclose(found.scores.scores(one, other), expected[one, other], atol=1e-5)
    other_made_by = Descriptors(descriptors.ids, descriptors.vectors, Provenance("other", "small_288"))
    with pytest.raises(ValueError, match="calibration"):
        collect(source, seen, np.arange(40), other_made_by, calibration=fitted)


@settings(max_examples=50)
@given(st.lists(st.tuples(st.sampled_from("abcde"), st.booleans()), max_size=12))
def test_contents(files):
    """One image for each content, in the order of the hashes, whatever the order of the files."""
    data = [letter.encode() for letter, _ in files]
    hashes = [hashlib.sha256(one).hexdigest() for one in data]
    seen = [
        Seen(str(i), False, False, 1, 0, key, 1, 1) if is_read else None
        for i, (key, (_, is_read)) in enumerate(zip(hashes, files, strict=True))
    ]
    ids = [str(i) for i in range(len(files))]
    found = contents_of(Source("made up", ids, ids, lambda i: data[i]), seen)
    assert list(found.ids) == sorted({key for key, one in zip(hashes, seen, strict=True) if one})
    assert [hashlib.sha256(found.load(i)).hexdigest() for i in range(len(found))] == list(found.ids)
