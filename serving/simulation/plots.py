"""The report's plots over time and in bars; `infra/charts.py` says how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from itertools import pairwise
from typing import Any

from markupsafe import Markup
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, PercentFormatter

from infra.charts import INK, MUTED, PAPER, SERIES, Canvas


def by_day(days: Sequence[tuple[str, float | None, float | None, float | None]], reference: float | None) -> Markup:
    """AUC by day (ISO date, AUC, bounds of its interval), with the offline figure as a line across; days without an AUC are gaps."""
    with Canvas("by_day", "Live AUC by day", width=12.6, height=3.6) as canvas:
        ax = canvas.axes
        at = [date.fromisoformat(day).toordinal() for day, *_ in days]
        nan = float("nan")
        auc = [nan if a is None else a for _, a, _, _ in days]
        low = [nan if b is None else b for _, _, b, _ in days]
        high = [nan if b is None else b for *_, b in days]
        ax.fill_between(at, low, high, color=SERIES[0], alpha=0.16, linewidth=0)
        ax.plot(at, auc, color=SERIES[0], marker="o", markersize=6, markeredgewidth=0)
        if reference is not None:
            ax.axhline(reference, color=MUTED, linewidth=1.2, linestyle=(0, (3, 4)))
            ax.annotate(
                f"valid\n{reference:.3f}",
                (1, reference),
                xycoords=("axes fraction", "data"),
                xytext=(6, -4),
                textcoords="offset points",
                color=MUTED,
            )
        ax.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{date.fromordinal(int(x)):%d %b}".lstrip("0")))
        ax.set_ylabel("AUC")
        ax.margins(x=0.02)
    return canvas.svg


def by_month(policies: Mapping[str, Sequence[tuple[str, float]]], live: Sequence[tuple[str, float]], label: str) -> Markup:
    """A metric by month (`YYYY-MM`, value): a line per policy, and what was really answered as points."""
    with Canvas(f"by_month_{label}", f"{label} by month", width=12.6, height=3.8) as canvas:
        ax = canvas.axes
        months = sorted({m for line in [*policies.values(), live] for m, _ in line})
        place = {month: n for n, month in enumerate(months)}
        style: dict[str, Any]
        for index, (name, line) in enumerate(policies.items()):
            dashed = index >= len(SERIES)  # there are no more colours
            style = {"marker": "o", "markersize": 4, "markeredgewidth": 0, "linestyle": "--" if dashed else "-"}
            ax.plot([place[m] for m, _ in line], [v for _, v in line], color=SERIES[index % len(SERIES)], label=name, **style)
        if live:
            style = {"linestyle": "", "marker": "o", "markersize": 8, "markerfacecolor": PAPER, "markeredgewidth": 2}
            ax.plot([place[m] for m, _ in live], [v for _, v in live], color=INK, label="answered live", **style)
        ax.set_xticks(range(len(months)), [date.fromisoformat(f"{m}-01").strftime("%b %Y") for m in months])
        ax.set_ylabel(label)
        ax.legend(loc="best", ncols=5)
    return canvas.svg


def histogram(edges: Sequence[float], counts: Sequence[int], p50: float, p99: float, unit: str, color: int) -> Markup:
    """A histogram over log-spaced bins, `edges` [k + 1] and `counts` [k], with its p50 and p99 marked; `color` 1..4."""
    with Canvas(f"histogram_{unit}", f"Histogram, {unit}", height=3.3) as canvas:
        ax, total = canvas.axes, sum(counts) or 1
        widths = [b - a for a, b in pairwise(edges)]
        ax.bar(edges[:-1], [c / total for c in counts], widths, align="edge", color=SERIES[color - 1], edgecolor=PAPER, linewidth=0.6)
        ax.set_xscale("log")
        ax.set(xlabel=unit, xlim=(edges[0], edges[-1]))
        ax.set_ylim(top=max(counts) / total * 1.22)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.grid(axis="x", visible=False)
        reach = edges[-1] / edges[0]
        for name, value, leftward, drop in (
            ("p50", p50, p50 > edges[0] * reach**0.25, -10),  # to the left of its line, p99 to the right, where there is room
            ("p99", p99, p99 > edges[0] * reach**0.75, -24),
        ):
            at = min(max(value, edges[0]), edges[-1])
            ax.axvline(at, color=INK, linewidth=1.1, linestyle=(0, (2, 2)))
            ax.annotate(
                f"{name}  {value:.3g} {unit}",
                (at, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-5 if leftward else 5, drop),
                textcoords="offset points",
                ha="right" if leftward else "left",
            )
    return canvas.svg
