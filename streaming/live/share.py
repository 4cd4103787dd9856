"""Several tasks apply the same events: each takes those of its own entities.

Every task reads the same stretch of the stream, which costs little, and finds each row's entity by its keys alone. What follows, most of
the work, it does for its own share only. An entity has one owner, so its events are applied one after the other, in stream order: that
is what "passed over, since a later one was applied" relies on (docs/semantics/exactly-once.md).
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from infra.timestamps import moment_at
from streaming.live.events import MAX_BYTES, typed, wanted_of
from streaming.online.feast_layout import key_encoder
from streaming.schema.feature_view import View

Position = tuple[int, int]
_REMEMBERED = 200_000


@dataclass(frozen=True)
class Share:
    """What one task of a query looks after: the entities whose hash is `task`, modulo `tasks`.

    Attributes:
        task: from 0.
        run: name of the query's run, each start's own: its tasks note how far they are under it.

    Raises:
        ValueError: there is no such task.
    """

    task: int = 0
    tasks: int = 1
    run: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.task < self.tasks:
            raise ValueError(f"task {self.task} of {self.tasks}: tasks are counted from 0, and there is at least one")


WHOLE = Share()
"""Of a query with one task."""


Key = tuple[str, str, str, str]
"""Of a join key: its name, its dtype, the dtype it is read as, its name in a row."""


def keys_of(view: View) -> tuple[Key, ...]:
    """Views of one project for which this is the same find the same entities in the same rows."""
    return tuple((key.name, key.dtype, read_as, source) for key, (_, source, read_as) in zip(view.keys, wanted_of(view), strict=False))


class Owners:
    """Which task a row belongs to, of the rows of one push source.

    Two rows that `events.decode` finds to be of one entity belong to one task. A row whose entity cannot be told (it is no row, or a key
    has another type) belongs to a task by its position: that one finds the reason.
    """

    def __init__(self, project: str, keys: tuple[Key, ...], tasks: int) -> None:
        self.keys, self.tasks = keys, tasks
        names = [f"k{i}" for i in range(len(keys))]
        sources = dict(zip(names, (source for *_, source in keys), strict=True))
        shape = msgspec.defstruct("Keys", [(name, Any, None) for name in names], rename=sources)
        self._decoder, self._encode = msgspec.json.Decoder(shape), key_encoder(project, [(name, dtype) for name, dtype, *_ in keys])
        self._seen: dict[tuple[Any, ...], int] = {}

    def of(self, rows: Sequence[bytes], positions: Sequence[Position]) -> list[int]:
        if len(self._seen) > _REMEMBERED:
            self._seen.clear()
        decode, values_of, seen, found = self._decoder.decode, msgspec.structs.astuple, self._seen, []
        for raw, position in zip(rows, positions, strict=True):
            try:  # at one depth of calls whatever the other rows are: how deep a row may be nested must not depend on them
                values = values_of(decode(raw))
                # `1`, `true` and `1.0` are equal, and so are `0.0` and `-0.0`, but not as text
                plain = all(value.__class__ is int or value.__class__ is str for value in values)
                owner = seen.get(values) if plain else None
                if owner is None:
                    owner = self._hashed(values)
                    if plain:
                        seen[values] = owner
                found.append(owner if len(raw) <= MAX_BYTES else self._placed(position))
            except Exception:  # whatever it is, it is this row's fault
                found.append(self._placed(position))
        return found

    def _hashed(self, values: tuple[Any, ...]) -> int:
        # by typed values: `5` and `"5"` are one entity where the key is a string
        cells = [typed(value, read_as, source) for value, (_, _, read_as, source) in zip(values, self.keys, strict=True)]
        cells = [moment_at(cell) if read_as == "timestamp" else cell for cell, (_, _, read_as, _) in zip(cells, self.keys, strict=True)]
        return zlib.crc32(self._encode(cells)) % self.tasks

    def _placed(self, position: Position) -> int:
        return (position[0] + position[1]) % self.tasks


@functools.lru_cache(maxsize=64)
def owners(project: str, keys: tuple[Key, ...], tasks: int) -> Owners:
    return Owners(project, keys, tasks)


class Owned:
    """Of a batch what is a share's: the rows that any view needs, and which of them are a view's.

    Args:
        batch: of `event_log.SCHEMA`.

    Attributes:
        batch: the rows that some view of this share needs, and those that feed no view and are this share's to refuse.
    """

    def __init__(self, share: Share, views: Sequence[View], batch: pa.Table) -> None:
        self.batch, self._mine = batch, {}
        if share.tasks == 1 or not len(batch):
            return
        data = batch["data"].to_pylist()
        positions = list(zip(batch["ms"].to_pylist(), batch["seq"].to_pylist(), strict=True))
        fed, keep = np.zeros(len(batch), dtype=bool), np.zeros(len(batch), dtype=bool)
        mine = {}
        for view in views:
            if (kind := (view.stream, keys_of(view))) in mine:
                continue
            rows = np.flatnonzero(pc.equal(batch["source"], view.stream).to_numpy(zero_copy_only=False))
            some = rows.tolist()
            found = owners(view.project, kind[1], share.tasks).of([data[i] for i in some], [positions[i] for i in some])
            mine[kind] = np.zeros(len(batch), dtype=bool)
            mine[kind][rows] = np.array(found, dtype=np.int64) == share.task
            fed[rows] = True
            keep |= mine[kind]
        for i in np.flatnonzero(~fed).tolist():
            keep[i] = sum(positions[i]) % share.tasks == share.task
        self.batch = batch.filter(pa.array(keep))
        self._mine = {kind: rows[keep] for kind, rows in mine.items()}

    def rows(self, view: View, some: list[int]) -> list[int]:
        """Those of some rows of `batch` that are the share's for a view."""
        if not self._mine:
            return some
        mine = self._mine[view.stream, keys_of(view)].tolist()
        return [i for i in some if mine[i]]
