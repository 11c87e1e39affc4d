"""DISC2021 is found in the layouts that people have."""

import shutil

import pytest
from helpers.set_folders import make_released_files, make_validation_set

from sscd_jax.datasets.disc2021 import find


def test_one_of_several_splits_must_be_chosen(images, tmp_path):
    released = make_released_files(sorted(images.iterdir()), tmp_path / "released")
    with pytest.raises(ValueError, match="has the splits dev, test: choose one by --split"):
        find(released)
    with pytest.raises(ValueError, match="has no ground_truth of the split val"):
        find(released, "val")
    split = find(released, "dev")
    assert [folder.name for folder in split.folders["references"]] == ["references_0", "references_1"]


def test_what_is_missing_is_named(images, tmp_path):
    with pytest.raises(ValueError, match=r"no DISC2021 in .*: looked for val_groundtruth_matches\.csv, dev_queries_g"):
        find(tmp_path)
    official = make_validation_set(sorted(images.iterdir()), tmp_path / "official")
    shutil.rmtree(official / "val_ref")
    with pytest.raises(ValueError, match="has no references of the split val: looked for val_ref"):
        find(official)
