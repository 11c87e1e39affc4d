import base64
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.figure import Figure

from sscd_jax import report_charts
from sscd_jax.report_charts import Line, histogram, line_chart


def svg(uri: str) -> ElementTree.Element:
    kind, data = uri.split(",")
    assert kind == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(data))


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.fixture
def drawn(monkeypatch):
    """The figures as they were when they were written."""
    figures: list[Figure] = []
    written = report_charts._data_uri
    monkeypatch.setattr(report_charts, "_data_uri", lambda figure: figures.append(figure) or written(figure))
    return figures


def test_curves_are_those_of_the_data_with_names(drawn):
    lines = [Line("a < b", np.array([0, 10, 50]), np.array([1.0, 4, 2])), Line("c", np.array([0, 9]), np.array([3, 1]))]
    root = svg(line_chart(lines, x_label="step", y_label="loss"))
    assert {"step", "loss", "a < b", "c"} <= set(texts(root))
    for line, curve in zip(lines, drawn[0].axes[0].lines, strict=True):
        np.testing.assert_array_equal(curve.get_xydata(), np.stack([line.x, line.y], 1))
    assert drawn[0].axes[0].lines[-1].get_color() == "C0"


def test_unit_square_and_rule(drawn):
    line_chart([Line("a", np.array([0.2, 0.4]), np.array([0.9, 0.8]))], x_label="recall", unit_square=True, rule=0.9)
    axes = drawn[0].axes[0]
    assert (axes.get_xlim(), axes.get_ylim()[0]) == ((0, 1), 0)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.9, 0.9])


@pytest.mark.parametrize("y", [[], [2.0], [np.nan, 1.0, np.inf], [0.0] * 5])
def test_hardly_any_data_still_gives_a_chart(y):
    assert "step" in texts(svg(line_chart([Line("a", np.arange(len(y)), np.array(y))], x_label="step")))


def test_histogram_shows_the_share_in_each_bin(drawn):
    values = np.array([0.01, 0.01, 0.99, 0.5])
    root = svg(histogram({"copies": values, "none": np.array([])}, x_label="similarity", value_range=(0, 1)))
    assert {"copies", "none", "similarity"} <= set(texts(root))
    outline = drawn[0].axes[0].patches[0].get_xy()
    heights = {round(x, 3): y for x, y in outline if y > 0}
    assert sorted(heights.values())[-1] == 50
    assert drawn[0].axes[0].get_ylim()[1] > 50


def test_the_same_data_gives_the_same_chart():
    lines = [Line("a", np.arange(5), np.arange(5) ** 2)]
    assert line_chart(lines, x_label="x") == line_chart(lines, x_label="x")
