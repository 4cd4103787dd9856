"""The Redis Stream of live events, read: by the streaming query, and by a backfill that catches up with what the stream has applied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa

from feature_repo.records.redis_keys import events_key, kafka_key
from streaming import clock
from streaming.live import dead_letters, events
from streaming.online import resp
from streaming.online.store import OnlineStore, connect, watermark
from streaming.schema.columns import KNOWN, microseconds
from streaming.schema.feature_view import View

if TYPE_CHECKING:
    import redis
    from pyspark.sql import DataFrame, SparkSession

Position = tuple[int, int]
SCHEMA = pa.schema([("ms", pa.int64()), ("seq", pa.int64()), ("source", pa.string()), ("data", pa.binary()), ("only", pa.string())])
"""`only`: names of the views an event is for, comma-separated; empty: all that its source feeds."""
_READ = 5_000  # entries per XRANGE


def entries(client: redis.Redis, key: str, after: str, upto: str, limit: int | None = None) -> Iterator[pa.RecordBatch]:
    """Entries with ids in `(after, upto]`, the first `limit` of them, in batches of `SCHEMA`."""
    left = limit
    while left is None or left > 0:
        count = _READ if left is None else min(_READ, left)
        found = _found(client, key, after, upto, count)
        if not found:
            return
        ids, source, data, only = _columns(found)
        columns = [
            pa.array(ids[:, 0]),
            pa.array(ids[:, 1]),
            pa.array(source, pa.string()),
            pa.array(data, pa.binary()),
            pa.array(only, pa.string()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=SCHEMA)
        if len(found) < count:
            return
        after, left = found[-1][0].decode(), left and left - count


def _found(client: redis.Redis, key: str, after: str, upto: str, count: int) -> list[list[Any]]:
    """Entries as Redis gives them: id, and field, value, field, ... Without redis-py's work per entry, which costs more than Redis'."""
    import redis

    arguments = [b"XRANGE", key.encode(), f"({after}".encode(), upto.encode(), b"COUNT", b"%d" % count]
    ((lane, _),) = OnlineStore(client).lanes(arguments[1:2])
    try:
        return list(resp.send(lane, [b"*6\r\n" + b"".join(map(resp.bulk, arguments))])[0])
    except redis.exceptions.MovedError:
        entries: Any = client.xrange(key, f"({after}", upto, count=count)
        return [[i, [part for pair in fields.items() for part in pair]] for i, fields in entries]


def _columns(found: list[list[Any]]) -> tuple[Any, list[str], list[bytes], list[str]]:
    ids = np.fromstring(b" ".join(i for i, _ in found).replace(b"-", b" "), dtype=np.int64, sep=" ").reshape(-1, 2)
    texts: dict[bytes, str] = {b"": ""}
    source: list[str] = []
    data: list[bytes] = []
    only: list[str] = []
    for _, parts in found:
        if len(parts) == 4 and parts[0] == b"source" and parts[2] == b"data":
            a, row, b = parts[1], parts[3], b""
        else:
            fields = dict(zip(parts[::2], parts[1::2], strict=False))
            a, row, b = (fields.get(name, b"") for name in (b"source", b"data", b"only"))
        data.append(row)
        for raw, column in ((a, source), (b, only)):
            if (said := texts.get(raw)) is None:
                said = texts[raw] = raw.decode(errors="replace")
            column.append(said)
    return ids, source, data, only


def elsewhere(client: redis.Redis, project: str) -> list[str]:
    """The push sources that the stream reads from Kafka: their events are not taken from the Redis Stream."""
    said: Any = client.hget(kafka_key(project), "sources")
    return said.decode(errors="replace").split(",") if said else []


class Log(Protocol):
    """Where a push source's live events are kept for a while. Can be pickled: tasks of a backfill read it."""

    def last(self, client: redis.Redis) -> Position:
        """The position that it reaches to; (0, 0): it has none."""

    def read(self, client: redis.Redis, after: Position, upto: Position) -> Iterator[pa.RecordBatch]:
        """Events with positions in `(after, upto]`, in batches of `SCHEMA`."""


@dataclass(frozen=True)
class StreamLog:
    """The Redis Stream."""

    project: str

    def last(self, client: redis.Redis) -> Position:
        return watermark(client, events_key(self.project))

    def read(self, client: redis.Redis, after: Position, upto: Position) -> Iterator[pa.RecordBatch]:
        return entries(client, events_key(self.project), text(after), text(upto))


def text(position: Position) -> str:
    return f"{position[0]}-{position[1]}"


def _of_view(client: redis.Redis, view: View, batch: pa.RecordBatch, seam_us: int, tolerance_s: float) -> pa.Table:
    ms, seq, *columns = (batch[name].to_pylist() for name in ("ms", "seq", "source", "data", "only"))
    aside = dead_letters.set_aside(client, view.project, (ms[0], seq[0]), (ms[-1], seq[-1]))
    some = [
        (data, ms[i])
        for i, (source, data, only) in enumerate(zip(*columns, strict=True))
        if source == view.stream
        and (not only or view.name in only.split(","))
        and not (aside and aside.get((ms[i], seq[i]), set()) & {"", view.name})
    ]
    latest = clock.latest_us([at for _, at in some], tolerance_s)
    table, _, _ = events.decode(view, [data for data, _ in some], range(len(some)), latest)  # what does not fit is the stream's to reject
    return table.filter(pa.array(microseconds(table[KNOWN]) > seam_us))


def since(
    client: redis.Redis, view: View, seam_us: int, tolerance_s: float, log: Log | None = None
) -> Callable[[Position], tuple[pa.Table, Position]]:
    """Gives a function of a stream position: the view's live events after it that became known after the seam, and the position that they
    reach to.
    """

    log = log or StreamLog(view.project)

    def later(after: Position) -> tuple[pa.Table, Position]:
        upto = max(log.last(client), after)
        empty, _, _ = events.decode(view, [], [])
        tables = [_of_view(client, view, batch, seam_us, tolerance_s) for batch in log.read(client, after, upto)]
        return pa.concat_tables([empty, *tables]), upto

    return later


# wide: what is read, and what it must look like
def frame(
    spark: SparkSession,
    view: View,
    url: str,
    seam_us: int,
    upto: Position,
    like: DataFrame,
    log: Log,
    tolerance_s: float = clock.TOLERANCE_S,
) -> DataFrame:
    """The view's live events up to a position that became known after the seam, with the columns of `like`."""
    from pyspark.sql.pandas.types import to_arrow_schema

    schema = to_arrow_schema(like.schema, timezone="UTC")

    def read(_: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        client = connect(url)
        try:
            for batch in log.read(client, (0, 0), upto):
                yield from _of_view(client, view, batch, seam_us, tolerance_s).select(schema.names).cast(schema).to_batches()
        finally:
            client.close()

    return spark.range(0, 1, 1, 1).mapInArrow(read, like.schema)
