"""The photographs are those that the packages ship."""

import subprocess
import sys
from importlib.machinery import ModuleSpec

import numpy as np
import pytest
import skimage
import sklearn.datasets
from PIL import Image

from sscd_jax.data import sample
from sscd_jax.data.sample import EVALUATION, TRAINING, photograph_paths


def test_every_photograph_is_there_and_is_on_one_side():
    paths = photograph_paths()
    assert tuple(paths) == TRAINING + EVALUATION
    assert len(set(paths.values())) == len(paths)
    for path in paths.values():
        with Image.open(path) as image:
            image.load()
            assert min(image.size) >= 300


@pytest.mark.parametrize("name", ["astronaut", "coffee", "camera", "rocket"])
def test_names_are_the_packages_own(name):
    with Image.open(photograph_paths()[name]) as image:
        np.testing.assert_array_equal(np.asarray(image), getattr(skimage.data, name)())


def test_scikit_learn_photograph_is_its_own():
    with Image.open(photograph_paths()["china"]) as image:
        np.testing.assert_array_equal(np.asarray(image), sklearn.datasets.load_sample_image("china.jpg"))


def test_neither_package_is_imported():
    # A fresh interpreter: this one has both.
    code = (
        "import sys; from sscd_jax.data.sample import photograph_paths; photograph_paths(); "
        "sys.exit(bool({'skimage', 'sklearn', 'jax', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_absent_package_is_named_with_the_remedy(monkeypatch):
    monkeypatch.setattr(sample, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match=r"skimage.*pip install 'sscd_jax\[demo\]'"):
        photograph_paths()


def test_an_absent_file_is_named_with_the_remedy(monkeypatch, tmp_path):
    spec = ModuleSpec("empty", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(sample, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match=r"astronaut\.png.*pip install"):
        photograph_paths()
