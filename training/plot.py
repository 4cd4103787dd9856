"""The model card's plots: SVG in the colours of the page around them (CSS variables), so that one file suits light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, GRID, SERIES = "#000101", "#000102", "#000103", ("#000111", "#000112", "#000113")
"""Placeholders; each becomes the CSS variable of its role."""
_ROLES = {INK: "ink", MUTED: "muted", GRID: "grid", **{color: f"c{i}" for i, color in enumerate(SERIES, 1)}}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


def _drawn(name: str, label: str, size: tuple[float, float], draw: Any) -> Markup:
    """What `draw` puts on the axes, as SVG; the same bytes every time."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = re.sub(r"<metadata>.*?</metadata>", "", buffer.getvalue(), flags=re.DOTALL)
    head, body = text[text.index("<svg") :].split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head) + f' role="img" aria-label="{Markup.escape(label)}"'
    for placeholder, role in _ROLES.items():
        body = body.replace(placeholder, f"var(--{role})")
    return Markup(f"{head}>{body}")


def roc(curves: Mapping[str, Sequence[tuple[float, float]]]) -> Markup:
    """ROC curves by split: (false positive rate, true positive rate), 0 to 1."""

    def draw(ax: Axes) -> None:
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 4)))
        for color, (name, points) in zip(SERIES, curves.items(), strict=False):
            ax.plot(*zip(*points, strict=True), color=color, label=name, linewidth=2)
        ax.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1.01))
        ax.legend(loc="lower right")

    return _drawn("roc", "ROC curves", (5.4, 3.8), draw)


def calibration(curves: Mapping[str, Sequence[tuple[float, float, int]]]) -> Markup:
    """Calibration curves by split: (mean predicted, observed share, rows) per bin of equal mass."""

    def draw(ax: Axes) -> None:
        top = min(1.0, 1.06 * max(max(p, o) for points in curves.values() for p, o, _ in points))
        ax.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (3, 4)))
        for color, (name, points) in zip(SERIES, curves.items(), strict=False):
            predicted, observed, _ = zip(*points, strict=True)
            ax.plot(predicted, observed, color=color, label=name, marker="o", markersize=5, markeredgewidth=0, linewidth=2)
        ax.set(xlabel="mean predicted", ylabel="observed share", xlim=(0, top), ylim=(0, top))
        ax.legend(loc="upper left")

    return _drawn("calibration", "Calibration curves", (5.4, 3.8), draw)


def slices(column: str, values: Sequence[tuple[str, float, float, float]], overall: float) -> Markup:
    """AUC of each value of a slice column: (value, AUC, low, high); the overall AUC as a line across."""

    def draw(ax: Axes) -> None:
        at = range(len(values))
        names, auc, low, high = zip(*reversed(values), strict=True)
        ax.hlines(at, low, high, color=SERIES[0], linewidth=2, alpha=0.5)
        ax.plot(auc, at, "o", color=SERIES[0], markersize=6, markeredgewidth=0)
        ax.axvline(overall, color=MUTED, linewidth=1.2, linestyle=(0, (3, 4)))
        ax.set_yticks(at, names)
        ax.set(xlabel=f"AUC by {column}, with 95% intervals; dashed: all rows", ylim=(-0.6, len(values) - 0.4))

    return _drawn(f"slices-{column}", f"AUC by {column}", (5.4, 1.0 + 0.26 * len(values)), draw)


def importance(values: Mapping[str, float]) -> Markup:
    """Mean absolute SHAP value by input, largest first."""

    def draw(ax: Axes) -> None:
        names, sizes = list(values)[::-1], list(values.values())[::-1]
        ax.barh(names, sizes, color=SERIES[0], height=0.62)
        ax.grid(visible=False, axis="y")
        ax.set(xlabel="mean |SHAP|, log odds", ylim=(-0.6, len(names) - 0.4))

    return _drawn("importance", "Importance of inputs", (7.4, 1.0 + 0.26 * len(values)), draw)
