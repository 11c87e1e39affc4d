"""The metrics of memorization are those of the official code, written out here, on any similarities."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.small_collection import make_variables, write
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageEnhance
from scipy.stats import norm

from sscd_jax.cli.main import main
from sscd_jax.cli.memorization import COLUMNS
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import memorization
from sscd_jax.evaluation.memorization import METRICS, THRESHOLDS, evaluate, find_nearest, measure, newcombe, wilson
from sscd_jax.mapped_vectors import MappedVectors
from sscd_jax.provenance import Provenance

SIMILARITIES = arrays(np.float32, st.integers(1, 40), elements=st.floats(-1, 1, width=32))


def drawn(count: int, seed: int, letter: str = "t") -> Descriptors:
    vectors = np.random.default_rng(seed).normal(size=(count, 6))
    return unit(vectors, letter)


def unit(vectors: np.ndarray, letter: str, **provenance: str) -> Descriptors:
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    given = Provenance(**({"weights": "w" * 64, "preset": "dcr_224"} | provenance))
    return Descriptors([f"{letter}{i}" for i in range(len(vectors))], vectors, given)


def official(generated: np.ndarray, training: np.ndarray) -> dict[str, Any]:
    """What diff_retrieval.py logs, by whole matrices and sorts."""
    generated, training = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (generated, training))
    main_v = np.sort(training @ generated.T, axis=0)[-1]
    bg_v = np.sort(training @ training.T, axis=1)[:, -2]  # of the two best, the first is the image itself
    logged: dict[str, Any] = {"sim_gt_05pc": np.sum(main_v > 0.5) / main_v.shape[0]}
    for name, values in (("sim", main_v), ("bg", bg_v)):
        ranked = np.sort(values)
        for percentile in (75, 90, 95):
            place = percentile / 100 * (len(ranked) - 1)
            low, high = ranked[int(np.floor(place))], ranked[int(np.ceil(place))]
            logged[f"{name}_{percentile}pc"] = low + (high - low) * (place - np.floor(place))
        logged[f"{name}_mean"] = sum(values) / len(values)
        logged[f"{name}_std"] = (sum((values - sum(values) / len(values)) ** 2) / len(values)) ** 0.5
    return logged


NAMES = {"mean": "mean", "std": "std"} | {f"percentile_{p}": f"{p}pc" for p in (75, 90, 95)}


@pytest.mark.parametrize("references", [7, 2**20])
def test_what_the_official_code_logs(references, monkeypatch):
    monkeypatch.setattr(memorization, "REFERENCES", references)  # a part of this many is in memory at once
    training, generated = drawn(60, 0), drawn(45, 1, "g")
    training.vectors[10] = training.vectors[20] = training.vectors[30]  # duplicates of one another
    generated.vectors[:9] = training.vectors[:9] + 0.3 * generated.vectors[:9]
    generated.vectors[:9] /= np.linalg.norm(generated.vectors[:9], axis=1, keepdims=True)
    logged = official(generated.vectors.astype(float), training.vectors.astype(float))
    rows = evaluate(generated, training, bootstrap=0).rows
    for ours, theirs in NAMES.items():
        assert rows["generated"][ours] == pytest.approx(logged[f"sim_{theirs}"], abs=1e-6)
        assert rows["training"][ours] == pytest.approx(logged[f"bg_{theirs}"], abs=1e-6)
    assert rows["generated"]["share_above_0.5"] == logged["sim_gt_05pc"] > 0.2
    assert set(rows) == {"generated", "training"}


@given(SIMILARITIES)
@example(np.float32([0.5, 0.75, 0.6]))  # a threshold is not above itself
def test_measure_on_any_similarities(similarity):
    values, ranked = measure(similarity), np.sort(similarity.astype(float))
    assert list(values) == list(METRICS)
    assert all(type(value) is float for value in values.values())
    assert values["mean"] == pytest.approx(ranked.mean(), abs=1e-6)
    assert values["std"] == pytest.approx(ranked.std(), abs=1e-6)
    for threshold in THRESHOLDS:
        above = sum(one > np.float32(threshold) for one in similarity.tolist())
        assert values[f"share_above_{threshold}"] == above / len(similarity)
    percentiles = [values[name] for name in METRICS if name.startswith("percentile")]
    assert np.all(np.diff([ranked[0], *percentiles, ranked[-1]]) >= -1e-6)
    assert measure(similarity[::-1]) == pytest.approx(values, abs=1e-6), "the order of images does not matter"


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(0, 5), st.booleans())
def test_nearest_is_that_of_the_whole_matrix(queries, references, part, seed, among_themselves):
    """In parts of any size, from memory or from several files."""
    ours = drawn(references, seed).vectors
    asked = ours if among_themselves else drawn(queries, seed + 10).vectors
    products = asked @ ours.T
    own = None
    if among_themselves:
        np.fill_diagonal(products, -np.inf)
        own = np.arange(len(ours))
    mapped = MappedVectors(np.split(ours, [len(ours) // 2]), ours.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memorization, "REFERENCES", part)
        found = find_nearest(asked, mapped, own)
    np.testing.assert_allclose(found.similarity, products.max(1), atol=1e-6)
    if np.isfinite(products).any():
        np.testing.assert_allclose(products[np.arange(len(asked)), found.row], products.max(1), atol=1e-6)
        assert not among_themselves or (found.row != own).all()


def test_a_sample_of_the_training_images():
    training = drawn(50, 0)
    rows = evaluate(drawn(5, 1), training, bootstrap=0, training_sample=20).rows
    assert rows["training"]["images"] == 20
    everything = memorization.nearest_others(training.vectors, 50)
    some = memorization.nearest_others(training.vectors, 20)
    assert np.isin(some.similarity, everything.similarity).all()
    assert not np.array_equal(some.similarity, everything.similarity[:20])
    assert "training" not in evaluate(drawn(5, 1), training, bootstrap=0, training_sample=0).rows
    assert "training" not in evaluate(drawn(5, 1), drawn(1, 0), bootstrap=0).rows, "it has no other image"


def test_intervals_are_of_images_drawn_again():
    generated, training = drawn(30, 1, "g"), drawn(40, 0)
    made = evaluate(generated, training, bootstrap=50)
    rng, values = np.random.default_rng(memorization.SEEDS["generated"]), []
    ordered = np.sort(made.nearest.similarity)
    for _ in range(50):
        values.append(np.percentile(ordered[rng.integers(0, 30, 30)], 95))
    row = made.rows["generated"]
    assert row["intervals"]["percentile_95"] == pytest.approx(np.quantile(values, [0.025, 0.975]), abs=1e-6)
    assert set(row["intervals"]) == set(METRICS)
    for name, (low, high) in row["intervals"].items():
        assert low <= row[name] <= high, name
    assert evaluate(generated, training, bootstrap=50).rows == made.rows, "seeded"
    assert set(evaluate(generated, training, bootstrap=0).rows["generated"]["intervals"]) == {
        f"share_above_{threshold}" for threshold in THRESHOLDS
    }


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson(counted):
    """The limits are where a share would be that the found one is 1.96 standard errors away from (Wilson, 1927)."""
    k, n = counted
    low, high = wilson(k / n, n)
    assert 0 <= low <= k / n <= high <= 1
    z = norm.ppf(0.975)
    for limit, known in ((low, k == 0), (high, k == n)):
        if not known:
            assert abs(k / n - limit) == pytest.approx(z * (limit * (1 - limit) / n) ** 0.5, abs=1e-9)


def test_newcombe():
    """Two examples of the paper's table II, method 10."""
    for (k, n), (other, m), limits in (((56, 70), (48, 80), (0.0524, 0.3339)), ((0, 10), (0, 20), (-0.1611, 0.2775))):
        found = newcombe(k / n, wilson(k / n, n), other / m, wilson(other / m, m))
        assert found == pytest.approx(limits, abs=5e-5)


def test_the_background():
    training, generated, background = drawn(80, 0), drawn(60, 1, "g"), drawn(60, 2, "b")
    generated.vectors[:30] = training.vectors[:30]
    background.vectors[7] = training.vectors[3]
    rows = evaluate(generated, training, background, bootstrap=200).rows
    assert list(rows) == ["generated", "background", "training", "difference"]
    assert (rows["generated"]["same_as_training"], rows["background"]["same_as_training"]) == (30, 1)
    for name in METRICS:
        assert rows["difference"][name] == rows["generated"][name] - rows["background"][name]
    assert rows["difference"]["intervals"]["mean"][0] > 0
    low, high = rows["difference"]["intervals"]["share_above_0.75"]
    assert low < rows["difference"]["share_above_0.75"] < high


def test_the_interval_of_a_difference_covers_it():
    """Unseen images against unseen images: the difference is chance."""
    training = drawn(80, 0)
    covered = Counter()
    for seed in range(1, 61):
        rows = evaluate(drawn(30, seed), training, drawn(40, 1000 + seed), bootstrap=0, training_sample=0).rows
        for name, (low, high) in rows["difference"]["intervals"].items():
            covered[name] += low <= 0 <= high
    assert len(covered) == 3
    assert min(covered.values()) >= 54, "95 % of 60 are 57"
    generated, background = (
        memorization.resampled(find_nearest(drawn(40, seed).vectors, training.vectors).similarity, 200, seed)
        for seed in (1, 2)
    )
    low, high = np.quantile(generated["mean"] - background["mean"], [0.025, 0.975])
    assert low < 0 < high


def test_one_generated_image_has_no_intervals():
    rows = evaluate(drawn(1, 1), drawn(9, 0), drawn(9, 2), bootstrap=10).rows
    assert rows["generated"]["intervals"] == rows["difference"]["intervals"] == {}
    assert rows["generated"]["mean"] == rows["generated"]["percentile_5"]
    assert len(rows["background"]["intervals"]) == len(METRICS)


def test_what_is_refused():
    training, none = drawn(5, 0), Descriptors([], np.empty((0, 6), np.float32), Provenance("w" * 64, "dcr_224"))
    with pytest.raises(ValueError, match="there are no descriptors of the training images"):
        evaluate(training, none)
    with pytest.raises(ValueError, match="there are no descriptors of the generated images"):
        evaluate(none, training)
    with pytest.raises(ValueError, match="there are no descriptors of the background images"):
        evaluate(training, training, none)
    other = unit(training.vectors, "b", preset="small_288")
    with pytest.raises(ValueError, match=r"background are of .* small_288: embed both with the same"):
        evaluate(training, training, other)
    long = Descriptors(training.ids, 2 * training.vectors, training.provenance)
    with pytest.raises(ValueError, match="the descriptors of the generated images do not have norm 1"):
        evaluate(long, training)


@pytest.fixture(scope="module")
def folders(images, tmp_path_factory) -> dict[str, str]:
    """Descriptors of photographs: training images, others, and "generated" ones, half of them edits of the former."""
    root, paths = tmp_path_factory.mktemp("sets"), sorted(images.iterdir())
    for name, some in (("training", paths[:20]), ("background", paths[20:28]), ("generated", paths[:6])):
        (root / name).mkdir()
        for path in some:
            image = Image.open(path)
            if name == "generated":
                image = ImageEnhance.Brightness(image).enhance(1.1)
            image.save(root / name / f"{name[0]}, {path.stem}.png")
    for path in paths[30:36]:
        Image.open(path).save(root / "generated" / f"g, {path.stem}.png")
    out = {name: str(root / "descriptors" / name) for name in ("training", "background", "generated")}
    for name, folder in out.items():
        write(make_variables(), root / name, Path(folder))
    return out


def call(folders: dict[str, str], *options: str, without: str = "") -> None:
    sets = [word for name, folder in folders.items() if name != without for word in (f"--{name}", folder)]
    main(["evaluate", "memorization", *sets, *options])


@pytest.mark.slow
def test_the_command(folders, capsys):
    call(folders, "--bootstrap", "40")
    printed = capsys.readouterr()
    assert "the preset short_48, the published numbers are of dcr_224" in printed.err
    lines = printed.out.splitlines()
    assert lines[0].split() == [
        "similarity",
        "generated",
        "background",
        *COLUMNS["difference"].split(),
        *COLUMNS["training"].split(),
    ]
    assert lines[1].split() == ["images", "12", "8", "20"]
    assert any(line.startswith("percentile 95 (dataset similarity)  ") for line in lines)
    out = Path(f"{folders['generated']}.memorization.json")
    made = json.loads(out.read_text())
    sets = {name: Descriptors.read(folder) for name, folder in folders.items()}
    expected = evaluate(**sets, bootstrap=40)
    assert {name: made[name] for name in expected.rows} == json.loads(json.dumps(expected.rows))
    assert made["settings"]["training"] == folders["training"]
    assert (made["settings"]["bootstrap"], made["settings"]["training_sample"]) == (40, 10_000)
    assert made["provenance"]["background"]["preset"] == "short_48"
    assert made["provenance"]["background"]["details"]["source"].endswith("background")

    with out.with_suffix(".pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    assert Counter(pair["generated_id"] for pair in pairs) == Counter(sets["generated"].ids), "one line each"
    similarity = [float(pair["similarity"]) for pair in pairs]
    assert similarity == sorted(similarity, reverse=True)
    products = sets["generated"].vectors @ sets["training"].vectors.T
    for pair in pairs:
        row, column = sets["generated"].ids.index(pair["generated_id"]), sets["training"].ids.index(pair["training_id"])
        assert products[row, column] == pytest.approx(products[row].max(), abs=1e-6)
        assert float(pair["similarity"]) == pytest.approx(products[row].max(), abs=2e-6)


def test_the_command_without_a_background(folders, tmp_path, capsys):
    out = tmp_path / "out.json"
    call(folders, "--bootstrap", "0", "--training-sample", "0", "--out", str(out), without="background")
    assert capsys.readouterr().out.splitlines()[0].split() == ["similarity", "generated"]
    assert {"background", "difference", "training"}.isdisjoint(json.loads(out.read_text()))
    assert (tmp_path / "out.pairs.csv").read_text().startswith("generated_id,training_id,similarity\n")


def test_a_background_that_the_model_has_seen_is_said(folders, tmp_path, capsys):
    Descriptors.read(folders["training"]).write(tmp_path / "seen")
    call(folders | {"background": str(tmp_path / "seen")}, "--bootstrap", "0", "--out", str(tmp_path / "out.json"))
    assert "20 images of the background are training images, by the same descriptor" in capsys.readouterr().err


def test_what_the_command_refuses(folders, tmp_path, capsys):
    def refused(given: dict[str, str], *options: str) -> str:
        with pytest.raises(SystemExit) as ended:
            call(given, *options, "--out", str(tmp_path / "out.json"))
        assert ended.value.code == 1
        return capsys.readouterr().err

    link = tmp_path / "link"
    link.symlink_to(folders["training"])
    assert "--generated and --training are the same folder" in refused(
        {"generated": f"{link}/", "training": folders["training"]}
    )
    assert "--training and --background are the same folder" in refused({**folders, "background": folders["training"]})
    assert "--bootstrap -1: it must be 0 for none, or more" in refused(folders, "--bootstrap=-1")
    assert "--training-sample -1" in refused(folders, "--training-sample=-1")
    other = Descriptors.read(folders["generated"])
    Descriptors(other.ids, other.vectors, Provenance("x" * 64, "dcr_224")).write(tmp_path / "other")
    assert "embed both with the same weights and preset" in refused({**folders, "generated": str(tmp_path / "other")})
    (tmp_path / "out.pairs.csv").write_text("mine\n")
    assert "out.pairs.csv exists already and is not what would be written there" in refused(folders)
    assert not (tmp_path / "out.json").exists()
