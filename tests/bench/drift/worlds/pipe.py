"""The pipe from raw rows to logged predictions, with its four places at which something may break.

1. *source*: the raw rows are wrong. The offline store has them so, and the stream delivers them so.
2. *stream*: the raw rows are right, and what of them reaches the online store, and when, is not.
3. *store*: the online store had the right events, and gives something else.
4. *request*: the caller sends something else than it means.

What is served is computed by the platform's own in-process join (`streaming.join.in_process`) over the online store's events, as of the
moment of the request; on-demand features by its own functions. Marks are what the store would say: the known-time of the last event that
it has applied, and how many of exactly that time. Scores are the registered version's own.

A source's delivery is `delivered_us` of each of its rows: when the online store applied it. Without a fault that is when it was known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from feature_repo.records.prediction import Mark, Prediction
from streaming.join.in_process import gather
from streaming.join.on_demand import Transformation, append_each
from streaming.schema.columns import column_name, floats
from streaming.schema.feature_view import Projection
from tests.bench.drift.worlds.definitions import KNOWN, LABEL
from tests.bench.drift.worlds.tables import DELIVERED, EVENT_TIME, KNOWN_TIME, US, Tables, moments, write
from tests.bench.drift.worlds.world import Floats, Ints

NOBODY = -(2**62)
"""In place of a mark's known-time where the store has no row."""
Rows = Callable[[pa.Table], pa.Table]
"""Changes a source's rows, its deliveries (they carry `delivered_us`), or requests; the number of rows may change."""


@dataclass
class Served:
    """What the online store gave for one view, request by request; a store fault changes it in place.

    Attributes:
        at_us: the requests' moments, int64 [n].
        key: the entity that was asked for, texts [n].
        names: the view's features, in order.
        values: float64 [n, features]; NaN is null.
        known_us, ties, event_us: the marks, int64 [n]; `NOBODY` where there is none.
        letters: statuses, S1 [n, features].
        again: what the view's rows were at other moments and for other keys: `again(at_us, keys)` gives a `Served` of its own.
    """

    at_us: Ints
    key: np.ndarray
    names: list[str]
    values: Floats
    known_us: Ints
    ties: Ints
    event_us: Ints
    letters: np.ndarray
    again: Callable[[Ints, np.ndarray], Served] | None = None


@dataclass(frozen=True)
class Faults:
    """What is broken, by place; nothing is by default.

    Attributes:
        source: source → what is done to its raw rows.
        stream: source → what is done to its deliveries.
        store: view → what is done to what it gives.
        request: what is done to what the caller sends.
        scored: what is done to the model's matrix after it was logged, float64 [n, F] → the same shape.
    """

    source: Mapping[str, Rows] = field(default_factory=dict)
    stream: Mapping[str, Rows] = field(default_factory=dict)
    store: Mapping[str, Callable[[Served], None]] = field(default_factory=dict)
    request: Rows | None = None
    scored: Callable[[Floats, Ints], Floats] | None = None


@dataclass(frozen=True)
class Log:
    """Predictions in order of their moments, and their truths.

    Attributes:
        label, known_us: of each, int64 [n]; the label is -1, and its moment 2^62, where it never becomes known.
    """

    predictions: list[Prediction]
    label: Ints
    known_us: Ints

    def __len__(self) -> int:
        return len(self.predictions)

    def __getitem__(self, rows: slice) -> Log:
        return Log(self.predictions[rows], self.label[rows], self.known_us[rows])

    def __add__(self, other: Log) -> Log:
        return Log(
            self.predictions + other.predictions,
            np.concatenate([self.label, other.label]),
            np.concatenate([self.known_us, other.known_us]),
        )

    @property
    def at_us(self) -> Ints:
        return np.array([p.at_us for p in self.predictions], dtype=np.int64)

    def truths(self, at_us: int) -> dict[str, float]:
        """Labels known by a moment, by prediction id."""
        known = np.flatnonzero(self.known_us <= at_us)
        return {self.predictions[i].id: float(self.label[i]) for i in known}


@dataclass(frozen=True)
class Engine:
    """What serving needs of a registered version.

    Attributes:
        references: `view:feature` of each input, in the contract's order.
        model: scores float64 [n] of a contract's values and statuses.
        sources: view → source.
    """

    model_name: str
    version: int
    plan: Sequence[Projection]
    on_demand: Sequence[Transformation]
    references: Sequence[str]
    inputs: Callable[[Floats, np.ndarray], Floats]
    score: Callable[[Floats], Floats]
    sources: Mapping[str, str]
    request: Sequence[str]


def faulty(tables: Tables, faults: Faults) -> Tables:
    """The raw rows with the faults of the sources in them, as the offline store has them."""
    for source, act in faults.source.items():
        tables = tables.with_rows(source, act(tables.rows[source]))
    return tables


def deliveries(tables: Tables, faults: Faults) -> dict[str, pa.Table]:
    """By source, the events that the online store applied, with `delivered_us`."""
    found = {}
    for source, rows in tables.rows.items():
        events = rows.append_column(DELIVERED, rows[KNOWN_TIME].cast(pa.int64()))
        act = faults.stream.get(source)
        found[source] = act(events) if act else events
    return found


def run(engine: Engine, tables: Tables, faults: Faults, online: Path, first: int = 0) -> Log:
    """Serve the requests of `tables` (their rows have the sources' faults already).

    Args:
        online: an empty folder, for the online store's events.
        first: how many predictions were made before; it is part of their ids.
    """
    asked = tables.asked if faults.request is None else faults.request(tables.asked)
    at = moments(tables.asked)
    events = deliveries(tables, faults)
    for source, table in events.items():
        write(table.set_column(table.column_names.index(KNOWN_TIME), KNOWN_TIME, table[DELIVERED].cast(US)), online / source)
    joined, found = asked, {}
    for projection in engine.plan:
        served = _serve(projection, events[engine.sources[projection.alias]], online, at, _text(asked, projection))
        act = faults.store.get(projection.alias)
        if act:
            act(served)
        found[projection.alias] = served
        for n, name in enumerate(served.names):
            column = pa.array(served.values[:, n], mask=np.isnan(served.values[:, n]))
            joined = joined.append_column(column_name(projection.alias, name), column)
    for view in engine.on_demand:
        joined = append_each(joined, view, lambda reference: column_name(*reference.split(":", 1)), partial(column_name, view.alias))
    values, letters = _matrix(engine, joined, found)
    inputs = engine.inputs(values, letters.view(np.uint8).reshape(letters.shape))
    scores = engine.score(inputs if faults.scored is None else faults.scored(inputs.copy(), at))
    label = tables.asked[LABEL].fill_null(-1).to_numpy()
    known = tables.asked[KNOWN].cast(pa.int64()).fill_null(2**62).to_numpy()
    return Log(_predictions(engine, (asked, at), (values, letters, scores), found, first), label, known)


def _text(asked: pa.Table, projection: Projection) -> np.ndarray:
    return np.asarray(asked[projection.spine_keys[0]].to_numpy(zero_copy_only=False))


def _serve(projection: Projection, events: pa.Table, online: Path, at_us: Ints, keys: np.ndarray) -> Served:
    """What the store gives of one view at these moments for these keys."""
    spine = pa.table({projection.spine_keys[0]: pa.array(keys, pa.string()), EVENT_TIME: pa.array(at_us, US)})
    joined = gather(spine, EVENT_TIME, [projection], online, 2**40)
    columns = [column_name(projection.alias, name) for name in projection.features]
    values = np.column_stack([floats(joined[c]) for c in columns])
    known, ties, event = high_water(events, projection.view.key_names[0], at_us, keys)
    letters = np.full(values.shape, b"f", dtype="S1")
    letters[np.isnan(values)] = b"n"
    if projection.view.ttl_us and projection.view.layout is None:
        for_ever = replace(projection, view=replace(projection.view, ttl_us=0))
        shown = gather(spine, EVENT_TIME, [for_ever], online, 2**40)
        old = np.column_stack([floats(shown[c]) for c in columns])
        stale = np.isnan(values) & ~np.isnan(old)
        values[stale], letters[stale] = old[stale], b"s"
    letters[known == NOBODY] = b"m"
    if projection.view.layout is not None:
        event = np.full(len(at_us), NOBODY)
    again = partial(_serve, projection, events, online)
    return Served(at_us, keys, list(projection.features), values, known, ties, event, letters, again)


def high_water(events: pa.Table, key: str, at_us: Ints, keys: np.ndarray) -> tuple[Ints, Ints, Ints]:
    """What the store has applied of each asked entity by each moment: the newest known-time, how many events of exactly that one, and the
    newest event time among what it has applied. int64 [n] each; `NOBODY` and 0 where nothing.
    """
    whose = events[key].to_numpy(zero_copy_only=False).astype(str)
    unique = np.unique(whose)
    code, asked = np.searchsorted(unique, whose), np.searchsorted(unique, keys.astype(str))
    asked = np.where(np.isin(keys.astype(str), unique), asked, len(unique) + 1)
    delivered, known, event = moments(events, DELIVERED), moments(events, KNOWN_TIME), moments(events)
    base = int(min(x.min(initial=2**60) for x in (delivered, known, event)))
    wide = 2**46  # two years of microseconds; deliveries that never come are kept out
    come = delivered < base + wide
    code, delivered, known, event = code[come], delivered[come] - base, known[come] - base, event[come] - base
    order = np.lexsort((delivered, code))
    composite = (code * wide + delivered)[order]
    newest = np.maximum.accumulate((code * wide + known)[order]) if len(order) else composite
    latest = np.maximum.accumulate((code * wide + event)[order]) if len(order) else composite
    moment = np.clip(at_us - base, -1, wide - 1)  # -1: before anything
    place = np.searchsorted(composite, asked * wide + moment, "right") - 1
    has = (place >= 0) & (len(order) > 0)
    has[has] &= code[order][place[has]] == asked[has]
    mark = np.full(len(at_us), NOBODY)
    mark[has] = newest[place[has]] - asked[has] * wide + base
    head = np.full(len(at_us), NOBODY)
    head[has] = latest[place[has]] - asked[has] * wide + base
    return mark, _ties((code, delivered, known), asked, mark - base, moment, has), head


def _ties(events: tuple[Ints, Ints, Ints], asked: Ints, known_us: Ints, moment: Ints, has: np.ndarray) -> Ints:
    """How many applied events have exactly the mark's known-time, int64 [n]."""
    code, delivered, known = events
    order = np.lexsort((delivered, known, code))
    composite = (code * 2**46 + known)[order]
    found = np.zeros(len(asked), dtype=np.int64)
    wanted = asked[has] * 2**46 + known_us[has]
    first, last = np.searchsorted(composite, wanted), np.searchsorted(composite, wanted, "right")
    count = last - first
    for i in np.flatnonzero(count > 1):  # of one time: those that had been delivered
        count[i] = int((delivered[order[first[i] : last[i]]] <= moment[has][i]).sum())
    found[has] = count
    return found


def _matrix(engine: Engine, joined: pa.Table, served: Mapping[str, Served]) -> tuple[Floats, np.ndarray]:
    """Values float64 [n, F] and letters S1 [n, F] in the contract's order."""
    values = np.empty((joined.num_rows, len(engine.references)))
    letters = np.full(values.shape, b"r", dtype="S1")
    for place, reference in enumerate(engine.references):
        view, name = reference.split(":")
        if view in served:
            n = served[view].names.index(name)
            values[:, place], letters[:, place] = served[view].values[:, n], served[view].letters[:, n]
        else:
            values[:, place] = floats(joined[column_name(view, name)])
    return values, letters


def _predictions(
    engine: Engine,
    requests: tuple[pa.Table, Ints],
    found: tuple[Floats, np.ndarray, Floats],
    served: Mapping[str, Served],
    first: int,
) -> list[Prediction]:
    asked, at = requests
    values, letters, scores = found
    fields: dict[str, list[Any]] = {name: asked[name].to_pylist() for name in engine.request if name != "asked_at"}
    fields["asked_at"] = [_iso(moment) for moment in asked["asked_at"].to_pylist()]
    shown: Any = values.astype(object)
    shown[np.isnan(values)] = None
    texts = [b"".join(row).decode() for row in letters]
    marks = {view: _marks(one) for view, one in served.items()}
    return [
        Prediction(
            id=prediction_id(int(moment), first + i),
            model=engine.model_name,
            version=engine.version,
            at_us=int(moment),
            wall_us=int(moment),
            request={name: column[i] for name, column in fields.items()},
            values=shown[i].tolist(),
            statuses=texts[i],
            marks={view: one[i] for view, one in marks.items()},
            score=float(scores[i]),
        )
        for i, moment in enumerate(at)
    ]


def _iso(moment: Any) -> str | None:
    return None if moment is None else moment.isoformat().replace("+00:00", "Z")


def _marks(served: Served) -> list[Mark]:
    def some(value: int) -> int | None:
        return None if value == NOBODY else int(value)

    columns = zip(served.known_us.tolist(), served.ties.tolist(), served.event_us.tolist(), strict=True)
    return [Mark(some(known), ties, some(event)) for known, ties, event in columns]


def prediction_id(at_us: int, number: int) -> str:
    """A UUID of version 7 that says the moment, always the same."""
    ms = f"{at_us // 1000:012x}"
    return f"{ms[:8]}-{ms[8:]}-7000-8000-{number:012x}"
