import base64
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("matplotlib")
from matplotlib.figure import Figure

from sscd_jax.evaluation.report.charts import Line, data_uri, heat_map, histogram, histograms, line_chart, save


def svg(figure: Figure) -> ElementTree.Element:
    kind, data = data_uri(figure).split(",")
    assert kind == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(data))


def texts(root: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in root.iter("{http://www.w3.org/2000/svg}text")]


def test_curves_are_those_of_the_data_with_names():
    lines = [Line("a < b", np.array([0, 10, 50]), np.array([1.0, 4, 2])), Line("c", np.array([0, 9]), np.array([3, 1]))]
    figure = line_chart(lines, x_label="step", y_label="loss")
    assert {"step", "loss", "a < b", "c"} <= set(texts(svg(figure)))
    for line, curve in zip(lines, figure.axes[0].lines, strict=True):
        np.testing.assert_array_equal(curve.get_xydata(), np.stack([line.x, line.y], 1))
    assert figure.axes[0].lines[-1].get_color() == "C0"


def test_equal_curves_are_told_apart_and_said_to_be_equal():
    x = np.arange(5)
    lines = [Line(name, x, x * slope) for name, slope in (("a", 1), ("b", 2), ("c", 1), ("d", 3), ("e", 1))]
    figure = line_chart(lines, x_label="step")
    assert {"a", "b", "c", "(the same as a)", "d", "e"} <= set(texts(svg(figure)))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "a",
        "b",
        "c\n(the same as a)",
        "d",
        "e\n(the same as a)",
    ]
    looks = {
        (one.get_color(), one.get_linestyle(), one.get_marker(), str(one._dash_pattern)) for one in figure.axes[0].lines
    }
    assert len(looks) == 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (r"$\frac$", r"$\frac$"),
        ("$5 and $6", "$5 and $6"),
        ("_private", "_private"),
        ("\x1b[31mred\0", r"\x1b[31mred\x00"),
        ("abc\u202egpj", r"abc\u202egpj"),
        ("<b>&amp;", "<b>&amp;"),
        ("\udcff", r"\udcff"),
    ],
)
def test_names_of_any_kind(name, shown, tmp_path):
    """A name such as $\\frac$ is no formula, one with a control character makes no broken file."""
    values = np.array([0.1, 0.9])
    figures = [
        line_chart([Line(name, values, values), Line("other", values, -values)], x_label="recall"),
        histograms({name: {"copies": values, "others": values}}, x_label="score"),
        heat_map({name: np.eye(2)}, [name, "row"], ["column", name]),
    ]
    for number, figure in enumerate(figures):
        save(figure, tmp_path / str(number))
        assert texts(svg(figure)).count(shown) == [1, 1, 3][number]
        assert texts(ElementTree.fromstring((tmp_path / f"{number}.svg").read_bytes())).count(shown) >= 1


def test_a_legend_lies_beside_the_plot():
    lines = [Line(name, np.arange(5), np.arange(5)) for name in ("a long name: PCAW512,L2norm,Flat", "b")]
    groups = {"copies": np.array([0.1, 0.9]), "others": np.array([0.2])}
    for figure in (
        line_chart(lines, x_label="recall"),
        histogram(groups, x_label="score", value_range=(0, 1)),
    ):
        figure.draw_without_rendering()
        (legend,), (axes,) = figure.legends, figure.axes
        assert axes.get_legend() is None
        assert not legend.get_window_extent().overlaps(axes.get_window_extent())
        assert figure.bbox.contains(*legend.get_window_extent().min)
        assert figure.bbox.contains(*legend.get_window_extent().max)


@pytest.mark.parametrize(("rows", "columns"), [(24, 7), (24, 12), (3, 2)])
def test_a_large_heat_map_has_cells_that_fit_their_numbers(rows, columns):
    values = np.ones((rows, columns))
    figure = heat_map(
        dict.fromkeys(("uAP", "b", "c"), values), [f"edit number {i} (60)" for i in range(rows)], ["strong"] * columns
    )
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= 11
    for axes in figure.axes:
        cell = axes.get_window_extent().width / columns, axes.get_window_extent().height / rows
        number = axes.texts[0].get_window_extent()
        assert number.width < cell[0]
        assert number.height < cell[1]
        assert axes.texts[0].get_fontsize() >= 9


def test_unit_square_and_rule():
    lines = [Line("a", np.array([0.2, 0.4]), np.array([0.9, 0.8]))]
    figure = line_chart(lines, x_label="recall", unit_square=True, rule=0.9)
    axes = figure.axes[0]
    assert (axes.get_xlim(), axes.get_ylim()[0]) == ((0, 1), 0)
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), [0.9, 0.9])


@pytest.mark.parametrize("y", [[], [2.0], [np.nan, 1.0, np.inf], [0.0] * 5])
def test_hardly_any_data_still_gives_a_chart(y):
    assert "step" in texts(svg(line_chart([Line("a", np.arange(len(y)), np.array(y))], x_label="step")))


def test_histogram_shows_the_share_in_each_bin():
    values = np.array([0.01, 0.01, 0.99, 0.5])
    figure = histogram({"copies": values, "none": np.array([])}, x_label="similarity", value_range=(0, 1))
    assert {"copies", "none", "similarity"} <= set(texts(svg(figure)))
    outline = figure.axes[0].patches[0].get_xy()
    heights = {round(x, 3): y for x, y in outline if y > 0}
    assert sorted(heights.values())[-1] == 50
    assert figure.axes[0].get_ylim()[1] > 50


def test_the_same_data_gives_the_same_chart():
    lines = [Line("a", np.arange(5), np.arange(5) ** 2)]
    assert data_uri(line_chart(lines, x_label="x")) == data_uri(line_chart(lines, x_label="x"))


def test_several_histograms_have_titles_and_ranges_of_their_own():
    panels = {
        name: {"copies": np.array([low, 1.0]), "others": np.array([low])} for name, low in (("a", -3.0), ("b", 0.0))
    }
    figure = histograms(panels, x_label="score")
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    edges = [axes.patches[0].get_xy()[:, 0] for axes in figure.axes]
    assert [(xs.min(), xs.max()) for xs in edges] == [(-3, 1), (0, 1)]


def test_a_heat_map_has_the_numbers_in_its_cells():
    values = np.array([[0.123, np.nan], [1.0, 0.0]])
    figure = heat_map({"uAP": values, "other": values[::-1]}, ["crop", "text"], ["all", "weak"], rules=[1])
    assert {"uAP", "other", "crop", "text", "all", "weak", "12", "100", "0"} <= set(texts(svg(figure)))
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), values)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0", "100", "12"]


def test_files_are_svg_and_png_and_the_same_each_time(tmp_path):
    written = []
    for _ in range(2):
        save(line_chart([Line("a", np.arange(5), np.arange(5))], x_label="step"), tmp_path / "chart")
        written.append([path.read_bytes() for path in sorted(tmp_path.iterdir())])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["chart.png", "chart.svg"]
    assert written[0] == written[1]
    with Image.open(tmp_path / "chart.png") as image:
        assert min(image.size) > 400
        assert len(set(image.convert("L").tobytes())) > 10
    assert "step" in texts(ElementTree.fromstring((tmp_path / "chart.svg").read_bytes()))
