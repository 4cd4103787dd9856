"""A verdict as a picture: how far each input lies from the reference, beside how far windows without drift lie from it."""

from __future__ import annotations

from markupsafe import Markup

from feature_repo.records.verdict import FeatureVerdict, Verdict
from infra.charts import GRID, MUTED, SERIES, Canvas
from infra.timestamps import moment_at

SHOWN = 14
"""Inputs drawn: the score, those that drifted, then the farthest."""


def effects(verdict: Verdict) -> Markup:
    """SVG of a verdict's effects, in the report's style: a bar per input, its colour where it drifted, and a mark at what is usual."""
    inputs = sorted(verdict.features, key=lambda f: (-f.drift, -f.size, f.name))[: SHOWN - 1]
    rows = [*inputs, verdict.score, *([verdict.label] if verdict.label else [])][::-1]
    label = f"Effects of the window up to {moment_at(verdict.window.to_us):%d %b %Y %H:%M} UTC"
    with Canvas(f"effects_{verdict.id}", label, width=12.6, height=0.9 + 0.3 * len(rows)) as canvas:
        ax = canvas.axes
        places = range(len(rows))
        ax.barh(places, [_size(f) for f in rows], color=[SERIES[1] if f.drift else GRID for f in rows], height=0.62)
        known = [(place, f.usual) for place, f in zip(places, rows, strict=True) if f.usual]
        if known:
            at, usual = zip(*known, strict=True)
            ax.scatter(usual, at, marker="|", s=110, color=MUTED, label="largest of the reference's own windows", zorder=3)
            ax.legend(loc="lower right")
        ax.set_yticks(places, [f"{f.name}  {'/'.join(f.kinds) or f.cause}".rstrip() for f in rows])
        ax.set_xlabel("largest gap to the reference: of the distribution functions, null rates or ranges")
        ax.set_xlim(0, 1)
        ax.grid(axis="y", visible=False)
    return canvas.svg


def _size(of: FeatureVerdict) -> float:
    return max(of.size, of.unseen)
