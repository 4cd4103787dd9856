"""The store against the oracle: what each entity must hold, from the accepted events alone, one at a time, from the definition."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from serving.features.decoder import STALE
from serving.features.reader import OnlineReader
from streaming.aggregation.sketches import DISTINCT
from streaming.aggregation.windows import HOUR, MINUTE
from streaming.offline import parquet
from streaming.schema.feature_view import View
from streaming.versions import table_version
from streaming.versions.table_version import DataFile
from tests.bench.storm.world import World
from tests.oracle import naive

LATER = (0, 7 * MINUTE, 3 * HOUR, 30 * HOUR)
_SHOWN = 20


def keep_offline(world: World, rows: dict[str, list[dict[str, Any]]]) -> None:
    """What came live, added to the offline tables as the next ingest would have it."""
    for table, added in rows.items():
        folder = world.own.offline_root / table
        like, base = pq.read_schema(next(iter(sorted(folder.glob("day=*/*.parquet"))))), table_version.newest(folder)
        assert base is not None
        files = list(base.files)
        timestamp = next(v.timestamp for v in world.views.values() if v.path == table)
        by_day: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for row in added:
            by_day[f"{row[timestamp]:%Y-%m-%d}"].append(row)
        for day, some in by_day.items():
            path = folder / f"day={day}" / f"part-storm-{uuid.uuid4().hex}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(pa.Table.from_pylist(some, like).sort_by(timestamp), path)
            files.append(DataFile(str(path.relative_to(folder)), len(some), path.stat().st_size, day))
        table_version.commit(folder, base, files, "what came live")


def wrong_cells(world: World, stations: Iterable[int], classes: Iterable[str], now_us: int) -> tuple[int, int, list[str]]:
    """Every cell of these entities, read now and as time passes, against the oracle.

    Returns:
        Cells compared, those that differ, and the first of them in words.
    """
    instances = [{"station": s, "rider_class": c} for s in stations for c in classes]
    events = {view.name: _events(world, view) for view in world.views.values()}
    compared = wrong = 0
    examples: list[str] = []
    for later in LATER:
        reader, rows = _read(world, instances, now_us + later)
        for view in world.views.values():
            sketched = {a.name for a in view.layout.aggregations if a.function == "count_distinct"} if view.layout else set()
            seen: set[Any] = set()
            for i, instance in enumerate(instances):
                key = tuple(instance[k] for k in view.key_names)
                if key in seen:
                    continue
                seen.add(key)
                for name, want in _expected(view, events[view.name].get(key, []), key, now_us + later):
                    place = reader.features.index(f"{view.name}:{name}")
                    got = math.nan if rows.statuses[i, place] == STALE else float(rows.values[i, place])
                    compared += 1
                    if not _same(got, want, name in sketched):
                        wrong += 1
                        if len(examples) < _SHOWN:
                            examples.append(f"{view.name}:{name} of {key}, {later / HOUR:g} h later: {got}, the oracle says {want}")
    return compared, wrong, examples


def _expected(view: View, events: list[naive.Event], key: Any, t_us: int) -> Iterator[tuple[str, float | None]]:
    if view.layout:
        reach = t_us - view.reach_us - 2 * max(a.hop_us for a in view.layout.aggregations)
        recent = [e for e in events if e.event_us >= reach]  # what no window can see takes the oracle long
        yield from ((a.name, naive.window(recent, a, key, t_us)) for a in view.layout.aggregations)
        return
    row = naive.latest(events, key, t_us, view.ttl_us)
    yield from ((f.name, row.values[f.name] if row else None) for f in view.features)


def _events(world: World, view: View) -> dict[Any, list[naive.Event]]:
    found: dict[Any, list[naive.Event]] = defaultdict(list)
    for row in parquet.table(world.own.offline_root / view.path).to_pylist():
        key = tuple(row[k] for k in view.key_names)
        if None in key:
            continue
        when, known = _us(row[view.timestamp]), _us(row[view.created]) if view.created else _us(row[view.timestamp])
        values = {c: row[c] if row[c] is None or isinstance(row[c], str) else float(row[c]) for c in view.source_columns}
        found[key].append(naive.Event(key, when, known, values))
    return {key: sorted(events, key=lambda e: (e.event_us, e.known_us, str(e.values))) for key, events in found.items()}


def _us(moment: datetime) -> int:
    return round(moment.timestamp() * 1e6)


def _read(world: World, instances: list[dict[str, Any]], t_us: int) -> tuple[OnlineReader, Any]:
    async def go() -> tuple[OnlineReader, Any]:
        reader = OnlineReader.open(world.case.store, world.contract.feature_service, world.own.redis(), 10.0)
        try:
            return reader, await reader.read(instances, t_us)
        finally:
            await reader.close()

    return asyncio.run(go())


def _same(got: float, want: float | None, sketched: bool) -> bool:
    if want is None or math.isnan(want):
        return math.isnan(got)
    if sketched and want > DISTINCT:  # beyond this many it is an estimate, by its definition: five standard errors
        return abs(got - want) <= 5 * want / math.sqrt(DISTINCT - 1)
    return math.isclose(got, want, rel_tol=1e-12)
