"""The bikes' events, as they come to the stream."""

from __future__ import annotations

import time
from typing import Any

from feature_repo.records.redis_keys import applied_key, events_key
from streaming.online.store import connect
from streaming.schema.json_row import encode
from tests.bikes.platform import Bikes


def push(bikes: Bikes, first_us: int, last_us: int) -> bytes:
    """Put what became known in `(first, last]` on the event stream; returns the last id."""
    client = connect(bikes.settings.redis())
    sources = {v.stream: v for v in bikes.views.values() if v.stream}
    rows = []
    for source, view in sources.items():
        for row in bikes.events(view):
            known = round(row[view.created or view.timestamp].timestamp() * 1e6)
            if first_us < known <= last_us:
                rows.append((known, source, encode(row)))
    last = b""
    for _, source, data in sorted(rows):
        last = client.xadd(events_key("bikes"), {"source": source, "data": data})  # type: ignore[assignment]
    return last


def wait_applied(bikes: Bikes, query: Any, last: bytes) -> None:
    client, deadline = connect(bikes.settings.redis()), time.monotonic() + 240
    while client.hget(applied_key("bikes"), "id") != last:
        assert query.isActive, query.exception()
        assert time.monotonic() < deadline, "the stream does not advance"
        time.sleep(0.05)
