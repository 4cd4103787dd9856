"""Where live events end up: a Spark sink that merges each micro-batch into the online store, where it was read."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceStreamArrowWriter, WriterCommitMessage
from pyspark.sql.types import StructType

from streaming import event, rejected
from streaming.join import EVENT
from streaming.materialize import apply
from streaming.store import OnlineStore, applied_key, connect, events_key
from streaming.view import View

# KEYS[1] the progress; ARGV: milliseconds and sequence of the last entry, wall clock, events, then view, newest event time, ...
_ADVANCE = """
local ms, seq = string.match(redis.call('HGET', KEYS[1], 'id') or '0-0', '(%d+)-(%d+)')
ms, seq = tonumber(ms), tonumber(seq)
local to_ms, to_seq = tonumber(ARGV[1]), tonumber(ARGV[2])
redis.call('HSET', KEYS[1], 'wall_us', ARGV[3])
if to_ms < ms or (to_ms == ms and to_seq <= seq) then return 0 end
redis.call('HSET', KEYS[1], 'id', ARGV[1] .. '-' .. ARGV[2])
redis.call('HINCRBY', KEYS[1], 'events', ARGV[4])
for i = 5, #ARGV, 2 do
  local before = redis.call('HGET', KEYS[1], ARGV[i])
  if not before or tonumber(before) < tonumber(ARGV[i + 1]) then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return 1
"""


def newest_field(view: str) -> str:
    """Field of the progress hash: the newest event time the stream has seen of a view, microseconds."""
    return f"newest:{view}"


def apply_batch(views: Sequence[View], store: OnlineStore, batch: pa.Table) -> dict[str, int]:
    """Merge one micro-batch, in stream order, into every view that its events feed. What fits none of them is put on the rejected stream.

    Returns:
        The newest event time (microseconds) of each view that had an event.
    """
    by_source: dict[str, list[int]] = defaultdict(list)
    for i, source in enumerate(batch["source"].to_pylist()):
        by_source[source].append(i)
    positions = list(zip(batch["ms"].to_pylist(), batch["seq"].to_pylist(), strict=True))
    data, only = batch["data"].to_pylist(), batch["only"].to_pylist()
    refused: dict[int, dict[str, str]] = defaultdict(dict)
    fed = {v.stream for v in views}
    for source, rows in by_source.items():
        if source not in fed:
            for i in rows:
                refused[i][""] = f"no feature view is fed by a push source named {source!r}"
    newest = {}
    for view in views:
        rows = [i for i in by_source.get(view.stream or "", []) if not only[i] or view.name in only[i].split(",")]
        if not rows:
            continue
        table, kept, bad = event.decode(view, [data[i] for i in rows], rows)
        for one in bad:
            refused[one.row][view.name] = one.why
        apply(view, store, table, [positions[i] for i in kept])
        if len(table):
            newest[view.name] = max(table[EVENT].to_pylist())
    if refused:
        sources = batch["source"].to_pylist()
        items = [rejected.Rejected(positions[i], sources[i], data[i], why) for i, why in sorted(refused.items())]
        rejected.put(store.client, views[0].project, items)
    return newest


@dataclass
class _Done(WriterCommitMessage):
    events: int


class StoreWriter(DataSourceStreamArrowWriter):
    """Merges micro-batches where they were read; the driver only hears how far they got.

    Args:
        keep_s: events are taken off the stream when they are applied and older than this.
    """

    def __init__(self, url: str, views: Sequence[View], keep_s: float) -> None:
        self.url, self.views, self.keep_s = url, views, keep_s

    def write(self, iterator: Iterator[pa.RecordBatch]) -> WriterCommitMessage:
        batches = [b for b in iterator if len(b)]
        if not batches:
            return _Done(0)
        table, client, project = pa.Table.from_batches(batches), _client(self.url), self.views[0].project
        newest = apply_batch(self.views, OnlineStore(client), table)
        ms, seq = int(table["ms"][-1].as_py()), int(table["seq"][-1].as_py())
        told = [part for view, us in newest.items() for part in (newest_field(view), us)]
        # after the entities: what Redis remembers of a crash is a beginning of what was written, so progress never runs ahead
        client.eval(_ADVANCE, 1, applied_key(project), ms, seq, time.time_ns() // 1000, len(table), *told)
        oldest = min(ms, round((time.time() - self.keep_s) * 1000))
        client.xtrim(events_key(project), minid=oldest, approximate=True)
        return _Done(len(table))

    def commit(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        return None

    def abort(self, messages: list[WriterCommitMessage | None], batchId: int) -> None:
        return None


_clients: dict[str, Any] = {}


def _client(url: str) -> Any:
    # a worker lives through many micro-batches: one connection for all of them
    if url not in _clients:
        _clients[url] = connect(url)
    return _clients[url]


def sink(url: str, views: Sequence[View], keep_s: float) -> type[DataSource]:
    """A data source class whose writer merges into the store."""

    class StoreSink(DataSource):
        @classmethod
        def name(cls) -> str:
            return "headrace_store"

        def streamWriter(self, schema: StructType, overwrite: bool) -> StoreWriter:
            return StoreWriter(url, views, keep_s)

    return StoreSink
