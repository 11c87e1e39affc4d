import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from sscd_jax.data.sample import photograph_paths
from sscd_jax.embedding.pdq import is_installed, pdq_vectors

pdqhash = pytest.importorskip("pdqhash")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A photograph, the same a little darker, and two other photographs (one of them gray)."""
    folder = tmp_path_factory.mktemp("images")
    found = photograph_paths()
    china = Image.open(found["china"])
    ImageEnhance.Brightness(china).enhance(0.8).save(folder / "darker.jpg", quality=60)
    return [found["china"], folder / "darker.jpg", found["coffee"], found["camera"]]


def test_cosine_is_the_hamming_distance(images):
    vectors = pdq_vectors(images)
    assert vectors.shape == (4, 256)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(np.abs(vectors), np.float32(1 / 16))

    # The distance of two hashes from the package's own bits, counted as integers.
    bits = [pdqhash.compute(np.asarray(Image.open(p).convert("RGB")))[0] for p in images]
    distance = np.array([[np.count_nonzero(a != b) for b in bits] for a in bits])
    np.testing.assert_allclose(vectors @ vectors.T, 1 - 2 * distance / 256, atol=1e-6)


def test_a_copy_is_near_and_another_image_is_far(images):
    similarity = pdq_vectors(images) @ pdq_vectors(images).T
    assert similarity[0, 1] > 0.8
    assert max(similarity[0, 2], similarity[0, 3], similarity[2, 3]) < 0.5


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pdqhash", None)
    assert not is_installed()
    with pytest.raises(ImportError, match=r"pip install 'sscd_jax\[pdq\]'"):
        pdq_vectors([tmp_path / "any.jpg"])


def test_a_file_that_is_no_image_is_named(tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.jpg"):
        pdq_vectors([path])
