"""What came of a stretch of history on autopilot: its data, the page, and the summary for the terminal."""

from __future__ import annotations

from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import jinja2
import msgspec
import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table

from feature_repo.metrics.table import METRICS
from infra import files
from infra.timestamps import day_text
from serving.simulation import plots

if TYPE_CHECKING:
    from feature_repo.records.decisions import Decision
    from feature_repo.records.verdict import Verdict
    from feature_repo.spec.model import ModelSpec
    from serving.simulation.replay import Replayed
    from serving.simulation.stages import Course


class Lived(Protocol):
    """What is told of a run (`serving.simulation.year.Year`)."""

    spec: ModelSpec
    course: Course
    replayed: Replayed
    problems: list[str]
    skew: dict[int, Any]
    outcomes: list[Any]
    first_us: int
    last_us: int

    def decisions(self) -> list[Decision]: ...

    def verdicts(self) -> list[Verdict]: ...


class Month(msgspec.Struct, frozen=True):
    month: str
    rows: int
    auc: float
    calibration_error: float
    log_loss: float


class Policy(msgspec.Struct, frozen=True):
    """What a policy came to: totals, months, its trainings in words, and from the first sign to the promotion, in days.

    Attributes:
        held_days: on which a suspected or proven fault kept it from training.
        dear_days: how many of these cost answers (`training.retraining.backtest`); None where there is nothing to compare with.
    """

    name: str
    auc: float
    log_loss: float
    calibration_error: float
    trainings: int
    promoted: int
    alarms: int
    held_days: int
    dear_days: int | None
    to_promotion_days: float | None
    months: list[Month]
    told: list[str]


class Event(msgspec.Struct, frozen=True):
    at: str
    step: str
    text: str
    version: int | None


class YearData(msgspec.Struct, frozen=True):
    model: str
    period: tuple[str, str]
    problems: list[str]
    stages: list[dict[str, object]]
    predictions: int
    failed: int
    truths: int
    events: int
    cells: int
    wrong: int
    late: int
    verdicts: int
    alarms: int
    answered: Policy
    policies: list[Policy]
    journal: list[Event]
    versions: int

    @classmethod
    def of(cls, year: Lived) -> YearData:
        """Collect what a run left."""
        verdicts = year.verdicts()
        skew = list(year.skew.values())
        return cls(
            model=year.spec.name,
            period=(day_text(year.first_us), day_text(year.last_us)),
            problems=list(year.problems),
            stages=year.course.stages,
            predictions=year.replayed.predictions,
            failed=year.replayed.failed,
            truths=year.replayed.labels,
            events=year.replayed.events,
            cells=sum(s.cells for s in skew),
            wrong=sum(s.wrong for s in skew),
            late=sum(s.late for s in skew),
            verdicts=len(verdicts),
            alarms=sum(v.drift for v in verdicts),
            answered=_answered(year, sum(v.drift for v in verdicts)),
            policies=[_policy(o) for o in year.outcomes],
            journal=[Event(day_text(d.at_us), d.step, d.text, d.version) for d in year.decisions()],
            versions=len(year.skew),
        )


def _answered(year: Lived, alarms: int) -> Policy:
    """What was really answered, and what the loop did meanwhile, in a policy's terms."""
    groups: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for number, (at, truth) in year.replayed.truth.items():
        if number in year.replayed.scores:
            groups[day_text(at)[:7]].append((truth, year.replayed.scores[number]))

    def measured(rows: list[tuple[int, float]]) -> tuple[float, float, float]:
        label, score = np.array(rows, dtype=np.float64).reshape(-1, 2).T
        if not 0 < label.mean() < 1:  # and NaN, where there are none
            return float("nan"), float("nan"), float("nan")
        auc, loss, off = (METRICS[name].value(label, score) for name in ("auc", "log_loss", "calibration_error"))
        return auc, loss, off

    months = {month: (len(rows), *measured(rows)) for month, rows in sorted(groups.items())}
    auc, loss, off = measured([row for rows in groups.values() for row in rows])
    journal = year.decisions()
    signs = {d.id.rpartition("/")[0]: d.at_us for d in journal if d.step == "triggered"}
    lives = [(d.at_us, signs[d.id.rpartition("/")[0]]) for d in journal if d.step == "promoted" and d.id.rpartition("/")[0] in signs]
    return Policy(
        name="this run",
        auc=auc,
        log_loss=loss,
        calibration_error=off,
        trainings=sum(d.step == "trained" for d in journal),
        promoted=len(lives),
        alarms=alarms,
        held_days=len({day_text(d.at_us) for d in journal if d.step == "held" and "fault" in d.text}),
        dear_days=None,
        to_promotion_days=float(np.mean([(at - sign) / 86_400e6 for at, sign in lives])) if lives else None,
        months=[Month(month, rows, auc, error, loss) for month, (rows, auc, loss, error) in months.items() if np.isfinite(auc)],
        told=[],
    )


def _policy(outcome: Any) -> Policy:
    """Of training's own type, which serving does not import."""
    lives = [_days(t.day, t.live) for t in outcome.trainings if t.live]
    return Policy(
        name=outcome.policy,
        auc=outcome.total["auc"],
        log_loss=outcome.total["log_loss"],
        calibration_error=outcome.total["calibration_error"],
        trainings=len(outcome.trainings),
        promoted=outcome.promoted,
        alarms=outcome.alarms,
        held_days=outcome.held_days,
        dear_days=outcome.dear_days,
        to_promotion_days=float(np.mean(lives)) if lives else None,
        months=[Month(m.month, m.rows, m.auc, m.calibration_error, m.log_loss) for m in outcome.months],
        told=[f"{t.day}: {t.text}: {_came(t)}" for t in outcome.trainings],
    )


def _came(trained: Any) -> str:
    """What came of a training, in words."""
    if not trained.passed:
        return "refused by the gates"
    better = "" if np.isnan(trained.difference) else f" ({trained.difference:+.4f})"
    return f"live on {trained.live}{better}"


def _days(first: str, last: str) -> float:
    return (datetime.fromisoformat(last) - datetime.fromisoformat(first)).total_seconds() / 86_400


def write(data: YearData, path: Path) -> None:
    """The page: one file, nothing loaded from elsewhere."""
    pictures = {
        "auc": plots.by_month(
            {p.name: [(m.month, m.auc) for m in p.months] for p in data.policies}, [(m.month, m.auc) for m in data.answered.months], "AUC"
        ),
        "calibration": plots.by_month(
            {p.name: [(m.month, m.calibration_error) for m in p.months] for p in data.policies},
            [(m.month, m.calibration_error) for m in data.answered.months],
            "calibration error",
        ),
        "log_loss": plots.by_month(
            {p.name: [(m.month, m.log_loss) for m in p.months] for p in data.policies},
            [(m.month, m.log_loss) for m in data.answered.months],
            "log loss",
        ),
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.get_template("year.html").render(data=data, plots=pictures)
    files.replace(path, page.encode())


def policies_tables(outcomes: list[Any]) -> list[Table]:
    """Totals, then AUC, log loss and calibration error by month: a row and a column per policy. `outcomes`: of training's own type."""
    found = [_policy(o) for o in outcomes]
    return [_totals(found), *(_by_month(found, name) for name in ("auc", "log_loss", "calibration_error"))]


def _by_month(found: list[Policy], metric: str) -> Table:
    table = Table(METRICS[metric].title, *(p.name for p in found), box=None)
    for n, first in enumerate(found[0].months if found else []):
        table.add_row(first.month, *(f"{getattr(p.months[n], metric):.4f}" for p in found))
    return table


def _totals(found: list[Policy]) -> Table:
    headings = (
        "policy",
        "AUC",
        "log loss",
        "calibration error",
        "trainings",
        "promoted",
        "alarms",
        "days held",
        "of these dear",
        "to promotion",
    )
    table = Table(*headings, box=None)
    for p in found:
        dear = "-" if p.dear_days is None else str(p.dear_days)
        days = "-" if p.to_promotion_days is None else f"{p.to_promotion_days:.1f} days"
        counts = map(str, (p.trainings, p.promoted, p.alarms, p.held_days))
        table.add_row(p.name, f"{p.auc:.4f}", f"{p.log_loss:.4f}", f"{p.calibration_error:.4f}", *counts, dear, days)
    return table


def summary(data: YearData) -> RenderableType:
    """For the terminal."""
    months = Table("month", "live AUC", *(p.name for p in data.policies), box=None)
    for n, live in enumerate(data.answered.months):
        months.add_row(live.month, f"{live.auc:.4f}", *(f"{p.months[n].auc:.4f}" if n < len(p.months) else "-" for p in data.policies))
    head = (
        f"{data.predictions:,} predictions by {data.versions} versions, {data.failed} failed; {data.cells:,} cells recomputed, "
        f"{data.wrong} wrong, {data.late / max(data.cells, 1):.0%} late; {data.alarms} of {data.verdicts} verdicts say drift"
    )
    return Group(head, "", _totals([data.answered, *data.policies]), "", months)
