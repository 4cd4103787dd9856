"""Plots for our pages: SVG that takes its colours and fonts from the page around it, so that one file suits light and dark.

Matplotlib draws with placeholder colours; each is replaced by the CSS variable of the same role (`--ink`, `--muted`, `--grid`, `--c1`…).
`roc` and `calibration` are what a replay's report and a model's card share; their other plots are in `serving/simulation/plots.py` and `training/registration/card_plots.py`.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#000101", "#000102", "#000103", "#000104"
SERIES = ("#000111", "#000112", "#000113", "#000114")
_ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", PAPER: "card", **{c: f"c{i}" for i, c in enumerate(SERIES, 1)}}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.linewidth": 1.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "lines.solid_capstyle": "round",
}


def color_of(name: str, index: int) -> str:
    """`replay` is always the first colour; the others follow in order."""
    return SERIES[0] if name == "replay" else SERIES[1 + index % (len(SERIES) - 1)]


class Canvas:
    """A figure in the report's style; `svg` returns it. Use as a context: rcParams hold while drawing."""

    def __init__(self, name: str, label: str, width: float = 6.2, height: float = 4.0) -> None:
        self._style = matplotlib.rc_context({**_STYLE, "svg.hashsalt": name})
        self.label, self.size = label, (width, height)

    def __enter__(self) -> Canvas:
        self._style.__enter__()
        self.figure = Figure(figsize=self.size, layout="constrained")
        self.axes: Axes = self.figure.add_subplot()
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self.svg = self._export()
        self._style.__exit__(None, None, None)

    def _export(self) -> Markup:
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = buffer.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        head, body = text.split(">", 1)
        head = re.sub(r' (width|height)="[^"]*"', "", head) + f' role="img" aria-label="{Markup.escape(self.label)}"'
        for placeholder, role in _ROLES.items():
            body = body.replace(placeholder, f"var(--{role})")
        return Markup(f"{head}>{body}")


def roc(curves: Sequence[tuple[str, Sequence[tuple[float, float]]]]) -> Markup:
    """ROC curves: name and (false positive rate, true positive rate) points, 0..1."""
    with Canvas("roc", "ROC curves") as canvas:
        ax = canvas.axes
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 4)))
        for index, (name, points) in enumerate(curves):
            ax.plot(*zip(*points, strict=True), color=color_of(name, index), label=name)
        ax.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
        ax.legend(loc="lower right")
    return canvas.svg


def calibration(curves: Sequence[tuple[str, Sequence[tuple[float, float, int]]]]) -> Markup:
    """Calibration curves: name and (mean predicted, observed share, rows) per bin."""
    with Canvas("calibration", "Calibration curves") as canvas:
        ax = canvas.axes
        reach = max((max(p, o) for _, points in curves for p, o, _ in points), default=1.0)
        top = min(1.0, reach * 1.06)
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 4)))
        for index, (name, points) in enumerate(curves):
            color = color_of(name, index)
            predicted, observed, _ = zip(*points, strict=True)
            ax.plot(predicted, observed, color=color, label=name, marker="o", markersize=5, markeredgewidth=0)
        ax.set(xlabel="mean predicted", ylabel="observed share", xlim=(0, top), ylim=(0, top))
        ax.legend(loc="upper left")
    return canvas.svg
