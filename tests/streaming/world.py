"""A small world of events for the tests of survival: tables, views, what the oracle says of them, and processes to kill.

`python -m tests.streaming.world backfill|stream URL ROOT END` runs one engine on it in a process of its own.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_repo.records.redis_keys import applied_key, events_key
from streaming.aggregation import tiles
from streaming.aggregation.finisher import Finisher
from streaming.aggregation.windows import DAY, HOUR, SECOND, Aggregation, Layout
from streaming.online import feast_layout
from streaming.online.entities import key_function
from streaming.schema.feature_view import Feature, View
from streaming.schema.json_row import encode
from tests.oracle import naive

START = 1_600_000_000 * SECOND // DAY * DAY
KINDS = ["", "a", "bb"]
AGGREGATIONS = [Aggregation(f"{f}_{w // HOUR}h", "x", f, w) for f in ("count", "sum", "mean", "max", "std", "last") for w in (HOUR, DAY)]


def views(project: str) -> list[View]:
    """A latest-value view by user, and a windowed one by user and kind; the stream feeds both."""
    common = ("things", "at", "known", ())
    features = (Feature("x", "double"), Feature("label", "string"))
    latest = View(project, "latest", (Feature("user", "int64"),), *common, 0, features, None, "things")
    keys = (Feature("kind", "string"), Feature("user", "int64"))
    windowed = View(
        project, "windows", keys, *common, 0, tuple(Feature(a.name, "double") for a in AGGREGATIONS), Layout.of(AGGREGATIONS), "things"
    )
    return [latest, windowed]


@dataclass(frozen=True)
class World:
    """Events of three days, known up to two hours after they happened; sorted by when they became known."""

    rows: int
    users: int
    seed: int = 5

    @cached_property
    def table(self) -> pa.Table:
        random = np.random.default_rng(self.seed)
        at = START + random.integers(0, 3 * 24 * 60, self.rows) * 60 * SECOND  # on the minute: ties, and many on a hop's edge
        known = at + np.where(random.random(self.rows) < 0.5, 0, random.integers(0, 7200, self.rows) * SECOND)
        order = np.lexsort((np.arange(self.rows), known))
        x = np.round(random.normal(0, 100, self.rows), 2)
        stamp = pa.timestamp("us", tz="UTC")
        table = pa.table(
            {
                "user": pa.array(random.integers(0, self.users, self.rows)),
                "kind": pa.array(np.array(KINDS)[random.integers(0, len(KINDS), self.rows)]),
                "at": pa.array(at, stamp),
                "known": pa.array(known + np.arange(self.rows) % 997, stamp),  # known times of one entity differ, as the marks assume
                "x": pa.array(np.where(random.random(self.rows) < 0.1, np.nan, x), from_pandas=True),
                "label": pa.array([f"é{i}" if i % 11 else None for i in range(self.rows)]),
            }
        )
        return table.take(pa.array(order)).sort_by("known")

    def write(self, root: Path, upto_us: int) -> None:
        """Day partitions of what is known by a moment."""
        known = np.asarray(self.table["known"].cast(pa.int64()))
        some = self.table.filter(pa.array(known <= upto_us))
        day = np.asarray(some["at"].cast(pa.int64())) // DAY
        for one in np.unique(day):
            folder = root / "things" / f"day={np.datetime64(int(one), 'D')}"
            folder.mkdir(parents=True, exist_ok=True)
            pq.write_table(some.filter(pa.array(day == one)), folder / "part-0.parquet")

    def rows_known(self, after_us: int, upto_us: int) -> Iterator[bytes]:
        """What becomes known in `(after, upto]` as the stream's data, in that order."""
        known = np.asarray(self.table["known"].cast(pa.int64()))
        for row in self.table.filter(pa.array((known > after_us) & (known <= upto_us))).to_pylist():
            yield encode(row)

    def check(self, client: Any, view: View, upto_us: int, t_us: int, entities: int = 40) -> None:
        """A sample of the store's entities, read at `t_us`, equals the oracle's answer from all events known by `upto_us`."""
        owned: dict[Any, list[naive.Event]] = defaultdict(list)
        labels: dict[int, str | None] = {}
        for row in self.table.to_pylist():
            known = int(row["known"].timestamp() * 1_000_000 + 0.5)
            if known > upto_us:
                break
            one = naive.Event(tuple(row[k] for k in view.key_names), int(row["at"].timestamp() * 1_000_000 + 0.5), known, {"x": row["x"]})
            labels[id(one)] = row["label"]
            owned[one.key].append(one)
        encode = key_function(view)
        finisher = Finisher(view.layout) if view.layout else None
        keys = sorted(owned)
        for key in [keys[i] for i in np.random.default_rng(1).choice(len(keys), min(entities, len(keys)), replace=False)]:
            stored = client.hgetall(encode(key))
            header = tiles.read_header(stored[feast_layout.tile_field(view.name)])
            newest = max(e.known_us for e in owned[key])
            assert (header.mark_us, header.ties) == (newest, sum(e.known_us == newest for e in owned[key])), key
            if finisher is None:
                want = naive.latest(owned[key], key, t_us, 0)
                assert want is not None
                assert feast_layout.decode_value(stored[feast_layout.field(view.name, "x")]) == want.values["x"], key
                assert feast_layout.decode_value(stored[feast_layout.field(view.name, "label")]) == labels[id(want)], key
                continue
            got = finisher(stored[feast_layout.tile_field(view.name)], t_us)
            for value, aggregation in zip(got, AGGREGATIONS, strict=True):
                expected = naive.window(owned[key], aggregation, key, t_us)
                if expected is None:
                    assert math.isnan(value), (key, aggregation)
                else:
                    assert math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-9), (key, aggregation, value, expected)


def produce(client: Any, project: str, rows: Iterator[bytes]) -> None:
    """Put rows on the stream, each once, whatever happens to Redis: an answer that was lost is looked up."""
    import redis

    for sent, data in enumerate(rows, 1):
        while True:
            try:
                last = client.xrevrange(events_key(project), count=1)
                if last and last[0][1].get(b"n") == str(sent).encode():
                    break  # it had arrived before the answer was lost
                client.xadd(events_key(project), {"source": "things", "data": data, "n": sent})
                break
            except (redis.RedisError, OSError):
                time.sleep(0.05)


def wait_applied(client: Any, project: str, timeout_s: float = 120.0) -> None:
    """Until everything on the stream has been applied."""
    import redis

    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            last = client.xrevrange(events_key(project), count=1)
            if last and client.hget(applied_key(project), "id") == last[0][0]:
                return
        except (redis.RedisError, OSError):
            pass
        time.sleep(0.1)
    raise AssertionError("the stream does not advance")


def main(engine: str, url: str, root: str, project: str, end: str) -> None:
    from functools import partial

    from infra.settings import load_settings
    from streaming.backfill import run as batch
    from streaming.live import query
    from streaming.offline.spark import session

    own = load_settings()
    own.export()
    spark = session(own, engine, quick=engine == "stream")
    if engine == "backfill":
        batch.ROWS_PER_BUCKET = 2_000  # many parts, so that a kill falls between them
        print("ready", flush=True)
        for done in batch.backfill(spark, views(project), Path(root), url, int(end)):
            print(f"{done.view} resumed={done.resumed} held={done.held} error={done.error}", flush=True)
    else:
        starter = partial(query.start, spark, url, views(project), str(own.state / "checkpoint"), tasks=own.tasks_of_stream)
        query.run({"the stream": starter}, url, views(project), lambda: print("ready", flush=True))
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
