"""Live quality: what was answered against the truth that came in, with how sure one can be and how much it rests on.

Read from the archive (`streaming.offline.archive`), so the same numbers come out whoever asks, and after any restart. A prediction's truth is
the one that was sent for its id, of several the one known latest by the moment that is asked about; where none was, the one that the
model's spine has for the same example, if the request names it.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from feature_repo.metrics.base import Estimate
from feature_repo.metrics.table import METRICS
from feature_repo.records.live_quality import Day, Measured, Quality
from feature_repo.records.redis_keys import quality_key
from feature_repo.spec.model import ModelSpec
from streaming.offline import parquet
from streaming.offline.archive import Archive
from training.data.column_moments import micros

if TYPE_CHECKING:
    import pyarrow as pa

Floats = NDArray[np.float64]
WINDOW = 5000
"""Labelled predictions of one version that its latest quality rests on."""
DAYS = 60
FEWEST_DAYS = 5
"""Fewer days than this say too little about how much days differ."""
SMALLEST = 30
"""Fewer labelled rows than this give no metric: an interval would cover everything."""


@dataclass(frozen=True)
class Labelled:
    """Predictions by moment: arrays `[n]`. `label` is NaN where the truth is not known; `known_us` likewise -1.

    `table` has the same rows as archived.
    """

    table: pa.Table
    version: NDArray[np.int64]
    role: NDArray[Any]
    at_us: NDArray[np.int64]
    score: Floats
    label: Floats
    known_us: NDArray[np.int64]

    def where(self, keep: NDArray[np.bool_]) -> Labelled:
        return self.take(np.flatnonzero(keep))

    def take(self, rows: NDArray[np.intp]) -> Labelled:
        import pyarrow as pa

        return Labelled(
            self.table.take(pa.array(rows)),
            self.version[rows],
            self.role[rows],
            self.at_us[rows],
            self.score[rows],
            self.label[rows],
            self.known_us[rows],
        )


def labelled(archive: Archive, spec: ModelSpec, upto_us: int | None = None, from_us: int | None = None, inputs: bool = True) -> Labelled:
    """Archived predictions with their truths, as far as those were known before `upto_us`. A shadow's truth is its answer's.

    Args:
        inputs: whether the table has the models' inputs as well.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    lean = ["prediction_id", "model_version", "role", "shadow_of", "event_timestamp", "score", *spec.slices, *spec.spine.id]
    table = archive.predictions(spec.name, from_us, upto_us, None if inputs else lean)
    truths = _in_force(archive.labels(spec.name), upto_us)
    number = pc.coalesce(table["shadow_of"], table["prediction_id"])
    place = pc.index_in(number, value_set=truths["prediction_id"].combine_chunks())
    label = pc.fill_null(truths["label"].combine_chunks().take(place).cast(pa.float64()), np.nan).to_numpy(zero_copy_only=False)
    known = pc.fill_null(truths["known_at"].combine_chunks().cast(pa.int64()).take(place), -1).to_numpy(zero_copy_only=False)
    label, known = np.array(label, dtype=np.float64), np.array(known, dtype=np.int64)
    if (known < 0).any():
        for i, (truth, at) in _spine(archive, spec, table).items():
            if known[i] < 0:
                label[i], known[i] = truth, at
    if upto_us is not None:
        later = known >= upto_us
        label[later], known[later] = np.nan, -1
    return Labelled(
        table,
        np.array(table["model_version"].to_numpy(), dtype=np.int64),
        np.array(table["role"].to_pylist(), dtype=object),
        micros(table, "event_timestamp"),
        np.array(table["score"].to_numpy(), dtype=np.float64),
        label,
        known,
    )


def _in_force(truths: pa.Table, upto_us: int | None) -> pa.Table:
    """One truth per prediction: the one known latest, of those known before `upto_us`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if upto_us is not None:
        truths = truths.filter(pc.less(truths["known_at"].cast(pa.int64()), upto_us))
    # by moment and, where two are of one moment, by label, so that the order of arrival never shows
    truths = truths.sort_by([("known_at", "descending"), ("label", "descending")])
    _, rows = np.unique(truths["prediction_id"].to_numpy(zero_copy_only=False).astype(str), return_index=True)
    return truths.take(pa.array(np.sort(rows)))


def _spine(archive: Archive, spec: ModelSpec, table: pa.Table) -> dict[int, tuple[int, int]]:
    """(label, known microseconds) by row, of rows whose request names the spine's id columns."""
    folder, ids = archive.root / spec.spine.table, spec.spine.id
    if not table.num_rows or parquet.fault(str(folder)) or not set(ids) <= set(table.column_names):
        return {}
    truths = _truths(folder, spec)
    asked = zip(*(map(str, table[c].to_pylist()) for c in ids), strict=True)
    return {i: truths[key] for i, key in enumerate(asked) if key in truths}


def _truths(folder: Path, spec: ModelSpec) -> dict[tuple[str, ...], tuple[int, int]]:
    """(label, known microseconds) by the id columns, as text.

    Raises:
        TableError: the table cannot be read.
    """
    import pyarrow as pa

    ids, label = spec.spine.id, spec.spine.label
    spine = parquet.table(folder, [*ids, label, spec.spine.label_timestamp])
    try:
        known = spine[spec.spine.label_timestamp].cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_pylist()
        keys = zip(*(map(str, spine[c].to_pylist()) for c in ids), strict=True)
        found = zip(keys, spine[label].to_pylist(), known, strict=True)
        return {key: (int(said), at) for key, said, at in found if said is not None and at is not None}
    except (pa.ArrowException, ValueError, OverflowError) as error:
        raise parquet.TableError(f"the table at {folder} holds no truths of examples: {error}") from None


def measure(archive: Archive, spec: ModelSpec, *, window: int = WINDOW, days: int = DAYS, upto_us: int | None = None) -> Quality | None:
    """The live quality of a model; None where nothing is archived.

    Args:
        window: labelled predictions per version, the newest.
        upto_us: what was not known by then does not count; None: all that is archived.
    """
    return measured(labelled(archive, spec, upto_us), spec, window=window, days=days)


def measured(rows: Labelled, spec: ModelSpec, *, window: int = WINDOW, days: int = DAYS) -> Quality | None:
    """As `measure`, of rows that have been read."""
    if not len(rows.score):
        return None
    newest = int(rows.at_us.max())
    answered = rows.where(rows.role != "shadow")
    versions = []
    for version in sorted(set(rows.version.tolist()), reverse=True):
        for role in ("answered", "shadow"):
            mine = (rows.version == version) & ((rows.role == "shadow") == (role == "shadow"))
            if mine.any():
                versions.append(_measured(rows.where(mine & _newest(mine, rows.label, window)), version, role))
    by_day = _periods(answered, "D", days)
    known = answered.known_us >= 0
    delay = np.maximum(answered.known_us[known] - answered.at_us[known], 0) / 1e6
    return Quality(
        spec.name,
        newest,
        versions,
        by_day,
        _slices(answered, spec, window),
        {"p50": float(np.quantile(delay, 0.5)), "p99": float(np.quantile(delay, 0.99))} if len(delay) else None,
        int((~known).sum()),
    )


def by_month(archive: Archive, spec: ModelSpec) -> list[Day]:
    """What was answered in each UTC month (`2013-04`) that is archived."""
    rows = labelled(archive, spec, inputs=False)
    return _periods(rows.where(rows.role != "shadow"), "M", len(rows.score))


def _periods(answered: Labelled, unit: Literal["D", "M"], last: int) -> list[Day]:
    """The newest `last` days or months, oldest first."""
    period = answered.at_us.astype("datetime64[us]").astype(f"datetime64[{unit}]")
    found = []
    for one in np.unique(period)[-last:]:
        rows = answered.where(period == one)
        found.append(Day(str(one), _measured(rows, int(rows.version[-1]), "answered")))
    return found


def publish(client: Any, project: str, found: Quality) -> None:
    """Where `/metrics`, `/v1/models/<model>/quality` and `headrace status` find it."""
    client.set(quality_key(project, found.model), msgspec.json.encode(found))


def _newest(mine: NDArray[np.bool_], label: Floats, window: int) -> NDArray[np.bool_]:
    """Rows from the `window`-th newest labelled one on."""
    places = np.flatnonzero(mine & ~np.isnan(label))
    first = places[-window] if len(places) > window else 0
    return np.arange(len(label)) >= first


def _measured(rows: Labelled, version: int, role: str) -> Measured:
    known = ~np.isnan(rows.label)
    return Measured(version, role, len(rows.score), int(known.sum()), estimates(rows.label[known], rows.score[known]))


def _slices(answered: Labelled, spec: ModelSpec, window: int) -> dict[str, dict[str, Measured]]:
    found: dict[str, dict[str, Measured]] = {}
    recent = answered.where(_newest(np.ones(len(answered.label), bool), answered.label, window))
    version = int(recent.version[-1])
    for column in spec.slices:
        if column not in recent.table.column_names:
            continue
        values, groups = recent.table[column].to_pylist(), defaultdict(list)
        for i, value in enumerate(values):
            groups[str(value)].append(i)
        found[column] = {}
        for value, members in sorted(groups.items()):
            keep = np.zeros(len(values), bool)
            keep[members] = True
            one = _measured(recent.where(keep), version, "answered")
            if one.metrics:
                found[column][value] = one
    return found


def estimates(label: Floats, score: Floats) -> dict[str, Estimate]:
    """Every metric with its 95 % interval (`feature_repo.metrics`). Empty below SMALLEST rows; one undefined on one class is left out.

    Args:
        label: 0/1 `[n]`.
        score: probabilities `[n]`.
    """
    if len(label) < SMALLEST:
        return {}
    each = {name: Estimate(metric.value(label, score), *metric.interval(label, score)) for name, metric in METRICS.items()}
    return {name: one for name, one in each.items() if np.isfinite((one.value, one.low, one.high)).all()}


def by_days(label: Floats, score: Floats, at_us: NDArray[np.int64], metric: str) -> Estimate | None:
    """One metric with an interval that knows that rows of a day share their circumstances: the jackknife, leaving out a day at a time
    (Efron & Stein 1981), with Student's t. None below FEWEST_DAYS days, or where the metric is not defined.

    Args:
        at_us: moments of the predictions `[n]`, microseconds since the epoch.
    """
    from scipy.stats import t

    day = at_us // 86_400_000_000
    days = np.unique(day)
    of = METRICS[metric].value
    value = of(label, score)
    if len(days) < FEWEST_DAYS or not np.isfinite(value):
        return None
    without = np.array([of(label[day != d], score[day != d]) for d in days])
    n = len(days)
    spread = float(t.ppf(0.975, n - 1)) * float(np.sqrt((n - 1) / n * ((without - without.mean()) ** 2).sum()))
    if not np.isfinite(spread):  # without one of the days there is one class only
        return None
    return Estimate(float(value), float(value) - spread, float(value) + spread)
