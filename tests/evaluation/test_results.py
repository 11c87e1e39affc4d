"""What an evaluation leaves on disk, and reads again."""

import contextlib
import csv
import json
import shutil

import numpy as np
import pytest

from sscd_jax.datasets.annotations import Edited
from sscd_jax.descriptors import Descriptors
from sscd_jax.evaluation import disc
from sscd_jax.evaluation.by_edit import by_edit
from sscd_jax.evaluation.results import Evaluation, label, read, read_rows, write
from sscd_jax.provenance import Provenance

QUERIES, REFERENCES, COPIES = 30, 50, 20
TRUTH = [(f"q{i}", f"r{49 - i}") for i in range(COPIES)] + [("q0", "r0")]
EDITS = {f"q{i}": Edited(("crop", "text")[: 1 + i % 2], ("weak", "strong")[i // 10]) for i in range(COPIES)}


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    rng = np.random.default_rng(0)
    references, training = (rng.normal(size=(n, 8)).astype(np.float32) for n in (REFERENCES, 60))
    queries = rng.normal(size=(QUERIES, 8)).astype(np.float32)
    queries[:COPIES] = references[::-1][:COPIES] + 0.6 * queries[:COPIES]
    sets = [
        Descriptors([f"{letter}{i}" for i in range(len(vectors))], vectors, Provenance("w", "p"))
        for letter, vectors in (("q", queries), ("r", references), ("t", training))
    ]
    found = disc.predict(
        *sets, TRUTH, codecs=["Flat"], score_norms=[None, "1.0[0,2]"], k=2, rules=["per_query", "global"]
    )
    rows = [
        disc.measure(one, sets[0].ids, TRUTH, bootstrap=20, precisions=(0.5, 0.99))
        | {"by_edit": by_edit(one.predictions, sets[0].ids, EDITS, bootstrap=20)}
        for one in found
    ]
    return Evaluation(rows, found, sets[0].ids, sets[1].ids, TRUTH, EDITS)


def test_what_was_written_is_read(evaluation, tmp_path):
    folder = write(tmp_path / "e.json", evaluation)
    assert sorted(path.name for path in folder.iterdir()) == [
        "by_edit.csv",
        "manifest.json",
        "predictions.npz",
        "thresholds.csv",
    ]
    again = read(tmp_path / "e.json")
    assert json.dumps(again.rows) == json.dumps(evaluation.rows)
    assert (again.ground_truth, again.edits) == (TRUTH, EDITS)
    assert list(again.query_ids) == list(evaluation.query_ids)
    for old, new in zip(evaluation.found, again.found, strict=True):
        assert new.settings == old.settings
        np.testing.assert_array_equal(new.pair_scores, old.pair_scores)
        for name in ("query", "score", "is_match", "positives"):
            np.testing.assert_array_equal(getattr(new.predictions, name), getattr(old.predictions, name), name)
        named = [
            [one.reference_ids[i] for i in found.predictions.reference]
            for one, found in ((evaluation, old), (again, new))
        ]
        assert named[0] == named[1]
        row = disc.measure(new, again.query_ids, again.ground_truth)
        assert row["uAP"] in [one["uAP"] for one in evaluation.rows]


def test_pairs_have_the_score_of_their_candidates(evaluation):
    for found in evaluation.found:
        score = dict(zip(TRUTH, found.pair_scores.tolist(), strict=True))
        predictions = found.predictions
        right = np.flatnonzero(predictions.is_match)
        assert len(right)
        for i in right:
            pair = evaluation.query_ids[predictions.query[i]], evaluation.reference_ids[predictions.reference[i]]
            assert score[pair] == pytest.approx(predictions.score[i], abs=1e-5)


def test_tables_are_for_spreadsheets(evaluation, tmp_path):
    folder = write(tmp_path / "e.json", evaluation)
    with (folder / "thresholds.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 4 * 100
    assert {row["score_norm"] for row in rows} == {"", "1.0[0,2]"}
    assert float(rows[99]["recall"]) == pytest.approx(
        evaluation.found[0].predictions.is_match.sum() / len(TRUTH), abs=1e-6
    )
    with (folder / "by_edit.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == sum(len(row["by_edit"]) for row in evaluation.rows)
    (all_copies,) = (
        r
        for r in rows
        if (r["kind"], r["number"], r["strength"], r["score_norm"], r["candidates"])
        == ("any", "any", "any", "", "global")
    )
    assert float(all_copies["uAP"]) == pytest.approx(evaluation.rows[2]["uAP"], rel=1e-5)
    assert float(all_copies["uAP_low"]) <= float(all_copies["uAP"]) <= float(all_copies["uAP_high"])


def test_labels_tell_rows_apart(evaluation):
    assert [label(row) for row in evaluation.rows] == [
        "Flat",
        "Flat, score norm 1.0[0,2]",
        "Flat, best of all",
        "Flat, score norm 1.0[0,2], best of all",
    ]
    assert label({"codec": "PCA8,Flat"}) == "PCA8,Flat"


def test_damaged_files_are_named(evaluation, tmp_path):
    path = tmp_path / "e.json"
    with pytest.raises(ValueError, match=r"e\.json.*that `sscd-jax evaluate` wrote"):
        read_rows(path)
    for empty in ("[]", '[{"codec": "Flat"}]'):
        write(path, evaluation)
        path.write_text(empty)
        with pytest.raises(ValueError, match=r"e\.json.* it has no rows|is damaged"):
            read(path)
        path.unlink()
    shutil.rmtree(tmp_path / "e")
    path.write_text('{"a": 1}')
    with pytest.raises(ValueError, match=r"e\.json: it has no rows"):
        read(path)
    with pytest.raises(ValueError, match=r"e\.json exists already and is not what would be written there"):
        write(path, evaluation)
    assert path.read_text() == '{"a": 1}'
    path.unlink()
    file = write(path, evaluation) / "predictions.npz"
    whole = file.read_bytes()
    rng = np.random.default_rng(0)
    for damaged in (b"", b"no zip", whole[: len(whole) // 2], whole[:-10]):
        file.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"predictions\.npz: .*evaluate again"):
            read(path)
    entry = whole.index(b"PK\1\2")  # of the directory: made by a later version, encrypted, compressed in an unknown way
    for offset, value in ((6, 150), (8, 1), (10, 99)):
        file.write_bytes(whole[: entry + offset] + bytes([value]) + whole[entry + offset + 1 :])
        with pytest.raises(ValueError, match=r"predictions\.npz: .*evaluate again"):
            read(path)
    for _ in range(40):  # a byte that is another: an error with the file's name, or nothing that matters
        bytes_ = bytearray(whole)
        bytes_[int(rng.integers(len(whole)))] ^= int(rng.integers(1, 256))
        file.write_bytes(bytes_)
        with contextlib.suppress(ValueError):
            read(path)
    file.unlink()
    with pytest.raises(ValueError, match=r"predictions\.npz"):
        read(path)


def test_a_folder_of_something_else_is_left_alone(evaluation, tmp_path):
    (tmp_path / "e").mkdir()
    write(tmp_path / "e.json", evaluation, lambda folder: (folder / "scores.svg").touch())
    assert (tmp_path / "e" / "scores.svg").exists()
    write(tmp_path / "e.json", evaluation)
    assert not (tmp_path / "e" / "scores.svg").exists(), "of the earlier one"
    for name, make in (
        ("file", lambda p: p.write_text("x")),
        ("images", lambda p: (p.mkdir(), (p / "1.jpg").touch())),
    ):
        make(tmp_path / name)
        with pytest.raises(
            ValueError,
            match=rf"{name} is a file, not a folder|{name} exists already and is not a folder of sscd_jax ev",
        ):
            write(tmp_path / f"{name}.json", evaluation)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["1.jpg"]
