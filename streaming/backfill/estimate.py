"""How large a view would be in the online store: its newest state, encoded for a sample of its entities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streaming.backfill.run import Planned
from streaming.join.in_process import NotHere, read_events_here
from streaming.online.entities import group, view_fields
from streaming.online.writer import snapshot
from streaming.schema.columns import KNOWN, canonical
from streaming.schema.feature_view import View

SAMPLE = 500


@dataclass(frozen=True)
class Size:
    """Entities, and bytes of the view's fields and values (without Redis' own overhead)."""

    entities: int
    bytes: int


def estimate_size(view: View, root: Path, planned: Planned, limit: int = 4_000_000) -> Size | None:
    """What a backfill as planned would write; None where the table is too large to look at here.

    Raises:
        JoinError: the table or a column is missing.
    """
    if planned.error or planned.rows > limit:
        return None
    try:
        events = read_events_here(view, root, planned.end_us - view.reach_us if view.layout else None, planned.end_us)
    except NotHere:
        return None
    events = canonical(events.filter(pc.less_equal(events[KNOWN], planned.end_us)))
    entities = group(view, events)
    total = len(entities.keys)
    if not total:
        return Size(0, 0)
    chosen = np.random.default_rng(1).choice(total, min(SAMPLE, total), replace=False)
    sample = group(view, entities.table.filter(pa.array(np.isin(entities.owner, chosen))))
    rows = snapshot(view, sample, planned.end_us)
    size = sum(len(bulk) for column in rows.columns for bulk in column) / len(sample.keys) + sum(map(len, view_fields(view)))
    return Size(total, round(size * total))
