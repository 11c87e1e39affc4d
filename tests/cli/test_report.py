"""The command `report` names the networks as the user does."""

import numpy as np
import pytest

from sscd_jax.cli.main import main
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import results
from sscd_jax.evaluation.run import evaluate_disc
from sscd_jax.provenance import Provenance


@pytest.fixture
def evaluations(tmp_path) -> list[str]:
    rng = np.random.default_rng(0)
    sets = [
        Descriptors(
            [f"{letter}{i}" for i in range(12)], rng.normal(size=(12, 4)).astype(np.float32), Provenance("w", "p")
        )
        for letter in "qr"
    ]
    truth = [(f"q{i}", f"r{i}") for i in range(8)]
    made = evaluate_disc(*sets, None, truth, codecs=["Flat"], score_norms=[None], bootstrap=0)
    for name in ("a", "b"):
        results.write(tmp_path / f"{name}.json", made)
    return [str(tmp_path / f"{name}.json") for name in ("a", "b")]


def test_names_of_networks(evaluations, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    page = tmp_path / "a.html"
    main(["report", *evaluations])
    assert all(text in page.read_text() for text in (">a: Flat<", ">b: Flat<"))
    main(["report", *evaluations, "--name", "SSCD, mixup", "ours"])
    assert all(text in page.read_text() for text in (">SSCD, mixup: Flat<", ">ours: Flat<"))
    main(["report", evaluations[0], "--name", "ours"])
    assert ">ours: Flat<" in page.read_text()
    capsys.readouterr()
    for names in (["ours"], ["ours", "ours"]):
        with pytest.raises(SystemExit):
            main(["report", *evaluations, "--name", *names])
        assert "give 2 different names, one for each evaluation" in capsys.readouterr().err
