"""The demo's image set: what it has, and that nothing of the evaluation is in the training."""

import csv
import filecmp
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sscd_jax.data.sample import EVALUATION, TRAINING, photograph_paths
from sscd_jax.datasets.demo_set import COPIES_OF_EACH, NON_COPIES, REFERENCES, least_detail, make
from sscd_jax.datasets.edits import DEMO_KINDS
from sscd_jax.datasets.screening import detail

COPIES = REFERENCES * COPIES_OF_EACH


@pytest.fixture(scope="module")
def demo_set(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, int]]:
    out = tmp_path_factory.mktemp("set") / "set"
    return out, make(out, seed=0)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _box(row: dict[str, str]) -> tuple[int, int, int, int]:
    return int(row["left"]), int(row["top"]), int(row["right"]), int(row["bottom"])


def test_the_files_are_those_of_the_tables(demo_set):
    out, counts = demo_set
    assert counts["references"] == REFERENCES
    assert counts["copies"] == COPIES
    assert counts["non_copies"] == NON_COPIES
    assert counts["training"] >= 400
    stems = {folder: sorted(p.stem for p in (out / folder).iterdir()) for folder in _FOLDERS}
    assert {folder: len(names) for folder, names in stems.items()} == {
        "training": counts["training"],
        "references": REFERENCES,
        "queries": COPIES + NON_COPIES,
    }
    assert [row["id"] for row in _rows(out / "instances.csv")] == stems["training"] + stems["references"]
    assert [row["query_id"] for row in _rows(out / "queries.csv")] == stems["queries"]
    assert [path.name for path in out.parent.iterdir()] == ["set"]


_FOLDERS = ("training", "references", "queries")


def test_no_photograph_is_on_both_sides_and_no_cuts_of_the_evaluation_overlap(demo_set):
    out, _ = demo_set
    instances, queries = _rows(out / "instances.csv"), _rows(out / "queries.csv")
    assert {r["photograph"] for r in instances if r["id"][0] == "T"} <= set(TRAINING)
    assert {r["photograph"] for r in instances if r["id"][0] == "R"} <= set(EVALUATION)
    assert {r["photograph"] for r in queries} <= set(EVALUATION)
    # Cuts of references, and of queries that copy nothing (a cut may serve two of those).
    cuts = [(r["photograph"], _box(r)) for r in instances if r["id"][0] == "R"]
    cuts += sorted({(r["photograph"], _box(r)) for r in queries if not r["reference_id"]})
    for (a, (left, top, right, bottom)), (b, (x0, y0, x1, y1)) in combinations(cuts, 2):
        assert a != b or right <= x0 or x1 <= left or bottom <= y0 or y1 <= top


def test_the_ground_truth_pairs_cuts_of_the_same_place(demo_set):
    out, _ = demo_set
    references = {r["id"]: (r["photograph"], _box(r)) for r in _rows(out / "instances.csv")}
    queries = _rows(out / "queries.csv")
    truth = [(r["query_id"], r["reference_id"]) for r in _rows(out / "ground_truth.csv")]
    assert truth == [(r["query_id"], r["reference_id"]) for r in queries if r["reference_id"]]
    assert set(Counter(reference for _, reference in truth).values()) == {COPIES_OF_EACH}
    assert len(truth) == COPIES
    for row in queries:
        if row["reference_id"]:
            assert references[row["reference_id"]] == (row["photograph"], _box(row))
        names = row["edits"].split(" + ")
        assert len(names) in (2, 3)
        assert set(names) <= set(DEMO_KINDS)


def test_a_reference_is_its_cut_of_the_photograph(demo_set):
    """The pixels, found again in the photograph without this package's code."""
    out, _ = demo_set
    paths = photograph_paths()
    for row in _rows(out / "instances.csv")[::40]:
        photograph = Image.open(paths[row["photograph"]]).convert("RGB")
        if max(photograph.size) > 760:
            continue  # cut from a reduced photograph
        folder = "training" if row["id"][0] == "T" else "references"
        saved = Image.open(out / folder / f"{row['id']}.jpg")
        cut = photograph.crop(_box(row))
        small = np.asarray(saved.resize(cut.size, Image.Resampling.BOX)).astype(float)
        assert np.corrcoef(small.ravel(), np.asarray(cut).astype(float).ravel())[0, 1] > 0.9


def test_neither_size_nor_file_tells_a_copy_from_another_image(demo_set):
    out, _ = demo_set
    sides = {}
    for folder in _FOLDERS:
        images = [Image.open(path) for path in (out / folder).iterdir()]
        assert {image.format for image in images} == {"JPEG"}
        sides[folder] = [min(image.size) for image in images]
        assert min(sides[folder]) >= 128
        assert max(sides[folder]) <= 192
    means = [np.mean(side) for side in sides.values()]
    assert max(means) - min(means) < 6  # a uniform short side has mean 160, here +-1.3 at most
    # Copies and the other queries come in mixed order.
    copies = [bool(row["reference_id"]) for row in _rows(out / "queries.csv")]
    assert abs(np.mean(copies[:150]) - COPIES / (COPIES + NON_COPIES)) < 0.17


def test_every_cut_has_something_to_see(demo_set):
    out, _ = demo_set
    for folder in ("training", "references"):
        for path in (out / folder).iterdir():
            pixels = np.asarray(Image.open(path).convert("L"))
            halves = [half for rows in np.array_split(pixels, 2) for half in np.array_split(rows, 2, axis=1)]
            assert min(half.std() for half in halves) > 4, path


def test_detail_of_flat_images_gradients_and_photographs():
    ramp = np.tile(np.arange(0, 128, dtype=np.uint8), (128, 1))
    assert detail(Image.new("RGB", (90, 70), (200, 30, 90))) == pytest.approx(0, abs=1e-9)
    assert detail(Image.fromarray(ramp)) < 0.5
    assert ramp.std() > 30
    china = Image.open(photograph_paths()["china"])
    assert detail(china) > 30
    china.paste((200, 30, 90), (0, 0, china.width // 2, china.height // 2))
    assert detail(china) > 30
    assert least_detail(china) == pytest.approx(0, abs=1e-9)


@pytest.mark.slow
def test_the_seed_decides_everything(demo_set, tmp_path):
    out, _ = demo_set
    make(tmp_path / "same", seed=0)
    make(tmp_path / "other", seed=1)
    files = sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())
    equal, different, absent = filecmp.cmpfiles(out, tmp_path / "same", files, shallow=False)
    assert (equal, different, absent) == (files, [], [])
    assert not filecmp.cmp(out / "ground_truth.csv", tmp_path / "other" / "ground_truth.csv", shallow=False)


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("keep")
    with pytest.raises(FileExistsError, match="remove it, or name another"):
        make(tmp_path / "mine", seed=0)
    assert (tmp_path / "mine" / "note").read_text() == "keep"
