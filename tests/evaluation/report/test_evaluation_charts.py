"""The charts of an evaluation show its numbers."""

import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
from sscd_jax.datasets.annotations import Edited
from sscd_jax.evaluation.by_edit import by_edit
from sscd_jax.evaluation.metrics import Found, Predictions
from sscd_jax.evaluation.report.evaluation_charts import best_incorrect, edits_chart, write_charts
from sscd_jax.evaluation.results import Evaluation

# Four copies and one query that copies nothing.
FOUND = Predictions(
    query=np.array([0, 4, 1, 2, 3, 0]),
    reference=np.array([0, 3, 1, 2, 0, 1]),
    score=np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4]),
    is_match=np.array([True, False, True, True, False, False]),
    positives=np.array([1, 1, 1, 1, 0]),
)
EDITS = {
    "a": Edited(("crop",), "weak"),
    "b": Edited(("crop", "text"), "strong"),
    "c": Edited(("text",), "weak"),
    "d": Edited(("blur", "crop"), "strong"),
}


def texts(path) -> list[str]:
    root = ElementTree.fromstring(path.read_bytes())
    return [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_best_incorrect():
    np.testing.assert_array_equal(best_incorrect(FOUND), [0.4, 0.5, 0.8])


def test_the_heat_map_has_the_worst_kind_first():
    figure = edits_chart(by_edit(FOUND, [*"abcde"], EDITS, bootstrap=0))
    first = figure.axes[0]
    assert [one.get_text() for one in first.get_yticklabels()] == ["all copies", "blur (1)", "crop (3)", "text (2)"]
    columns = ["all", "1 edit", "2 edits", "weak", "strong"]
    assert [one.get_text() for one in first.get_xticklabels()] == columns
    values = np.ma.filled(first.images[0].get_array(), np.nan)
    assert values[2, 0] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert np.isnan(values[1, 1])
    assert [axes.get_title() for axes in figure.axes] == ["uAP", "accuracy_at_1", "recall_at_p90"]


@pytest.mark.parametrize("edited", [True, False])
def test_files(edited, tmp_path):
    rows = [{"codec": "Flat", "score_norm": norm, "uAP": 0.5} for norm in (None, "1.0[0,2]")]
    if edited:
        rows = [row | {"by_edit": by_edit(FOUND, [*"abcde"], EDITS, bootstrap=0)} for row in rows]
    found = Found({}, FOUND, np.array([0.9, 0.7, 0.6, 0.1], np.float32))
    truth = [("a", "0"), ("b", "1"), ("c", "2"), ("d", "3")]
    write_charts(tmp_path, Evaluation(rows, [found] * 2, [*"abcde"], [*"0123"], truth))
    names = ["precision_recall", "scores", *(["by_edit"] if edited else [])]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{end}" for name in names for end in ("svg", "png")}
    assert {"precision", "recall", "Flat", "Flat, score norm 1.0[0,2]"} <= {*texts(tmp_path / "precision_recall.svg")}
    assert {"copies and their originals", "score"} <= {*texts(tmp_path / "scores.svg")}
    for name in names:
        with Image.open(tmp_path / f"{name}.png") as image:
            assert image.size[0] > 400
