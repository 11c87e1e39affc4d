"""The Python function, on files, arrays and descriptors."""

import subprocess
import sys

import numpy as np
import pytest
from helpers.small_collection import MODEL, PRESET, make_variables
from PIL import Image

import sscd_jax
from sscd_jax.data.sources import open_source
from sscd_jax.descriptors import Descriptors
from sscd_jax.embedding.collection import made_by, write_descriptors

SETTINGS = {"threshold": 0.9995, "score": "similarity"}  # the narrow network finds all photographs alike


@pytest.fixture(scope="module")
def model() -> sscd_jax.Model:
    variables = make_variables()
    return sscd_jax.Model(MODEL, variables, made_by(MODEL, variables, PRESET, "narrow"), PRESET)


@pytest.fixture
def photos(images, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in sorted(images.iterdir())[:5]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "copy.jpg").write_bytes((folder / "000.jpg").read_bytes())
    Image.open(folder / "001.jpg").save(folder / "pixels.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    return folder


def test_a_folder(photos, tmp_path, model):
    with pytest.warns(UserWarning, match="1 of 7 images cannot be read"):
        found = sscd_jax.find_duplicates(str(photos), model=model, **SETTINGS)
    assert sorted(found.groups) == [["000", "copy"], ["pixels", "001"]]
    assert found.remove == ["001", "copy"]
    assert found.keep == ["000", "002", "003", "004", "pixels"]
    assert repr(found) == "<sscd_jax.Duplicates: 8 images, 2 groups, 2 to remove>"
    assert found.pairs["kind"].tolist() == ["pixels", "bytes"]
    assert found.pairs["similarity"].tolist() == [1, 1]
    page = found.to_html(tmp_path / "page")
    assert "copy" in page.read_text()
    shown = found._repr_html_()
    assert shown.count("data:image/jpeg") == 4
    assert len(list(photos.iterdir())) == 8  # nothing is written there
    pd = pytest.importorskip("pandas")
    table = found.to_pandas()
    assert isinstance(table, pd.DataFrame)
    assert table["keep"].tolist() == [True, False, True, False]
    assert set(table["id"]) == {"000", "copy", "001", "pixels"}
    assert (table["width"] == 96).all()


def test_arrays_and_names_that_are_markup(images, model):
    pixels = [np.asarray(Image.open(path)) for path in sorted(images.iterdir())[:3]]
    found = sscd_jax.find_duplicates([*pixels, pixels[1]], model=model, ids=["<b>a</b>", "b", "c", "d"], **SETTINGS)
    assert found.groups == [["b", "d"]]
    found = sscd_jax.find_duplicates([pixels[0]] * 2, model=model, ids=["<b>a</b>", "b"], **SETTINGS)
    assert "<b>a</b>" not in found._repr_html_()


def test_descriptors(photos, tmp_path, model):
    write_descriptors(MODEL, model.variables, open_source(str(photos)), PRESET, tmp_path / "d", batch_size=8)
    found = sscd_jax.find_duplicates(Descriptors.read(tmp_path / "d"), **SETTINGS)
    assert sorted(map(sorted, found.groups)) == [["000", "copy"], ["001", "pixels"]]
    assert set(found.pairs["kind"]) <= {"pixels", "near"}
    assert found._repr_html_().count("data:image/jpeg") == 4  # read from where they were embedded
    moved = photos.rename(tmp_path / "elsewhere")
    found = sscd_jax.find_duplicates(Descriptors.read(tmp_path / "d"), **SETTINGS)
    assert sorted(map(sorted, found.groups)) == [["000", "copy"], ["001", "pixels"]]
    assert found._repr_html_().count("data:image/jpeg") == 0
    assert moved.exists()
    pytest.importorskip("pandas")
    assert found.to_pandas()["width"].isna().all()


def test_files_that_are_not_there_are_said(photos, model):
    with pytest.warns(UserWarning, match=r"1 of 2 images cannot be read.*\n.*gone\.jpg: No such file") as said:
        found = sscd_jax.find_duplicates([str(photos / "000.jpg"), str(photos / "gone.jpg")], model=model)
    assert said[0].filename == __file__
    assert found.keep == [str(photos / "000")]


def test_one_image_and_wrong_options(photos, model):
    one = sscd_jax.find_duplicates(str(photos / "000.jpg"), model=model)
    assert (one.groups, one.remove, one.pairs["id_a"].tolist()) == ([], [], [])
    with pytest.raises(ValueError, match="keep"):
        sscd_jax.find_duplicates([str(photos / "000.jpg")], model=model, keep="zzz")


def test_naming_it_imports_no_jax():
    code = "import sys, sscd_jax; assert 'find_duplicates' in dir(sscd_jax); print('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
