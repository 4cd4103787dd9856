"""The model card's own plots; `infra/charts.py` has those that it shares with the report, and says how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from infra.charts import MUTED, SERIES, Canvas


def slices(column: str, values: Sequence[tuple[str, float, float, float]], overall: float) -> Markup:
    """AUC of each value of a slice column: (value, AUC, low, high); the overall AUC as a line across."""
    with Canvas(f"slices-{column}", f"AUC by {column}", width=5.4, height=1.0 + 0.26 * len(values)) as canvas:
        ax, at = canvas.axes, range(len(values))
        names, auc, low, high = zip(*reversed(values), strict=True)
        ax.hlines(at, low, high, color=SERIES[0], linewidth=2, alpha=0.5)
        ax.plot(auc, at, "o", color=SERIES[0], markersize=6, markeredgewidth=0)
        ax.axvline(overall, color=MUTED, linewidth=1.2, linestyle=(0, (3, 4)))
        ax.set_yticks(at, names)
        ax.set(xlabel=f"AUC by {column}, with 95% intervals; dashed: all rows", ylim=(-0.6, len(values) - 0.4))
    return canvas.svg


def importance(values: Mapping[str, float]) -> Markup:
    """Mean absolute SHAP value by input, largest first."""
    with Canvas("importance", "Importance of inputs", width=7.4, height=1.0 + 0.26 * len(values)) as canvas:
        ax = canvas.axes
        names, sizes = list(values)[::-1], list(values.values())[::-1]
        ax.barh(names, sizes, color=SERIES[0], height=0.62)
        ax.grid(visible=False, axis="y")
        ax.set(xlabel="mean |SHAP|, log odds", ylim=(-0.6, len(names) - 0.4))
    return canvas.svg
