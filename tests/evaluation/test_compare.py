"""Two evaluations: what is chance and what is not."""

import numpy as np
import pytest

from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import disc
from sscd_jax.evaluation.compare import compare
from sscd_jax.provenance import Provenance

COPIES, OTHERS, DIMS = 60, 20, 32
TRUTH = [(f"q{i}", f"r{i}") for i in range(COPIES)]


def evaluated(noise: float, seed: int, bootstrap: int = 400, order: np.ndarray | None = None):
    """Queries that are references and noise, and some that are noise alone."""
    rng = np.random.default_rng(0)
    references = rng.normal(size=(COPIES, DIMS)).astype(np.float32)
    rng = np.random.default_rng(seed)
    copies = np.concatenate([references, np.zeros((OTHERS, DIMS), np.float32)])
    queries = (copies + noise * rng.normal(size=copies.shape)).astype(np.float32)
    ids = [f"q{i}" for i in range(COPIES + OTHERS)]
    order = np.arange(len(ids)) if order is None else order
    sets = [
        Descriptors([ids[i] for i in order], queries[order], Provenance("w", "p")),
        Descriptors([f"r{i}" for i in range(COPIES)], references, Provenance("w", "p")),
    ]
    return disc.evaluate(*sets, None, TRUTH, bootstrap=bootstrap)


def test_intervals_hold_the_metric():
    (row,) = evaluated(1.2, 1)
    for name, (low, high) in row["intervals"].items():
        assert 0 <= low < row[name] < high <= 1, name
        assert high - low < 0.35
    (exact,) = evaluated(1.2, 1, bootstrap=0)
    assert exact == {name: value for name, value in row.items() if name not in ("intervals", "bootstrap")}


def test_a_worse_network_is_worse_and_an_equal_one_is_not():
    good, same, bad = evaluated(1.0, 1), evaluated(1.0, 2), evaluated(2.0, 3)
    verdicts = {row["metric"]: row["verdict"] for row in compare(good, bad)}
    assert verdicts["uAP"] == verdicts["accuracy_at_1"] == "worse"
    assert {row["metric"]: row["verdict"] for row in compare(bad, good)}["uAP"] == "better"
    assert {row["verdict"] for row in compare(good, same)} == {"within noise"}
    for row in compare(good, bad):
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["difference"] == row["after"] - row["before"]


def test_differences_are_paired():
    """The same queries in another order are the same draws: no difference at all, and no width of it."""
    order = np.random.default_rng(0).permutation(COPIES + OTHERS)
    for row in compare(evaluated(1.2, 1), evaluated(1.2, 1, order=order)):
        assert row["difference"] == pytest.approx(0, abs=1e-12)
        assert (row["low"], row["high"], row["verdict"]) == (0, 0, "within noise")


def test_what_cannot_be_compared():
    rows = evaluated(1.0, 1)
    with pytest.raises(ValueError, match="no bootstrap to compare by"):
        compare(rows, evaluated(1.0, 1, bootstrap=0))
    with pytest.raises(ValueError, match="number of bootstrap samples"):
        compare(rows, evaluated(1.0, 1, bootstrap=10))
    with pytest.raises(ValueError, match="no codec and score normalization in common"):
        compare(rows, [row | {"codec": "PCA8,Flat"} for row in rows])
    for damage in ({"bootstrap": {}}, {"bootstrap": []}):
        with pytest.raises(ValueError, match="no bootstrap to compare by"):
            compare(rows, [rows[0] | damage])
    short = rows[0]["bootstrap"] | {"uAP": [0.5]}
    for damage in ({"bootstrap": short}, {"uAP": None}):
        with pytest.raises(ValueError, match="values of uAP are damaged"):
            compare(rows, [rows[0] | damage])
    with pytest.raises(ValueError, match="must be 0 for none"):
        evaluated(1.0, 1, bootstrap=-1)
