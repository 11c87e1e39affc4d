"""Draws charts by matplotlib, as SVG in data URIs for self-contained pages, and as SVG and PNG files."""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sscd_jax.data.names import printable
from sscd_jax.files import write_bytes

# Text stays text, in the reader's own font, and names with dollars are no formulas; the same data gives the same file.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sscd_jax",
    "text.parse_math": False,
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
}
_SIZE = (5.2, 3.2)  # inches, of one chart without its legend
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)))
_MARKERS = ("", "o", "s", "^", "D")


@dataclass(frozen=True)
class Line:
    """A curve: its label, and x and y of one length."""

    label: str
    x: np.ndarray
    y: np.ndarray


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str = "",
    unit_square: bool = False,
    rule: float | None = None,
) -> Figure:
    """Draws curves over common axes, the last one in front, with the legend beside the plot.

    Each curve has its own color and dashes, and more than four have markers. The legend says which curves are the same.

    Args:
        lines: the curves.
        x_label, y_label: the names of the axes.
        unit_square: whether both axes go from 0 to 1; otherwise they fit the data.
        rule: the height of a horizontal dotted line, to read the curves against.
    """
    lines = [Line(printable(line.label), line.x, line.y) for line in lines]
    labels = _labels(lines)
    width = 0.8 + 0.075 * max(len(part) for label in labels for part in label.split("\n")) if len(lines) > 1 else 0
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_SIZE[0] + width, _SIZE[1]), layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlabel=x_label, ylabel=y_label)
        if rule is not None:
            axes.axhline(rule, color="#5b6675", linestyle=":")
        for number, line in enumerate(lines):
            order = len(lines) - 1 - number  # the line in front has the first color
            is_covered = any(other.endswith(f"(the same as {line.label})") for other in labels)
            axes.plot(
                line.x,
                line.y,
                color=f"C{order}",
                linestyle=_DASHES[number % len(_DASHES)],
                marker=_MARKERS[number // len(_DASHES) % len(_MARKERS)],
                markevery=0.1,
                markersize=4,
                linewidth=4 if is_covered else 1.5,  # wide enough to be seen below the line that covers it
            )
        if unit_square:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if len(lines) > 1:
            drawn = axes.lines[-len(lines) :]
            legend = figure.legend(drawn, ["?"] * len(lines), loc="outside right upper", handlelength=3)
            for text, label in zip(legend.get_texts(), labels, strict=True):
                text.set_text(label)  # `legend` itself leaves out a name that begins with an underscore
        return figure


def _labels(lines: Sequence[Line]) -> list[str]:
    """Returns the labels of the lines; that of a line equal to an earlier one says so."""
    labels: list[str] = []
    for number, line in enumerate(lines):
        same = (one for one in lines[:number] if np.array_equal(one.x, line.x) and np.array_equal(one.y, line.y))
        earlier = next(same, None)
        labels.append(f"{line.label}\n(the same as {earlier.label})" if earlier else line.label)
    return labels


def histogram(groups: Mapping[str, np.ndarray], *, x_label: str, value_range: tuple[float, float]) -> Figure:
    """Draws the share of each of two groups of values in each of 40 bins, the first group green, the second red."""
    return histograms({"": groups}, x_label=x_label, value_range=value_range)


def histograms(
    panels: Mapping[str, Mapping[str, np.ndarray]], *, x_label: str, value_range: tuple[float, float] | None = None
) -> Figure:
    """Draws a `histogram` for each title, two in a line, with one legend below all of them.

    Args:
        panels: title -> name of the group -> values; two groups of the same names in each panel.
        x_label: the name of the values.
        value_range: the range of all panels; by default that of the values of each.
    """
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(columns * _SIZE[0], lines * _SIZE[1] + 0.3), layout="constrained")
        for number, (title, groups) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(lines, columns, number)
            axes.set(xlabel=x_label, ylabel="share, %", title=printable(title))
            _histogram(axes, groups, value_range)
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
        return figure


def _histogram(axes: Axes, groups: Mapping[str, np.ndarray], value_range: tuple[float, float] | None) -> None:
    values = np.concatenate([*groups.values()])
    low, high = value_range or (values.min(initial=0), values.max(initial=1e-3))
    for (label, some), color in zip(groups.items(), ("#11804b", "#c8322b"), strict=True):
        weights = np.full(len(some), 100 / max(1, len(some)))
        bins = np.linspace(low, high, 41).tolist()
        axes.hist(some, bins, weights=weights, histtype="stepfilled", color=color, alpha=0.45, label=label)


def heat_map(
    panels: Mapping[str, np.ndarray], rows: Sequence[str], columns: Sequence[str], *, rules: Sequence[int] = ()
) -> Figure:
    """Draws shares from 0 to 1 as colored cells with their percentages; a cell of NaN stays blank.

    Panels lie side by side if that is at most 11 inches wide, else below one another. Cells have the same size in every
    heat map, so that a large one can be read as well as a small one.

    Args:
        panels: title -> values, float [rows, columns].
        rows, columns: the names of the rows and columns.
        rules: the indexes of the columns before which a line is drawn.
    """
    rows, columns = [*map(printable, rows)], [*map(printable, columns)]
    names = 0.3 + 0.075 * max(map(len, rows))  # inches, as the next two
    wide, high = 0.2 + 0.44 * len(columns), 0.5 + 0.075 * max(map(len, columns)) + 0.27 * len(rows)
    beside = names + len(panels) * wide <= 11
    size = (names + len(panels) * wide, high) if beside else (names + wide, len(panels) * high)
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=size, layout="constrained")
        for number, (title, values) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(*((1, len(panels)) if beside else (len(panels), 1)), number)
            axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
            axes.set_title(printable(title))
            axes.tick_params(length=0)
            axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(rows)), rows if number == 1 or not beside else [""] * len(rows))
            for row in range(1, len(rows)):
                axes.axhline(row - 0.5, color="white", linewidth=0.5)
            for column in rules:
                axes.axvline(column - 0.5, color="white", linewidth=2)
            for (y, x), value in np.ndenumerate(values):
                if np.isfinite(value):
                    ink = "black" if 0.15 < value < 0.9 else "white"  # on the dark ends of the colors
                    axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=9, color=ink)
        return figure


def data_uri(figure: Figure) -> str:
    """Returns the figure as SVG in a data URI."""
    return "data:image/svg+xml;base64," + base64.b64encode(_svg(figure)).decode("ascii")


def save(figure: Figure, path: Path) -> None:
    """Writes PATH.svg and PATH.png."""
    png = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    write_bytes(path.with_name(f"{path.name}.svg"), _svg(figure))
    write_bytes(path.with_name(f"{path.name}.png"), png.getvalue())


def _svg(figure: Figure) -> bytes:
    svg = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()
