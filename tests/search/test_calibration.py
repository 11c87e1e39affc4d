"""The transform against faiss, the file, and what is refused."""

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sscd_jax.descriptors import Descriptors
from sscd_jax.provenance import Provenance
from sscd_jax.search.calibration import Calibration, Transform, fit_transform
from sscd_jax.search.faiss_backend import project
from sscd_jax.search.score_norm import ScoreNorm


def correlated(count: int, dims: int = 16, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(count, dims)) @ np.random.default_rng(9).normal(size=(dims, dims)) + 1
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_whitening_is_that_of_faiss():
    training, others = correlated(400), correlated(50, seed=1)
    transform, fallback = fit_transform(training, "whiten")
    _, expected = project("PCAW16,L2norm,Flat", training, others)
    np.testing.assert_allclose(transform(others) @ transform(others).T, expected @ expected.T, atol=2e-4)
    assert fallback == ""
    whitened = (training - transform.mean) @ transform.matrix
    np.testing.assert_allclose(np.cov(whitened.T), np.eye(16), atol=0.02)


def test_centring_and_nothing():
    training, others = correlated(40), correlated(7, seed=1)
    centered, _ = fit_transform(training, "center")
    expected = others - training.mean(0)
    np.testing.assert_allclose(centered(others), expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    plain, _ = fit_transform(training, "none")
    np.testing.assert_allclose(plain(others), others, atol=1e-6)


@pytest.mark.parametrize(("count", "rank"), [(16, 16), (5, 16), (400, 10), (2, 1)])
def test_what_cannot_be_whitened_is_centered_and_says_so(count, rank):
    training = correlated(count)
    training[:, rank:] = 0
    transform, fallback = fit_transform(training, "whiten")
    assert transform.matrix is None
    assert f"{count} training descriptors vary along {min(rank, count - 1)} of 16" in fallback
    assert np.isfinite(transform(training)).all()


def test_what_cannot_be_fitted_says_why():
    with pytest.raises(ValueError, match="all 20 training descriptors are the same"):
        fit_transform(np.tile(correlated(1), (20, 1)), "whiten")
    with pytest.raises(ValueError, match="needs training descriptors: there are 1"):
        fit_transform(correlated(1), "center")
    broken = correlated(20)
    broken[3, 4] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        fit_transform(broken, "whiten")


@settings(max_examples=30)
@given(st.integers(2, 40), st.integers(1, 12), st.integers(0, 12), st.sampled_from(["whiten", "center", "none"]))
def test_never_nan(count, dims, empty, method):
    rng = np.random.default_rng([count, dims, empty])
    vectors = rng.normal(size=(count, dims)).astype(np.float32)
    vectors[:, empty:] = 0
    vectors[::3] = vectors[0]
    with contextlib.suppress(ValueError):
        transform, _ = fit_transform(vectors, method)
        for some in (vectors, np.zeros((1, dims), np.float32), transform.mean[None]):
            out = transform(some)
            assert np.isfinite(out).all()
            assert out.dtype == np.float32
            assert (np.linalg.norm(out, axis=1) < 1 + 1e-5).all()


def example() -> Calibration:
    transform, _ = fit_transform(correlated(100), "whiten")
    norm = ScoreNorm(1.0, 0, 2)
    facts = {"expected": {"precision": 0.9}}
    made_by = Provenance("w" * 64, "small_288", {"network": {"pool_param": 3.0}, "probe": [[1.0, 0.0]]})
    return Calibration(transform, norm, transform(correlated(30)), 0.25, made_by, facts)


def test_scores_are_similarities_less_the_background():
    calibration = example()
    queries, references = correlated(6, seed=3), correlated(9, seed=4)
    sets = [
        Descriptors([f"{name}{i}" for i in range(len(v))], v, calibration.provenance)
        for name, v in (("q", queries), ("r", references))
    ]
    asked, searched = calibration.apply(*sets)
    q, r = calibration.transform(queries), calibration.transform(references)
    near = -np.sort(-(q @ calibration.background.T), axis=1)[:, :3].mean(1, keepdims=True)
    np.testing.assert_allclose(asked @ searched.T, q @ r.T - near, atol=1e-5)
    short = [Descriptors(one.ids, one.vectors[:, :8], one.provenance) for one in sets]
    with pytest.raises(ValueError, match="for descriptors of 16 dimensions"):
        calibration.apply(*short)
    other = Descriptors(sets[0].ids, queries, Provenance("v" * 64, "small_288"))
    with pytest.raises(ValueError, match=r"calibration are of weights w{12}.*queries are of weights v{12}"):
        calibration.apply(other, sets[1])


@pytest.mark.parametrize("kind", ["whitened", "plain"])
def test_on_disk(kind, tmp_path):
    calibration = example()
    if kind == "plain":
        plain = Transform(calibration.transform.mean, None)
        empty = np.empty((0, 0), np.float32)
        calibration = Calibration(plain, None, empty, -1.5, calibration.provenance, {})
    calibration.write(tmp_path / "c.npz")
    again = Calibration.read(tmp_path / "c.npz")
    for name in ("norm", "threshold", "provenance", "facts"):
        assert getattr(again, name) == getattr(calibration, name)
    assert again.provenance.details == calibration.provenance.details, "which provenances are not compared by"
    np.testing.assert_array_equal(again.transform.mean, calibration.transform.mean)
    np.testing.assert_array_equal(again.background, calibration.background)
    vectors = correlated(3, seed=5)
    np.testing.assert_array_equal(again.transform(vectors), calibration.transform(vectors))
    assert [path.name for path in tmp_path.iterdir()] == ["c.npz"]


def test_damaged_files_are_named(tmp_path):
    path = tmp_path / "c.npz"
    example().write(path)
    intact = path.read_bytes()
    rng = np.random.default_rng(0)
    for damaged in (b"", b"text", intact[:200], intact[:-30]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"c\.npz is not a calibration.*sscd-jax calibrate"):
            Calibration.read(path)
    for _ in range(60):
        data = bytearray(intact)
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        path.write_bytes(data)
        with contextlib.suppress(ValueError):
            Calibration.read(path)
    broken = example()
    Calibration(broken.transform, broken.norm, broken.background, np.nan, broken.provenance).write(path)
    with pytest.raises(ValueError, match="its threshold is not finite"):
        Calibration.read(path)
    np.savez(path, mean=np.zeros(3))
    with pytest.raises(ValueError, match="is not a calibration"):
        Calibration.read(path)
    with pytest.raises(ValueError, match=r"absent\.npz is not a calibration"):
        Calibration.read(tmp_path / "absent.npz")
