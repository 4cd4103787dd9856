"""The watch, measured on the use case's own year: alarms without drift, and delay to alarm. Triage: `tests/bench/drift/worlds`.

The rows are the examples of the training set, the vectors that serving would have logged; scores are those of a model trained on its
own split. Every window is judged by the very functions that the watch calls.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np

from feature_repo.records import contract
from feature_repo.records.verdict import FeatureVerdict, Kind, Triage
from infra.cli import console
from infra.settings import Settings
from serving.inference.scorer import Scorer
from serving.monitoring.detectors.base import NOMINAL_RATE
from serving.monitoring.detectors.table import label_detector
from serving.monitoring.hours import DAY_US
from serving.monitoring.reference import Fitted
from serving.monitoring.triage.explanation import explain_drift
from serving.monitoring.window import NOTHING
from tests.bench.drift.predictions import Predictions, joined
from tests.bench.report import Measurement

WINDOW = 5000
STEP = 500
WEEK_DAYS = 6
"""Days that hold a window of predictions."""
COLD_DAYS = 13
ROWS = 30_000


@dataclass(frozen=True)
class Bench:
    """The year, and what its model says of it."""

    year: Predictions
    names: list[str]
    views: list[str]
    model: Scorer
    kind: Kind = "scipy"

    def between(self, start: date, end: date) -> Predictions:
        """Predictions of days [start, end), in UTC."""
        first, last = (int(datetime(d.year, d.month, d.day, tzinfo=UTC).timestamp() * 1e6) for d in (start, end))
        return self.year[slice(*np.searchsorted(self.year.moments, [first, last]))]


class Baseline(Fitted):
    """A reference as the watch fits one: every k-th of some predictions."""

    def __init__(self, bench: Bench, rows: Predictions) -> None:
        self.bench = bench
        self.examples = some = rows[np.unique(np.linspace(0, len(rows) - 1, min(ROWS, len(rows))).astype(np.int64))]
        super().__init__(some.matrix, bench.names, bench.views, some.moments, some.labels, bench.kind)

    @property
    def scorer(self) -> Scorer:
        return self.bench.model

    def verdicts(self, window: Predictions) -> list[FeatureVerdict]:
        return self.drift.test(window.matrix, window.moments)

    def alarms(self, window: Predictions) -> bool:
        return any(v.drift for v in self.verdicts(window))

    def triage(self, window: Predictions) -> Triage | None:
        return explain_drift(window.seen(), self.verdicts(window), self, NOTHING)


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    """`number` rounds of held-out weeks."""
    bench = prepare(own, told)
    return [
        *quiet(bench, number, told),
        *later(bench, told),
        *real(bench, told),
        *cost(bench, told),
    ]


def prepare(own: Settings, told: Callable[[str], None]) -> Bench:
    from feature_repo.registry.apply import apply_definitions
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.ingest import make_tables
    from streaming.offline.spark import session
    from training.data.training_set import build
    from training.registration.register import train_and_register

    case = UseCase(own.repo)
    spec = next(iter(case.models.values()))
    spark = session(own)
    told("ingesting the use case")
    make_tables(case, own, spark)
    apply_definitions(case)
    told("joining the training set")
    made = build(spark, case, own, spec)
    told("training")
    version = train_and_register(spec, made, own, force=True).version
    return opened(made.path, own.model_root / spec.name / str(version), spec.spine.timestamp, spec.spine.label, spec.slices)


def opened(training_set: Path, folder: Path, timestamp: str, label: str, groups: list[str]) -> Bench:
    """A training set as predictions of the model in `folder`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    agreed = contract.load(folder)
    table = pq.read_table(training_set)
    model = Scorer(folder / contract.MODEL, len(agreed.inputs))
    inputs = np.column_stack([table[n].cast(pa.float64()).to_pandas().to_numpy() for n in agreed.names])
    moments = table[timestamp].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
    order = np.argsort(moments, kind="stable")
    statuses = np.where(np.isnan(inputs), b"n", b"f").astype("S1")
    labels = table[label].cast(pa.float64()).to_pandas().to_numpy()
    matrix = np.column_stack([inputs, model.score(inputs)])
    kinds = {name: table[name].to_pandas().to_numpy(dtype=object) for name in groups}
    year = Predictions(matrix, moments, statuses, labels, kinds)[order]
    return Bench(year, agreed.names, [i.source.split(":")[0] for i in agreed.inputs], model)


def quiet(bench: Bench, number: int, told: Callable[[str], None]) -> list[Measurement]:
    """A. No drift: weeks drawn from the whole year are held out, the reference is all others. Calibrated, and as if rows were independent."""
    year = bench.year
    days = (year.moments - year.moments[0]) // DAY_US - COLD_DAYS
    weeks = days // WEEK_DAYS
    whole = [w for w in range(int(weeks.max()) + 1) if (weeks == w).sum() >= WINDOW]
    random = np.random.default_rng(0)
    found: Counter[str] = Counter()
    for turn in range(number):
        held = random.choice(whole, max(1, len(whole) // 5), replace=False)
        told(f"weeks without drift, round {turn + 1} of {number}")
        reference = Baseline(bench, year[(days >= 0) & ~np.isin(weeks, held)])
        labels = reference.examples
        for week in held:
            window = year[weeks == week][:WINDOW]
            verdicts = reference.verdicts(window)
            found["windows"] += 1
            found["drift"] += any(v.drift for v in verdicts[:-1])
            found["score"] += verdicts[-1].drift
            found["any"] += any(v.drift for v in verdicts)
            found["outliers"] += reference.outliers.test(window.matrix[:, :-1], reference.drift.null(window.moments)).alarm
            found["outliers, i.i.d."] += reference.outliers.test(window.matrix[:, :-1]).alarm
            known, base = ~np.isnan(window.labels), ~np.isnan(labels.labels)
            moved = label_detector(labels.labels[base], labels.moments[base]).test(window.labels[known, None], window.moments[known])[0]
            found["label"] += moved.drift
            independent = reference.drift.test(window.matrix)
            found["any, i.i.d."] += any(v.drift for v in independent)
    total = found["windows"]
    lines = [
        f"| held-out weeks called drift, of {total} (nominal {NOMINAL_RATE:.0%}) | calibrated | as if rows were independent |",
        "|---|---|---|",
    ]
    lines += [
        f"| inputs or score | {found['any'] / total:.1%} | {found['any, i.i.d.'] / total:.1%} |",
        f"| score alone | {found['score'] / total:.1%} | |",
        f"| label base rate | {found['label'] / total:.1%} | |",
        f"| outliers (nominal 1%) | {found['outliers'] / total:.1%} | {found['outliers, i.i.d.'] / total:.1%} |",
    ]
    console.print("\n".join(lines))
    return [
        Measurement("alarms without drift", "share", found["any"] / total, {"as if rows were independent": found["any, i.i.d."] / total})
    ]


def _windows(rows: Predictions, step: int) -> Iterator[Predictions]:
    for end in range(WINDOW, len(rows) + 1, step):
        yield rows[end - WINDOW : end]


def later(bench: Bench, told: Callable[[str], None]) -> list[Measurement]:
    """B. What comes after the reference, as it came: January to September, then October to December."""
    told("the months after the reference")
    reference = Baseline(bench, bench.between(date(2013, 1, 14), date(2013, 10, 1)))
    found = [reference.alarms(w) for w in _windows(bench.between(date(2013, 10, 1), date(2014, 1, 1)), WINDOW)]
    share = sum(found) / len(found)
    console.print(f"\nOctober to December against January to September: {sum(found)} of {len(found)} windows called drift")
    return [Measurement("alarms, October to December", "share", share)]


def real(bench: Bench, told: Callable[[str], None]) -> list[Measurement]:
    """C. Real drift: a reference of some months, and the first window from September 1st on that alarms."""
    changed = date(2013, 9, 1)
    lines = [
        "",
        "| reference | August, windows called drift | alarm after September 1st: predictions | days | triage |",
        "|---|---|---|---|---|",
    ]
    found = []
    for name, start in (("July", date(2013, 7, 1)), ("June and July", date(2013, 6, 1)), ("January to July", date(2013, 1, 14))):
        told(f"July to September, reference {name}")
        reference = Baseline(bench, bench.between(start, date(2013, 8, 1)))
        august = [reference.alarms(w) for w in _windows(bench.between(date(2013, 8, 1), changed), WINDOW)]
        before = bench.between(date(2013, 8, 1), changed)[-WINDOW:]
        stream = joined(before, bench.between(changed, date(2013, 10, 1)))
        first = next((end for end in range(WINDOW + STEP, len(stream) + 1, STEP) if reference.alarms(stream[end - WINDOW : end])), None)
        if first is None:
            lines.append(f"| {name} | {sum(august)} of {len(august)} | none by October 1st | | |")
            continue
        window = stream[first - WINDOW : first]
        days = (window.moments[-1] - stream.moments[WINDOW]) / DAY_US
        said = reference.triage(window)
        lines.append(f"| {name} | {sum(august)} of {len(august)} | {first - WINDOW:,} | {days:.1f} | {said.cause if said else ''} |")
        found.append(Measurement(f"delay to alarm, September against {name}", "predictions", first - WINDOW))
    console.print("\n".join(lines))
    return found


def cost(bench: Bench, told: Callable[[str], None]) -> list[Measurement]:
    """E. Seconds: the first window of a length (it calibrates), and every other, with triage."""
    told("cost")
    began = time.perf_counter()
    reference = Baseline(bench, bench.between(date(2013, 1, 14), date(2013, 10, 1)))
    fitted = time.perf_counter() - began
    window = bench.between(date(2013, 10, 1), date(2013, 10, 15))[:WINDOW]
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        reference.triage(window)
        reference.outliers.test(window.matrix[:, :-1], reference.drift.null(window.moments))
        seconds.append(time.perf_counter() - began)
    console.print(
        f"\nreference opened in {fitted:.2f} s, calibrated in {seconds[0] - seconds[1]:.2f} s; a verdict takes {seconds[-1]:.2f} s"
    )
    return [Measurement("a verdict", "s", seconds[-1]), Measurement("calibration of a window length", "s", seconds[0] - seconds[1])]
