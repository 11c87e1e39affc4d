"""The charts of the report, by matplotlib: SVG as data URIs, which need nothing beside the page."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Text stays text, in the reader's own font; the same data gives the same file.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sscd_jax",
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
}


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
) -> str:
    """Curves over common axes, the last one in front.

    Args:
        unit_square: whether both axes go from 0 to 1; else they are made to fit.
        rule: the height of a horizontal dotted line, to read the curves against.
    """
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(x_label, y_label)
        if rule is not None:
            axes.axhline(rule, color="#5b6675", linestyle=":")
        for number, line in enumerate(lines):
            # The line in front has the first colour.
            axes.plot(line.x, line.y, color=f"C{len(lines) - 1 - number}", label=line.label, linewidth=1.5)
        if unit_square:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if len(lines) > 1:
            axes.legend()
        return _data_uri(figure)


def histogram(groups: Mapping[str, np.ndarray], *, x_label: str, value_range: tuple[float, float]) -> str:
    """The share of each of two groups of values, in percent, in each of 40 bins; the first green, the second red."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _axes(x_label, "share, %")
        for (label, values), color in zip(groups.items(), ("#11804b", "#c8322b"), strict=True):
            weights = np.full(len(values), 100 / max(1, len(values)))
            bins = np.linspace(*value_range, 41).tolist()
            axes.hist(values, bins, weights=weights, histtype="stepfilled", color=color, alpha=0.45, label=label)
        axes.legend()
        return _data_uri(figure)


def _axes(x_label: str, y_label: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlabel=x_label, ylabel=y_label)
    return figure, axes


def _data_uri(figure: Figure) -> str:
    svg = io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(svg.getvalue()).decode("ascii")
