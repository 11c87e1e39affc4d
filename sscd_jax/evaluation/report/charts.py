"""Charts, by matplotlib: on pages as SVG in data URIs, which need nothing beside the page, and as SVG and PNG files."""

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

# Text stays text, in the reader's own font; the same data gives the same file.
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "sscd_jax",
    "font.size": 9,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
}
_SIZE = (5.2, 3.2)  # inches, of one chart


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
    """Curves over common axes, the last one in front.

    Args:
        unit_square: whether both axes go from 0 to 1; else they are made to fit.
        rule: the height of a horizontal dotted line, to read the curves against.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=_SIZE, layout="constrained")
        axes = figure.add_subplot()
        axes.set(xlabel=x_label, ylabel=y_label)
        if rule is not None:
            axes.axhline(rule, color="#5b6675", linestyle=":")
        for number, line in enumerate(lines):
            # The line in front has the first color.
            axes.plot(line.x, line.y, color=f"C{len(lines) - 1 - number}", label=line.label, linewidth=1.5)
        if unit_square:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if len(lines) > 1:
            axes.legend()
        return figure


def histogram(groups: Mapping[str, np.ndarray], *, x_label: str, value_range: tuple[float, float]) -> Figure:
    """The share of each of two groups of values, in percent, in each of 40 bins; the first green, the second red."""
    return histograms({"": groups}, x_label=x_label, value_range=value_range)


def histograms(
    panels: Mapping[str, Mapping[str, np.ndarray]], *, x_label: str, value_range: tuple[float, float] | None = None
) -> Figure:
    """A `histogram` for each title, two in a line; each over its own values if there is no common range."""
    columns = min(2, len(panels))
    lines = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(columns * _SIZE[0], lines * _SIZE[1]), layout="constrained")
        for number, (title, groups) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(lines, columns, number)
            axes.set(xlabel=x_label, ylabel="share, %", title=title)
            _histogram(axes, groups, value_range)
        return figure


def _histogram(axes: Axes, groups: Mapping[str, np.ndarray], value_range: tuple[float, float] | None) -> None:
    values = np.concatenate([*groups.values()])
    low, high = value_range or (values.min(initial=0), values.max(initial=1e-3))
    for (label, some), color in zip(groups.items(), ("#11804b", "#c8322b"), strict=True):
        weights = np.full(len(some), 100 / max(1, len(some)))
        bins = np.linspace(low, high, 41).tolist()
        axes.hist(some, bins, weights=weights, histtype="stepfilled", color=color, alpha=0.45, label=label)
    axes.legend()


def heat_map(
    panels: Mapping[str, np.ndarray], rows: Sequence[str], columns: Sequence[str], *, rules: Sequence[int] = ()
) -> Figure:
    """Shares from 0 to 1 as colored cells with their percentages; a cell of NaN stays blank.

    Args:
        panels: by title, float [rows, columns].
        rows, columns: their names; those of the rows stand at the first panel.
        rules: numbers of columns before which a line is drawn.
    """
    width = 1.4 + len(panels) * (0.3 + 0.5 * len(columns))
    with matplotlib.rc_context(_STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(width, 1.2 + 0.26 * len(rows)), layout="constrained")
        for number, (title, values) in enumerate(panels.items(), 1):
            axes = figure.add_subplot(1, len(panels), number)
            axes.imshow(values, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
            axes.set_title(title)
            axes.set_xticks(range(len(columns)), columns, rotation=60, ha="right", rotation_mode="anchor")
            axes.set_yticks(range(len(rows)), rows if number == 1 else [""] * len(rows))
            for column in rules:
                axes.axvline(column - 0.5, color="white", linewidth=2)
            for (y, x), value in np.ndenumerate(values):
                if np.isfinite(value):
                    ink = "black" if 0.15 < value < 0.9 else "white"  # on the dark ends of the colors
                    axes.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=ink)
        return figure


def data_uri(figure: Figure) -> str:
    """The figure as SVG inside a page."""
    return "data:image/svg+xml;base64," + base64.b64encode(_svg(figure)).decode("ascii")


def save(figure: Figure, path: Path) -> None:
    """Writes PATH.svg and PATH.png, each under a temporary name first."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150, metadata={"Software": None})
    for ending, data in (("svg", _svg(figure)), ("png", png.getvalue())):
        unfinished = path.with_name(f"{path.name}.{ending}.unfinished")
        unfinished.write_bytes(data)
        unfinished.replace(path.with_name(f"{path.name}.{ending}"))


def _svg(figure: Figure) -> bytes:
    svg = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(svg, format="svg", metadata={"Date": None})
    return svg.getvalue()
