"""What the naive engine says of the bikes, and whether the online store says the same."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from serving.features.decoder import STALE
from serving.features.reader import OnlineReader
from streaming.schema.feature_view import View
from tests.bikes.platform import Bikes
from tests.oracle import naive


def oracle_events(bikes: Bikes, view: View) -> list[naive.Event]:
    found = []
    for row in bikes.events(view):
        key = tuple(row[k] for k in view.key_names)
        when = round(row[view.timestamp].timestamp() * 1e6)
        known = round(row[view.created].timestamp() * 1e6) if view.created else when
        values = {c: row[c] if row[c] is None or isinstance(row[c], str) else float(row[c]) for c in view.source_columns}
        found.append(naive.Event(None if None in key else key, when, known, values))
    return sorted(found, key=lambda e: (e.event_us, e.known_us, str(e.values)))


def expected(view: View, events: list[naive.Event], key: Any, t_us: int) -> dict[str, float | None]:
    if view.layout:
        return {a.name: naive.window(events, a, key, t_us) for a in view.layout.aggregations}
    row = naive.latest(events, key, t_us, view.ttl_us)
    return {f.name: row.values[f.name] if row else None for f in view.features}


def close(got: float | None, want: float | None) -> bool:
    if want is None or math.isnan(want):
        return got is None or math.isnan(got)
    return got is not None and math.isclose(got, want, rel_tol=1e-12)


def read(bikes: Bikes, instances: list[dict[str, Any]], t_us: int) -> tuple[OnlineReader, Any]:
    async def go() -> tuple[OnlineReader, Any]:
        reader = OnlineReader.open(bikes.case.store, bikes.spec.feature_service, bikes.settings.redis(), 2.0)
        try:
            return reader, await reader.read(instances, t_us)
        finally:
            await reader.close()

    return asyncio.run(go())


def entities(bikes: Bikes) -> list[dict[str, Any]]:
    view = bikes.views["rides_by_station_and_class"]
    return [dict(zip(view.key_names, k, strict=True)) for k in sorted({e.key for e in oracle_events(bikes, view) if e.key})]


def check_online(bikes: Bikes, seen_us: int, t_us: int) -> None:
    """The reader at `t_us` gives what the oracle gives from the events known by `seen_us`."""
    instances = entities(bikes)
    reader, rows = read(bikes, instances, t_us)
    for view in bikes.views.values():
        events = [e for e in oracle_events(bikes, view) if e.known_us <= seen_us]
        for i, instance in enumerate(instances):
            want = expected(view, events, tuple(instance[k] for k in view.key_names), t_us)
            for name, value in want.items():
                place = reader.features.index(f"{view.name}:{name}")
                got = math.nan if rows.statuses[i, place] == STALE else rows.values[i, place]
                assert close(got, value), (view.name, name, instance, got, value)
