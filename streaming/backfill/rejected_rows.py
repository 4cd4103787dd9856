"""Rows of offline tables that no backfill can store, each kept with the reason. All other rows are stored.

Unlike live events they cannot be put back. Mend the table, and backfill the view again: a full backfill begins with an empty list.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from feature_repo.records.redis_keys import rejected_rows_key
from streaming.offline import unfit
from streaming.offline.unfit import WHY
from streaming.online.entities import group
from streaming.online.writer import snapshot

if TYPE_CHECKING:
    import redis

    from streaming.schema.feature_view import View

KEPT = 1000
"""Rows kept of a view; all are counted."""


class RejectedRow(msgspec.Struct, frozen=True):
    """A row as text (JSON where it can be said in it), and why it is not stored."""

    row: str
    why: str


@dataclass(frozen=True)
class Sorted:
    """Rows that can be stored, as they came, and what cannot."""

    table: pa.Table
    rejected: list[RejectedRow]


def sort_out(view: View, table: pa.Table) -> Sorted:
    """Take out the rows that carry a reason (`WHY`) and those that hold a text that is none of its type.

    Args:
        table: columns of the view, `__event`, `__known`, `WHY`.
    """
    said = unfit.reasons(view, table)
    rest = table.drop_columns([WHY])
    bad = [(i, why) for i, why in enumerate(said.to_pylist()) if why is not None]
    return Sorted(rest.filter(said.is_null()) if bad else rest, [_rejected(rest, i, why) for i, why in bad])


def culprits(view: View, table: pa.Table) -> Sorted:
    """Take out rows that fail to be stored for a reason that no check foresaw. The rows that fail are halved, again and again, until those at
    fault are found.
    """
    why = _fails(view, table)
    if why is None:
        return Sorted(table, [])
    if len(table) == 1:
        return Sorted(table.slice(0, 0), [_rejected(table, 0, why)])
    half = len(table) // 2
    parts = [culprits(view, part) for part in (table.slice(0, half), table.slice(half))]
    return Sorted(pa.concat_tables([p.table for p in parts]), [one for p in parts for one in p.rejected])


def _fails(view: View, table: pa.Table) -> str | None:
    try:
        snapshot(view, group(view, table), 0)
    except MemoryError:
        raise
    except Exception as error:  # whatever it is, some row is to blame
        return f"it cannot be stored ({type(error).__name__}: {str(error)[:300]})"
    return None


def _rejected(table: pa.Table, i: int, why: str) -> RejectedRow:
    return RejectedRow(unfit.row_text(table, i), why[:500])


def put(client: redis.Redis, view: View, some: Sequence[RejectedRow]) -> None:
    """Keep rows, each once, whatever is repeated."""
    key = rejected_rows_key(view.project, view.name)
    room = KEPT - int(client.hlen(key))  # type: ignore[arg-type]
    for one in some[: max(room, 0)]:
        raw = msgspec.json.encode(one)
        client.hset(key, hashlib.blake2b(raw, digest_size=8).hexdigest(), raw.decode())


def forget(client: redis.Redis, view: View) -> None:
    client.delete(rejected_rows_key(view.project, view.name))


def read(client: redis.Redis, project: str, view: str) -> list[RejectedRow]:
    """The rows kept of a view, by what they say."""
    found: list[Any] = client.hvals(rejected_rows_key(project, view))  # type: ignore[assignment]
    rows = []
    for raw in found:
        try:
            rows.append(msgspec.json.decode(raw, type=RejectedRow))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # not ours
            continue
    return sorted(rows, key=lambda one: (one.row, one.why))
