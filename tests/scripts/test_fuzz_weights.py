"""scripts/fuzz_weights.py in short, and that it notices what is wrong."""

import fuzz_weights
import numpy as np
import pytest
from helpers.networks import needs_torch

from sscd_jax import weights


@pytest.mark.slow
def test_damaged_weights_are_read_or_are_an_error_that_names_them(tmp_path, capsys):
    needs_torch()
    findings = fuzz_weights.fuzz(tmp_path, 600, 60, 0, None)
    assert findings == []
    assert "60 cases, seeds 0 to 59, 0 findings" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def fails(error: BaseException):
    def load(path):
        raise error

    return load


@pytest.mark.slow
def test_what_it_must_notice(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    for load, expected in (
        (lambda path: None, "read"),
        (fails(ValueError(f"{path} is broken")), "refused"),
        (fails(ValueError(f"{path}: the weights do not fit the network:\n  missing: a\n  missing: b")), "refused"),
        (fails(ValueError("it is broken")), "no name"),
        (fails(OSError(f"{path}:\nbroken")), "several lines"),
        (fails(KeyError(str(path))), "KeyError"),
        (lambda path: np.ones(200_000_000), "memory"),
    ):
        monkeypatch.setattr(weights, "load", load)
        assert fuzz_weights.judged(path)[0] == expected
    monkeypatch.setattr(fuzz_weights, "SECONDS", 0.01)
    monkeypatch.setattr(weights, "load", lambda path: sum(range(5_000_000)))
    assert fuzz_weights.judged(path)[0] == "slow"
