"""The report of one end-to-end run: its data, the HTML page, and the summary for the terminal.

`ReportData` is plain data (JSON through msgspec both ways). Whatever is None or empty was not measured, and the page and the summary say
so; nothing is filled in.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import jinja2
import msgspec
import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from feature_repo.records.contract import Parity
from feature_repo.records.verdict import FeatureVerdict, Verdict
from infra import charts, files
from serving.monitoring import verdict_plot
from serving.simulation import plots

TOP = 15
"""Inputs shown in the drift table."""
BINS = 48


class Stage(msgspec.Struct, frozen=True):
    """One stage of the run: wall seconds, and a sentence on what it did (or why it failed)."""

    name: str
    seconds: float
    detail: str = ""
    ok: bool = True


class Quality(msgspec.Struct, frozen=True):
    """Metrics on one set (`train`, `valid`, `test`, `replay`); None where a metric is undefined (one class only)."""

    rows: int
    auc: float | None = None
    logloss: float | None = None
    brier: float | None = None


class Curve(msgspec.Struct, frozen=True):
    """A ROC curve: (false positive rate, true positive rate), both 0..1, ascending. A few hundred points draw as well as all."""

    name: str
    points: list[tuple[float, float]]


class Calibration(msgspec.Struct, frozen=True):
    """A calibration curve: per bin (mean predicted, observed share of positives, rows)."""

    name: str
    points: list[tuple[float, float, int]]


class Day(msgspec.Struct, frozen=True):
    """Live quality of one day (UTC, `YYYY-MM-DD`): AUC with the bounds of its confidence interval, over the rows whose truth is known."""

    day: str
    rows: int
    auc: float | None = None
    low: float | None = None
    high: float | None = None


class Distribution(msgspec.Struct, frozen=True):
    """A histogram over log-spaced bins, and its quantiles: `edges` [k + 1] ascending in the quantity's own unit, `counts` [k]."""

    rows: int
    p50: float
    p90: float
    p99: float
    max: float
    edges: list[float]
    counts: list[int]

    @classmethod
    def of(cls, samples: Sequence[float]) -> Distribution | None:
        """Summarise samples, [n] in one unit (ms, s); values at or below 0 fall in the lowest bin. None where there are none."""
        values = np.asarray(samples, dtype=np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return None
        positive = values[values > 0]
        low, high = (float(positive.min()), float(positive.max())) if len(positive) else (0.001, 0.01)
        edges = np.geomspace(low * 0.999, max(high, low * 2) * 1.001, BINS + 1)
        counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
        p50, p90, p99 = (float(q) for q in np.quantile(values, [0.5, 0.9, 0.99]))
        return cls(len(values), p50, p90, p99, float(values.max()), edges.tolist(), counts.tolist())


class Watched(msgspec.Struct, frozen=True):
    """What the watch said: the last verdict, and of all windows how many drifted, alarmed on outliers, and drifted by column."""

    latest: Verdict
    windows: int
    drifted: int
    outlier_alarms: int
    drifted_by: dict[str, int]

    @classmethod
    def of(cls, history: Sequence[Verdict]) -> Watched | None:
        """Summarise `feature_repo.records.verdict.history`; None where there is no verdict."""
        if not history:
            return None
        columns = [(*v.features, v.score) for v in history]
        names = [f.name for f in columns[-1]]
        by = {name: sum(f.name == name and f.drift for fs in columns for f in fs) for name in names}
        return cls(history[-1], len(history), sum(v.drift for v in history), sum(v.outliers.alarm for v in history), by)

    def top(self) -> list[FeatureVerdict]:
        """The last window's inputs by size of effect, largest first, those that drifted before those that did not."""
        return sorted(self.latest.features, key=lambda f: (-f.drift, -f.size, f.name))[:TOP]


class Quantiles(msgspec.Struct, frozen=True):
    p50: float
    p99: float


class SkewView(msgspec.Struct, frozen=True):
    """The skew proof for one feature view; `late_lag_s` in seconds, None where nothing was late."""

    view: str
    cells: int
    wrong: int
    late: int
    late_lag_s: Quantiles | None = None


class Skew(msgspec.Struct, frozen=True):
    """The skew proof: cells (prediction × feature) recomputed offline, those that are wrong (must be 0), those whose events came late."""

    predictions: int
    cells: int
    wrong: int
    late: int
    late_lag_s: Quantiles | None = None
    views: list[SkewView] = []

    @property
    def late_share(self) -> float:
        return self.late / self.cells if self.cells else 0.0


class ReportData(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the report shows.

    Attributes:
        created: when the report was made, ISO 8601.
        period: what was replayed, [start, end) as ISO dates.
        problems: sentences; a run with any is shown as failed. Failed stages count as well.
        rows: rows in the offline store.
        metrics: by set, in the order to show them: `train`, `valid`, `test`, `replay`.
        roc, calibration: one curve per set, `replay` last.
        live_auc: by day, ascending.
        latency_ms: per prediction request, as the client saw it, milliseconds.
        freshness_s: from an event's being known to its being servable, seconds.
        statuses: share of served feature values by status (`fresh`, `stale`, `null`, `missing`), summing to 1.
        parity: ONNX against the trained model.
        versions: software by name.
    """

    model: str
    version: int
    created: str
    description: str = ""
    period: tuple[str, str] | None = None
    problems: list[str] = []
    stages: list[Stage] = []
    rows: int | None = None
    predictions: int | None = None
    metrics: dict[str, Quality] = {}
    roc: list[Curve] = []
    calibration: list[Calibration] = []
    live_auc: list[Day] = []
    latency_ms: Distribution | None = None
    freshness_s: Distribution | None = None
    drift: Watched | None = None
    skew: Skew | None = None
    statuses: dict[str, float] = {}
    parity: Parity | None = None
    versions: dict[str, str] = {}

    @property
    def failures(self) -> list[str]:
        return [*self.problems, *(f"{s.name}: {s.detail or 'failed'}" for s in self.stages if not s.ok)]

    @property
    def seconds(self) -> float:
        return sum(s.seconds for s in self.stages)


Tone = Literal["good", "bad", "warn", "plain"]
_STYLE: dict[Tone, str] = {"good": "bold green", "bad": "bold red", "warn": "bold yellow", "plain": "bold"}
_MISSING = "not measured"


class Card(NamedTuple):
    """One headline figure. `tone` says whether it is as it should be."""

    label: str
    value: str
    note: str
    tone: Tone = "plain"


def quantity(value: float | None, unit: str = "") -> str:
    """A number as a person writes it: three significant digits, thousands separated, the unit after a no-break space."""
    if value is None:
        return "–"
    if isinstance(value, int) or value == 0 or abs(value) >= 100:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.2f}" if abs(value) >= 1 else f"{value:.3g}"
        text = text.rstrip("0").rstrip(".") if "." in text and "e" not in text and abs(value) >= 10 else text
    return f"{text}\u00a0{unit}" if unit else text


def duration(seconds: float) -> str:
    """Seconds as `4.2 s`, `3 min 05 s` or `2 h 07 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def headline(data: ReportData) -> list[Card]:
    """The six figures a person looks for first."""
    replay, valid, skew = data.metrics.get("replay"), data.metrics.get("valid"), data.skew
    quality = replay or data.metrics.get("test") or valid
    scope = "live, in the replay" if replay else "offline"
    cards = [
        Card(
            "AUC",
            _score(quality.auc) if quality else "–",
            (f"{scope}; {_score(valid.auc)} on valid" if valid and quality is not valid else scope) if quality else _MISSING,
        ),
        Card("Predictions", quantity(data.predictions), "answered over HTTP" if data.predictions is not None else _MISSING),
    ]
    if skew:
        cards.append(Card("Wrong cells", quantity(skew.wrong), f"of {quantity(skew.cells)} recomputed", "bad" if skew.wrong else "good"))
    else:
        cards.append(Card("Wrong cells", "–", _MISSING))
    for label, spread, unit in (("Latency", data.latency_ms, "ms"), ("Freshness", data.freshness_s, "s")):
        note = f"median; p99 {quantity(spread.p99, unit)}" if spread else _MISSING
        cards.append(Card(label, quantity(spread.p50, unit) if spread else "–", note))
    if watched := data.drift:
        drifted = [f.name for f in watched.latest.features if f.drift]
        tone: Tone = "warn" if watched.latest.drift else "good"
        note = f"of {len(watched.latest.features)} inputs in the last window"
        cards.append(Card("Drifted", str(len(drifted)), note + ("; score too" if watched.latest.score.drift else ""), tone))
    else:
        cards.append(Card("Drifted", "–", _MISSING))
    return cards


def write_report(data: ReportData, path: Path) -> None:
    """Write the HTML page: one self-contained file (styles and plots inline, nothing fetched), light or dark as the reader's system is.

    Args:
        path: the file to write (replaced atomically); its folder is made if need be.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(quantity=quantity, duration=duration, score=_score)
    valid = data.metrics.get("valid")
    pictures = {
        "drift": verdict_plot.effects(data.drift.latest) if data.drift else None,
        "roc": charts.roc([(c.name, c.points) for c in data.roc]) if data.roc else None,
        "calibration": charts.calibration([(c.name, c.points) for c in data.calibration]) if data.calibration else None,
        "live_auc": plots.by_day([(d.day, d.auc, d.low, d.high) for d in data.live_auc], valid.auc if valid else None)
        if any(d.auc is not None for d in data.live_auc)
        else None,
        "latency": plots.histogram(data.latency_ms.edges, data.latency_ms.counts, data.latency_ms.p50, data.latency_ms.p99, "ms", 1)
        if data.latency_ms
        else None,
        "freshness": plots.histogram(data.freshness_s.edges, data.freshness_s.counts, data.freshness_s.p50, data.freshness_s.p99, "s", 3)
        if data.freshness_s
        else None,
    }
    page = environment.get_template("report.html").render(data=data, cards=headline(data), plots=pictures)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, page.encode())


def summary_table(data: ReportData) -> RenderableType:
    """The summary for the terminal: print it with a `rich.console.Console`."""
    failures = data.failures
    verdict = (
        Text.assemble(("✗ ", "bold red"), (f"{len(failures)} of what should hold does not", "bold red"))
        if failures
        else Text.assemble(("✓ ", "bold green"), ("every stage did its job", "bold green"), f" in {duration(data.seconds)}")
    )
    parts: list[RenderableType] = [verdict, *(Text(f"  • {failure}", style="red") for failure in failures), Text()]
    cards = Table.grid(expand=True, padding=(0, 1))
    shown = headline(data)
    for _ in range(3):
        cards.add_column(ratio=1)
    for row in (shown[:3], shown[3:]):
        cards.add_row(*(Text.assemble((c.label, "dim"), "\n", (c.value, _STYLE[c.tone]), "\n", (c.note, "dim"), "\n") for c in row))
    parts += [cards, _stages(data), Text(), _quality(data)]
    parts += [Text(), _drift(data.drift)] if data.drift else [Text("drift: " + _MISSING, style="dim")]
    if data.skew:
        late = f"{quantity(data.skew.late)} late ({data.skew.late_share:.2%})"
        lag = f", by {duration(data.skew.late_lag_s.p50)} (p99 {duration(data.skew.late_lag_s.p99)})" if data.skew.late_lag_s else ""
        parts.append(Text.assemble(("\nskew  ", "dim"), f"{quantity(data.skew.wrong)} wrong, {late}{lag}"))
    if data.parity:
        worst = f"{data.parity.max_abs_difference:.1e}"
        parts.append(Text.assemble(("onnx  ", "dim"), f"largest difference {worst} over {quantity(data.parity.rows)} rows"))
    title = f"[bold]{data.model}[/] version {data.version}" + (f", replayed {data.period[0]} to {data.period[1]}" if data.period else "")
    return Panel(Group(*parts), title=title, border_style="red" if failures else "green", padding=(1, 2))


def _stages(data: ReportData) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False, expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(ratio=1, style="dim")
    longest = max((s.seconds for s in data.stages), default=1.0) or 1.0
    for stage in data.stages:
        mark = Text("✓ " if stage.ok else "✗ ", style="green" if stage.ok else "red")
        bar = Text("█" * max(1, round(12 * stage.seconds / longest)), style="cyan" if stage.ok else "red")
        table.add_row(mark + Text(stage.name), bar, duration(stage.seconds), stage.detail)
    return table if data.stages else Text("stages: " + _MISSING, style="dim")


def _quality(data: ReportData) -> RenderableType:
    if not data.metrics:
        return Text("quality: " + _MISSING, style="dim")
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("quality on")
    for name in ("rows", "AUC", "log loss", "Brier"):
        table.add_column(name, justify="right")
    for name, q in data.metrics.items():
        table.add_row(name, quantity(q.rows), _score(q.auc), _score(q.logloss), _score(q.brier), style="bold" if name == "replay" else "")
    return table


def _drift(watched: Watched) -> RenderableType:
    table = Table(box=None, padding=(0, 3, 0, 0), header_style="dim")
    for name in ("drift in the last window", "effect", "p", "null rate", "windows"):
        table.add_column(name, justify="left" if name.startswith("drift") else "right")
    for f in (watched.latest.score, *watched.top()[:5]):
        rates = f"{f.reference_null_rate:.0%} → {f.null_rate:.0%}"
        windows = f"{watched.drifted_by.get(f.name, 0)} of {watched.windows}"
        table.add_row(f.name, f"{f.effect:.3f}", f"{f.p_value:.0e}", rates, windows, style="yellow" if f.drift else "")
    return table
