"""Events and examples made to break a join: everything that is known to go wrong somewhere, in one small world, different for every seed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streaming.aggregation.functions.table import EXAMPLES
from streaming.aggregation.windows import DAY, HOUR, MINUTE, SECOND, Aggregation, Layout
from streaming.schema.feature_view import Feature, Projection, View
from tests.oracle import naive

STAMP = pa.timestamp("us", tz="UTC")
# the night New York's clocks went back
NIGHT = int(datetime(2021, 11, 7, 6, tzinfo=UTC).timestamp()) * SECOND
KEYS: list[tuple[int | None, str | None]] = [(1, "23"), (12, "3"), (1, ""), (1, None), (None, "3"), (-5, "é\u0000x"), (2**53 + 1, "3")]
NEVER_SEEN = (99, "nobody")
WINDOWS = [(HOUR, 0), (DAY, 0), (7 * MINUTE, 2 * MINUTE)]
TYPES = {
    "x": "double", "f32": "float", "big": "int64", "small": "int32", "flag": "bool", "text": "string", "raw": "bytes", "when": "timestamp",
    "doubles": "array<double>", "words": "array<string>", "longs": "array<int64>", "flags": "array<bool>", "moments": "array<timestamp>",
}  # fmt: skip
ARROW = {
    "x": pa.float64(), "f32": pa.float32(), "big": pa.int64(), "small": pa.int32(), "flag": pa.bool_(), "text": pa.string(), "raw": pa.binary(),
    "when": STAMP, "doubles": pa.list_(pa.float64()), "words": pa.list_(pa.string()), "longs": pa.list_(pa.int64()),
    "flags": pa.list_(pa.bool_()), "moments": pa.list_(STAMP),
}  # fmt: skip


def views(project: str) -> dict[str, View]:
    common = ("nasty", "at", "known", ())
    keys = (Feature("a", "int64"), Feature("b", "string"))
    aggregations = [Aggregation(f"{f}_{w}", "x", f, w, h) for w, h in WINDOWS for f in EXAMPLES]
    aggregations.append(Aggregation("words", "text", "count_distinct", DAY))
    windowed = tuple(Feature(a.name, "double") for a in aggregations)
    latest = tuple(Feature(n, t) for n, t in TYPES.items())
    pair = (Feature("a", "int64"), Feature("c", "int64"))
    counts = [Aggregation("count", "x", "count", DAY)]
    found = [
        View(project, "windows", keys, *common, 0, windowed, Layout.of(aggregations), "nasty"),
        View(project, "pairs", pair, *common, 0, (Feature("count", "int64"),), Layout.of(counts), "nasty"),
        View(project, "latest", keys, *common, 0, latest, None, "nasty"),
        View(project, "shortly", keys, *common, 2 * HOUR, latest[:3], None, "nasty"),
    ]
    return {v.name: v for v in found}


def whole(view: View) -> Projection:
    return Projection(view, view.name, tuple(f.name for f in view.features), ())


@dataclass
class Nasty:
    """`rows` in canonical order: by event time, known time, content; times in microseconds."""

    rows: list[dict[str, Any]]
    examples: list[dict[str, Any]]

    @classmethod
    def make(cls, seed: int, n: int = 260) -> Nasty:
        random = np.random.default_rng(seed)
        rows = []
        for _ in range(n):
            a, b = KEYS[random.integers(len(KEYS))]
            rows.append({"a": a, "b": b, "c": {1: 23, 12: 3}.get(a or 0, 5)} | _moment(random) | _values(random))
        rows += [dict(rows[i]) for i in random.integers(0, n, 12)]  # exact duplicates
        corrected = [dict(rows[i]) for i in random.integers(0, n, 12)]
        rows += [row | _values(random) | {"known": row["known"] + int(random.integers(1, 3)) * MINUTE} for row in corrected]
        tied = [dict(rows[i]) for i in random.integers(0, n, 8)]
        rows += [row | _values(random) for row in tied]  # the same moments, other values
        rows.sort(key=canonical)
        return cls(rows, [_example(random, i) for i in range(80)])

    @property
    def end_us(self) -> int:
        return max(max(r["at"], r["known"]) for r in self.rows) + 1

    def write(self, root: Path) -> None:
        """Day partitions by event time, each day in two files, rows in no order."""
        shuffled = [self.rows[i] for i in np.random.default_rng(0).permutation(len(self.rows))]
        for day in {r["at"] // DAY for r in shuffled}:
            mine = [r for r in shuffled if r["at"] // DAY == day]
            folder = root / "nasty" / f"day={np.datetime64(int(day), 'D')}"
            folder.mkdir(parents=True)
            for k, part in enumerate((mine[::2], mine[1::2])):
                pq.write_table(table(part), folder / f"part-{k}.parquet")

    def spine(self) -> pa.Table:
        columns = {
            "a": pa.array([e["a"] for e in self.examples], pa.int64()),
            "b": pa.array([e["b"] for e in self.examples], pa.string()),
            "c": pa.array([e["c"] for e in self.examples], pa.int64()),
            "event_timestamp": pa.array([e["t"] for e in self.examples], STAMP),
            "number": pa.array(range(len(self.examples))),
            "list": pa.array([[i, None] for i in range(len(self.examples))], pa.list_(pa.int64())),
            "struct": pa.array(
                [{"p": i, "q": None} for i in range(len(self.examples))], pa.struct([("p", pa.int64()), ("q", pa.string())])
            ),
        }
        return pa.table(columns)

    def events(self, view: View, upto_us: int | None = None) -> list[naive.Event]:
        """As the oracle takes them; `values` has every column, and the row itself."""
        found = []
        for row in self.rows:
            if upto_us is not None and row["known"] > upto_us:
                continue
            key = tuple(row[k] for k in view.key_names)
            found.append(naive.Event(None if None in key else key, row["at"], row["known"], row))
        return found

    def expected(self, view: View, events: list[naive.Event], key: tuple[Any, ...], t_us: int) -> dict[str, Any]:
        own = None if None in key else key
        if view.layout:
            return {a.name: naive.window(events, a, own, t_us) for a in view.layout.aggregations}
        row = naive.latest(events, own, t_us, view.ttl_us)
        return {f.name: None if row is None else row.values[f.name] for f in view.features}


def canonical(row: dict[str, Any]) -> tuple[Any, ...]:
    """By event time, known time, then content, column by column as the views list them; null last."""
    content = tuple(_order(row[c]) for c in ("a", "b", *TYPES))
    return (row["at"], row["known"], content)


def _order(value: Any) -> tuple[int, Any]:
    if value is None:
        return (2, 0)
    if isinstance(value, float) and math.isnan(value):
        return (1, 0)
    return (0, repr(value) if isinstance(value, list) else value.encode() if isinstance(value, str) else value)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    columns = {c: pa.array([r[c] for r in rows], pa.string() if c == "b" else pa.int64()) for c in ("a", "b", "c")}
    columns |= {c: pa.array([r[c] for r in rows], STAMP) for c in ("at", "known")}
    return pa.table(columns | {c: pa.array([r[c] for r in rows], t) for c, t in ARROW.items()})


def _moment(random: np.random.Generator) -> dict[str, int]:
    kind = random.integers(5)
    if kind == 0:  # on an edge of a hop, or of a window ending at NIGHT, or a microsecond beside it
        at = NIGHT - int(random.choice([0, HOUR, DAY, 7 * MINUTE])) + int(random.choice([-1, 0, 1]))
    elif kind == 1:
        at = NIGHT - int(random.integers(0, 30)) * 5 * MINUTE  # ties
    elif kind == 2:
        at = NIGHT - 6 * 365 * DAY - int(random.integers(0, DAY))  # years of silence before the rest
    else:
        at = NIGHT - int(random.integers(0, 30 * HOUR))
    lag = int(random.choice([0, 0, 0, SECOND, 10 * MINUTE, 3 * HOUR, 20 * HOUR, -5 * MINUTE]))  # late, and known before it happened
    return {"at": at, "known": at + lag}


def _values(random: np.random.Generator) -> dict[str, Any]:
    x = random.choice(np.array([0.1, -0.0, 1e16, -1e16, 1e-9, 3.25, math.inf, -math.inf, math.nan, 7.0, 42.5]))
    text = [None, "", "é", "a", "a" * 3000, "null"][random.integers(6)]
    some = [None, 2**53 + 1, -(2**63), 2**63 - 1, -1, 0][random.integers(6)]
    when = [None, datetime(1969, 12, 31, 23, 59, 58, tzinfo=UTC), datetime(2021, 11, 7, 5, 30, tzinfo=UTC)][random.integers(3)]
    return {
        "x": None if random.random() < 0.15 else float(x),
        "f32": None if random.random() < 0.2 else float(np.float32(random.normal())),
        "big": some,
        "small": None if random.random() < 0.2 else int(random.integers(-(2**31), 2**31)),
        "flag": [None, True, False][random.integers(3)],
        "text": text,
        "raw": [None, b"", b"\x00\xff"][random.integers(3)],
        "when": when,
        "doubles": [None, [], [1.5, -0.0, math.inf], [0.1] * 5][random.integers(4)],
        "words": [None, [], ["", "é"]][random.integers(3)],
        "longs": [None, [], [2**53 + 1, -1]][random.integers(3)],
        "flags": [None, [True, False]][random.integers(2)],
        "moments": [None, [], [datetime(2021, 1, 1, tzinfo=UTC)]][random.integers(3)],
    }


def _example(random: np.random.Generator, i: int) -> dict[str, Any]:
    a, b = NEVER_SEEN if i % 17 == 0 else KEYS[random.integers(len(KEYS))]
    t = NIGHT + int(random.choice([0, 0, -1, 1, HOUR, -HOUR, 5 * MINUTE, 26 * HOUR, -3 * 365 * DAY, int(random.integers(-DAY, DAY))]))
    return {"a": a, "b": b, "c": {1: 23, 12: 3}.get(a or 0, 5), "t": t}


def same(got: Any, want: Any, function: str, scale: float) -> bool:
    """Equal; windows' sums to what 106 bits hold (docs/semantics.md)."""
    from tests.streaming.join.test_point_in_time import same as close

    if isinstance(want, float) and math.isnan(want):
        want = None
    if got is None or (isinstance(got, float) and math.isnan(got)):
        return want is None
    if function:
        return want is not None and close(got, want, function, scale)
    return bool(got == want)


def moment(us: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)
