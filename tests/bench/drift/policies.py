"""`headrace bench policies`: the policies of `headrace policies` on a made-up year in which the whole world changes at once.

A lender is asked for small loans; the truth is whether one is paid back late. Seasons, weeks, days that resemble the day before: in the
first part nothing else happens. On the day of the change other people come, they ask for other sums, and late is the rule (0.2 -> 0.7),
for other reasons than before. No source fails: a policy that is held is held by mistake. Trainings before the change are for the seasons.

There is no serving: the vectors are drawn, and the watch's own code judges them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.records.contract import Input, RequestField
from feature_repo.records.verdict import Verdict
from feature_repo.spec.model import ModelSpec
from infra.cli import console
from infra.settings import Settings
from serving.monitoring.rehearsal import Rehearsal
from serving.monitoring.triage.calendar import PLAIN
from serving.simulation.year_report import policies_tables
from tests.bench.report import Measurement
from training.data.training_set import TrainingSet
from training.retraining.backtest import NEVER_HELD, REFIT, Outcome, live_through

START = datetime(2021, 1, 1, tzinfo=UTC)
DAYS, FIRST, CHANGE = 365, 90, 200
PER_DAY = 600
SOURCES = {"people": ("people",), "payments": ("payments",), "market": ("market",)}
SPEC = {
    "name": "late",
    "feature_service": "late",
    "spine": {"table": "examples", "id": ["id"], "label": "label", "label_timestamp": "known"},
    "split": {
        "train": {"start": "2021-01-01", "end": "2021-03-04"},
        "valid": {"start": "2021-03-04", "end": "2021-03-18"},
        "test": {"start": "2021-03-18", "end": "2021-04-01"},
    },
    "parameters": {"learning_rate": 0.05, "num_leaves": 15, "min_data_in_leaf": 200},
    "rounds": 200,
    "early_stopping": 20,
    "gates": [],
    "slices": [],
    "watch": {"window": 3000, "step": 600},
    "learning": {
        "triggers": {"drift": True, "cooldown_days": 14, "budget": 12},
        "retraining": {"train_days": 120, "valid_days": 5, "test_days": 3},
        "challenge": {"metric": "log_loss", "margin": 0.02},
    },
}


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    """Live the year; `scale` below 1 thins the days out (not below 100 asked a day)."""
    made = year(own, max(100, round(PER_DAY * scale)))
    spec = ModelSpec.model_validate(SPEC | {"watch": {"window": 5 * made.rows // DAYS, "step": made.rows // DAYS}})
    rehearsal = Rehearsal("scipy", PLAIN, SOURCES)
    alarms: list[tuple[int, str]] = []

    def judge(*asked: Any) -> Verdict:
        verdict = rehearsal.verdict(*asked)
        if verdict.triage is not None:
            alarms.append((verdict.at_us, verdict.triage.cause))
        return verdict

    found = live_through(spec, made, _us(FIRST), _us(DAYS), judge, progress=told)
    for table in policies_tables(found):
        console.print(table)
    for one in found:
        for t in one.trainings if one.policy != REFIT else ():
            came = f"live on {t.live}" if t.passed else "refused"
            console.print(f"{one.policy}, {t.day}: {t.text}: {came} ({t.difference:+.4f})", highlight=False, soft_wrap=True)
    console.print(f"alarms, by what they were taken for: {dict(Counter(cause for _, cause in alarms))}", highlight=False)
    too_early = Measurement("alarms before the change", "verdicts", sum(at < _us(CHANGE) for at, _ in alarms))
    return [*figures({one.policy: one for one in found}), too_early]


def figures(by_policy: dict[str, Outcome]) -> list[Measurement]:
    """Delays are days from the change to the evening of the first training after it; a year without one has the rest of the year."""
    ours = by_policy["on drift"]
    others = {name: one for name, one in by_policy.items() if one is not ours}

    def log_loss(one: Outcome) -> float:
        return one.total["log_loss"]

    never_held = by_policy[NEVER_HELD]
    return [
        Measurement("log loss of the year, on drift", "nats", log_loss(ours), {n: log_loss(o) for n, o in others.items()}),
        Measurement("change to training, on drift", "days", _delay(ours), {NEVER_HELD: _delay(never_held)}),
        Measurement("trainings before the change, on drift", "", _before(ours), {NEVER_HELD: _before(never_held)}),
        Measurement("days held, on drift", "days", ours.held_days, note=f"of these dear: {ours.dear_days}"),
    ]


def year(own: Settings, per_day: int) -> TrainingSet:
    """The whole year as a training set, `per_day` examples a day."""
    rng = np.random.default_rng(11)
    n = DAYS * per_day
    day = np.sort(rng.uniform(0, DAYS, n))
    new = day >= CHANGE
    hour = np.clip(rng.normal(13, 4, n), 0, 23.9)
    at = np.floor(day) + hour / 24
    order = np.argsort(at)
    at, hour, new = at[order], hour[order], new[order]
    season = np.sin(2 * np.pi * at / 365)
    drifting = _days_like_the_day_before(rng, 3)[:, np.floor(at).astype(int)]

    age = rng.gamma(6, 7, n) * np.where(new, 0.7, 1) + 18
    income = np.exp(rng.normal(7.6, 0.4, n) + 0.01 * np.minimum(age, 50) - np.where(new, 0.3, 0) + 0.05 * drifting[0])
    loans = rng.poisson(np.where(new, 3.0, 1.2))
    paid = np.where(loans > 0, rng.beta(8, np.where(new, 4, 1.5)), np.nan)
    owed = income * rng.beta(2, np.where(new, 4, 8)) * (1 + loans)
    rate = 3 + season + 0.5 * drifting[1] + np.where(new, 2.0, 0)
    jobless = 6 + 0.5 * season + 0.3 * drifting[2] + np.where(new, 2.5, 0)
    asked = income * rng.gamma(2, np.where(new, 0.5, 0.25)) / np.sqrt(rate)
    risk = np.log(asked / income + 0.05) + 1.2, owed / income - 0.45, np.nan_to_num(paid, nan=0.8) - 0.8
    before = -1.35 + 1.0 * risk[0] + 1.5 * risk[1] - 6.0 * risk[2]
    after = 2.3 - 0.8 * risk[0] + 0.8 * (rate - 5.5) - 0.05 * (age - 45)
    label = rng.random(n) < 1 / (1 + np.exp(-np.where(new, after, before)))

    moments = pa.array([START + timedelta(days=float(d)) for d in at], pa.timestamp("us", "UTC"))
    known = pa.array([START + timedelta(days=float(d)) for d in at + rng.uniform(0.2, 1.5, n)], pa.timestamp("us", "UTC"))
    columns = {
        "people__age": np.floor(age),
        "people__income": income,
        "payments__loans": loans.astype(float),
        "payments__paid_in_time": paid,
        "payments__owed": owed,
        "market__rate": rate,
        "market__jobless": jobless,
        "asked__sum": asked,
        "asked__hour": np.floor(hour),
        "asked__weekday": np.floor(at) % 7,
    }
    table = {"event_timestamp": moments, "id": np.arange(n), "label": label.astype(int), "known": known, **columns}
    path = own.state / "policies.parquet"
    pq.write_table(pa.table({k: pa.array(v, from_pandas=True) if isinstance(v, np.ndarray) else v for k, v in table.items()}), path)
    inputs = [Input(name, name.replace("__", ":"), "feature", "double") for name in columns]
    return TrainingSet(path, "h" * 64, n, inputs, [RequestField("id", "entity", "int64", 1)], {}, "d", "bench")


def _days_like_the_day_before(rng: np.random.Generator, count: int) -> np.ndarray:
    """Standard normal, float64 `[count, DAYS]`; a day resembles the one before by 0.8."""
    found = rng.normal(size=(count, DAYS))
    for day in range(1, DAYS):
        found[:, day] = 0.8 * found[:, day - 1] + 0.6 * found[:, day]
    return found


def _us(day: float) -> int:
    return int((START + timedelta(days=day)).timestamp() * 1e6)


def _day(text: str) -> float:
    return (datetime.fromisoformat(text).replace(tzinfo=UTC) - START) / timedelta(days=1)


def _delay(one: Outcome) -> float:
    return min((_day(t.day) - CHANGE for t in one.trainings if _day(t.day) > CHANGE), default=DAYS - CHANGE)


def _before(one: Outcome) -> int:
    return sum(_day(t.day) <= CHANGE for t in one.trainings)
