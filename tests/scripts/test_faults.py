"""scripts/faults.py in short, and that it says what is wrong."""

import faults
import numpy as np
import pytest

from sscd_jax.descriptors import Descriptors


@pytest.mark.slow
def test_a_short_campaign(capfd):
    faults.main(runs=3, seed=1)
    assert "nothing was lost or mixed up" in capfd.readouterr().out


@pytest.mark.slow
def test_what_it_must_notice(tmp_path):
    faults.collection(tmp_path)
    (tmp_path / "mine.txt").write_text("mine")
    for step in faults.ATTEMPTS:
        faults.work(step, tmp_path)
    read = Descriptors.read(tmp_path / "out")
    expected = dict(zip(read.ids, np.array(read.vectors), strict=True))
    assert faults.check(tmp_path, expected) == []
    names = list(expected)
    swapped = expected | {names[0]: expected[names[1]], "another": expected[names[2]]}
    assert faults.check(tmp_path, swapped) == [
        "another is missing",
        f"{names[0]} has the descriptor of something else",
    ]
    np.save(tmp_path / "all.npy", np.zeros((48, 16), np.float32))
    (tmp_path / "mine.txt").write_text("changed")
    (tmp_path / "out" / "notes.txt").write_text("?")
    assert faults.check(tmp_path, expected) == [
        "the export has other ids or vectors",
        "a file of others was changed",
        "notes.txt was left",
    ]
