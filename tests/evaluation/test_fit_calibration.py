"""What a calibration promises, on images that it has not seen."""

import json

import numpy as np
import pytest

from sscd_jax.cli.main import main
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import disc
from sscd_jax.evaluation.fit_calibration import calibrate_by_precision, calibrate_by_rate
from sscd_jax.evaluation.thresholds import at_thresholds
from sscd_jax.provenance import Provenance
from sscd_jax.search.calibration import Calibration
from sscd_jax.search.knn import knn

DIMS = 32
MIX = np.random.default_rng(9).normal(size=(DIMS, DIMS))


def drawn(letter: str, count: int, seed: int) -> Descriptors:
    """Descriptors of one distribution, far from isotropic."""
    vectors = np.random.default_rng(seed).normal(size=(count, DIMS)) @ MIX + 1
    return of(letter, vectors)


def of(letter: str, vectors: np.ndarray) -> Descriptors:
    unit = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return Descriptors([f"{letter}{i}" for i in range(len(unit))], unit, Provenance("w" * 64, "small_288"))


def copies(references: Descriptors, count: int, others: int, seed: int) -> tuple[Descriptors, list[tuple[str, str]]]:
    """Queries that are noisy references, and some that copy nothing."""
    rng = np.random.default_rng(seed)
    which = rng.choice(len(references.ids), count, replace=False)
    noise = rng.normal(size=(count, DIMS)) / np.sqrt(DIMS) * rng.uniform(0, 0.6, (count, 1))
    vectors = np.concatenate([references.vectors[which] + noise, drawn("x", others, 1000 + seed).vectors])
    return of("q", vectors), [(f"q{i}", f"r{which[i]}") for i in range(count)]


@pytest.mark.parametrize("score_norm", ["1.0[0,2]", pytest.param(None, marks=pytest.mark.slow)])
def test_the_rate_holds_on_new_images(score_norm):
    references = drawn("r", 800, 1)
    inside = 0
    for seed in range(12):
        fitted = calibrate_by_rate(drawn("t", 1500, 100 + seed), references, rate=0.05, score_norm=score_norm)
        asked, searched = fitted.apply(drawn("n", 4000, 50 + seed), references)
        best, _ = knn(asked, searched, 1, "inner_product")
        rate = (best[:, 0] >= fitted.threshold).mean()
        expected = fitted.facts["expected"]
        low, high = expected["false_positive_rate_interval"]
        assert low < expected["false_positive_rate"] <= 0.05 < high
        inside += low <= rate <= high
        assert rate == pytest.approx(0.05, abs=0.04)
    assert inside >= 8  # 95 % of 12 are 11.4; fewer than 8 by chance: less than once in 20,000 runs


def test_without_references_the_training_images_are_searched():
    training = drawn("t", 900, 3)
    fitted = calibrate_by_rate(training, rate=0.02)
    assert "300 held-back training images, searched for in 300 others" in fitted.facts["measured_on"]
    assert len(fitted.facts["highest"]) == int(0.02 * 301)
    assert sum(score >= fitted.threshold for _, _, score in fitted.facts["highest"]) == int(0.02 * 301) - 1
    assert len(fitted.background) == 300
    assert len(calibrate_by_rate(training, rate=0.02, background=50).background) == 50
    again = calibrate_by_rate(training, rate=0.02)
    assert again.threshold == fitted.threshold
    assert calibrate_by_rate(training, rate=0.02, seed=1).threshold != fitted.threshold


def test_one_collection_is_no_match_of_itself():
    """Training images that are the references, under the same ids or others, and images that are there twice."""
    images = drawn("t", 900, 3)
    others = calibrate_by_rate(images, drawn("r", 600, 4), rate=0.02).threshold
    assert others < 0.9
    renamed = Descriptors([f"r{i}" for i in range(900)], images.vectors, images.provenance)
    fitted = [calibrate_by_rate(images, one, rate=0.02) for one in (images, renamed)]
    assert fitted[0].threshold == fitted[1].threshold == pytest.approx(others, abs=0.08)
    assert [one.facts["left_out"] for one in fitted] == [{"training_images": 0, "pairs": 300}] * 2
    assert not any(a == b for a, b, _ in fitted[0].facts["highest"])

    again = np.random.default_rng(0).choice(900, 200, replace=False)
    ids = [*images.ids, *(f"again{i}" for i in again)]
    twice = Descriptors(ids, np.concatenate([images.vectors, images.vectors[again]]), images.provenance)
    for references in (None, twice):
        assert calibrate_by_rate(twice, references, rate=0.02).threshold == pytest.approx(others, abs=0.08)
    assert calibrate_by_rate(twice, rate=0.02).facts["left_out"] == {"training_images": 200, "pairs": 0}
    whole = calibrate_by_rate(twice, twice, rate=0.02).facts["left_out"]
    assert whole["pairs"] > 300, "both copies of a held-back image are among the references"
    three = Descriptors(images.ids[:3], images.vectors[:3], images.provenance)
    assert calibrate_by_rate(three, three, rate=0.5, score_norm=None).threshold < 0.99
    for few in (images.ids[:1], images.ids[:2]):
        few = Descriptors(few, images.vectors[: len(few)], images.provenance)
        assert calibrate_by_rate(images, few, rate=0.5).facts["left_out"]["pairs"] <= 2


def test_references_that_are_all_the_held_back_image_are_refused():
    images = drawn("t", 6, 0)
    order = np.random.default_rng(0).permutation(6)
    vectors = np.repeat(images.vectors[order[:1]], 3, axis=0)
    references = Descriptors(["r0", "r1", "r2"], vectors, images.provenance)
    with pytest.raises(ValueError, match="every reference is the same image as a training image"):
        calibrate_by_rate(images, references, rate=0.5, score_norm=None, method="none")


def test_the_precision_holds_on_new_queries():
    references = drawn("r", 600, 1)
    training = drawn("t", 900, 2)
    inside = 0
    for seed in range(8):
        queries, truth = copies(references, 400, 400, 10 * seed)
        fitted = calibrate_by_precision(training, queries, references, truth, precision=0.9, samples=200, k=1)
        new, new_truth = copies(references, 600, 600, 10 * seed + 5)
        (found,) = disc.predict_calibrated(new, references, new_truth, fitted, k=1)
        (row,) = at_thresholds(found.predictions, np.array([fitted.threshold]))
        expected = fitted.facts["expected"]
        pairs = {"precision": "precision", "recall": "recall", "false_positive_rate": "false_alarms"}
        for name, measured in pairs.items():
            low, high = expected[f"{name}_interval"]
            assert low <= expected[name] <= high
            assert low < high
            inside += low <= row[measured] <= high
        assert expected["precision"] == pytest.approx(0.9, abs=0.04)
    assert inside >= 19  # of 24


def test_the_calibrated_row_is_that_of_the_codec():
    references, training = drawn("r", 300, 1), drawn("t", 500, 2)
    queries, truth = copies(references, 100, 50, 7)
    fitted = calibrate_by_precision(training, queries, references, truth, precision=0.9, samples=20)
    (found,) = disc.predict_calibrated(queries, references, truth, fitted)
    ours = disc.measure(found, queries.ids, truth)
    codec = f"PCAW{DIMS},L2norm,Flat"
    (row,) = disc.evaluate(queries, references, training, truth, codecs=[codec], score_norms=["1.0[0,2]"])
    for name in ("uAP", "accuracy_at_1", "recall_at_p90"):
        assert ours[name] == pytest.approx(row[name], abs=2e-3)
    assert fitted.facts["recall_on_these"] == pytest.approx(ours["recall_at_p90"])


def test_what_cannot_be_calibrated_says_why():
    few = drawn("t", 60, 0)
    with pytest.raises(ValueError, match=r"60 training descriptors are too few .* of 0\.01.*give 297"):
        calibrate_by_rate(few, rate=0.01)
    with pytest.raises(ValueError, match=r"or a rate of at least 0\.048"):
        calibrate_by_rate(few, rate=0.01)
    assert calibrate_by_rate(few, rate=0.048).threshold < 1, "as it says"
    with pytest.raises(ValueError, match="the smallest that is counted is 5e-05"):
        calibrate_by_rate(few, rate=1e-5)
    with pytest.raises(ValueError, match=r"give 297$"):
        calibrate_by_rate(drawn("t", 2, 0), rate=0.01)
    with pytest.raises(ValueError, match="must be between 0 and 1"):
        calibrate_by_rate(few, rate=0)
    with pytest.raises(ValueError, match="are the same"):
        calibrate_by_rate(of("t", np.ones((60, DIMS))), rate=0.1)
    with pytest.raises(ValueError, match="needs 3 training descriptors as its background, there are 2"):
        calibrate_by_rate(few, rate=0.1, background=2)
    facts = calibrate_by_rate(drawn("t", 300, 0), rate=0.1).facts
    assert (facts["method"], facts["fallback"]) == ("whiten", "")
    facts = calibrate_by_rate(few, rate=0.1).facts
    assert facts["method"] == "center"
    assert "centered, not whitened: 20 training" in facts["fallback"]
    references = drawn("r", 50, 1)
    with pytest.raises(ValueError, match=r"no threshold has a precision of 0\.9"):
        calibrate_by_precision(few, drawn("q", 20, 2), references, [("q0", "r49")], precision=0.9, samples=5)
    with pytest.raises(ValueError, match="must be over 0, and 1 at most"):
        calibrate_by_precision(few, drawn("q", 20, 2), references, [("q0", "r49")], precision=1.1)


@pytest.mark.slow
def test_the_commands(tmp_path, capsys):
    references, training = drawn("r", 300, 1), drawn("t", 400, 2)
    queries, truth = copies(references, 100, 50, 7)
    for name, one in (("queries", queries), ("references", references), ("training", training)):
        one.write(tmp_path / name)
    pairs = tmp_path / "truth.csv"
    pairs.write_text("query_id,reference_id\n" + "".join(f"{q},{r}\n" for q, r in truth))
    sets = [text for name in ("queries", "references", "training") for text in (f"--{name}", str(tmp_path / name))]
    truth_option = ["--ground-truth", str(pairs)]
    main(["calibrate", *sets, *truth_option, "--precision", "0.8", "--out", str(tmp_path / "c.npz")])
    said = json.loads(capsys.readouterr().out)
    assert said["threshold"] == Calibration.read(tmp_path / "c.npz").threshold
    assert said["expected"]["precision"] == pytest.approx(0.8, abs=0.1)

    main(["evaluate", "disc", *sets, *truth_option, "--calibration", str(tmp_path / "c.npz"), "--bootstrap", "0"])
    assert "At the threshold of the calibration" in capsys.readouterr().out
    *_, row = json.loads((tmp_path / "queries.disc.json").read_text())
    assert (row["codec"], row["score_norm"]) == ("calibrated", "1.0[0,2]")
    assert row["at_calibration"]["precision"] >= 0.8

    (tmp_path / "one.csv").write_text("query_id,reference_id\nr0,r1\n")
    same = ["--queries", str(tmp_path / "references"), *sets[2:4], "--ground-truth", str(tmp_path / "one.csv")]
    main(["evaluate", "disc", *same, "--bootstrap", "0", "--out", str(tmp_path / "same.json")])
    assert "\n300 pairs of an image and a reference are left out: they are the same image" in capsys.readouterr().out
    assert [row["left_out"] for row in json.loads((tmp_path / "same.json").read_text())] == [300]

    one = ["--training", str(tmp_path / "training"), "--references", str(tmp_path / "training")]
    main(["calibrate", *one, "--false-positive-rate", "0.05", "--out", str(tmp_path / "r.npz")])
    told = capsys.readouterr()
    assert json.loads(told.out)["left_out"] == {"training_images": 0, "pairs": 133}
    assert json.loads(told.out)["threshold"] < 0.9
    assert "133 pairs of an image and a reference are left out: they are the same image" in told.err
    main(["calibrate", *sets[2:], "--false-positive-rate", "0.05", "--out", str(tmp_path / "r.npz")])
    assert json.loads(capsys.readouterr().out)["expected"]["false_positive_rate"] <= 0.05
    for options, message in (
        ([*sets[:2], *sets[4:]], "--queries, --references and --ground-truth go together"),
        ([*sets, *truth_option, "--false-positive-rate", "0.1"], "is counted on training descriptors"),
        ([*sets[2:], "--precision", "0.9"], "--precision needs --queries"),
    ):
        with pytest.raises(SystemExit):
            main(["calibrate", *options, "--out", str(tmp_path / "x.npz")])
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x.npz").exists()
