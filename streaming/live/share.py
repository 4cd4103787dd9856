"""Several tasks apply the same events: each takes those of its own entities.

Every task reads the same stretch of the stream, which costs little, and finds each row's entity by its keys alone. What follows, most of
the work, it does for its own share only. An entity has one owner, so its events are applied one after the other, in stream order: that
is what "passed over, since a later one was applied" relies on (docs/semantics/exactly-once.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from infra.timestamps import moment_at
from streaming.live.events import MAX_BYTES, typed, wanted_of
from streaming.online.entities import key_function
from streaming.schema.feature_view import View

Position = tuple[int, int]
Owner = Callable[[bytes, Position], int]


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

    def has(self, position: Position) -> bool:
        """Whether an event that has no entity is this task's."""
        return by_position(position, self.tasks) == self.task


WHOLE = Share()
"""Of a query with one task."""


def by_position(position: Position, tasks: int) -> int:
    return (position[0] + position[1]) % tasks


def keyed_by(view: View) -> tuple[tuple[str, str, str], ...]:
    """`(join key, dtype in the row, name in the row)`: views for which this is the same find the same entities in the same rows."""
    return tuple((key.name, dtype, source) for key, (_, source, dtype) in zip(view.keys, wanted_of(view), strict=False))


def owner_function(view: View, tasks: int) -> Owner:
    """A function of a row's bytes and its position that says which task it belongs to.

    Two rows that `events.decode` finds to be of one entity belong to one task. A row whose entity cannot be told (it is no row, or a key
    has another type) belongs to a task by its position, which refuses it.
    """
    keys = keyed_by(view)
    encode = key_function(view)
    names = [f"k{i}" for i in range(len(keys))]
    shape = msgspec.defstruct("Keys", [(name, Any, None) for name in names], rename=dict(zip(names, (k[2] for k in keys), strict=True)))
    decoder, fields = msgspec.json.Decoder(shape), msgspec.structs.astuple
    moments = [i for i, (_, dtype, _) in enumerate(keys) if dtype == "timestamp"]
    seen: dict[tuple[Any, ...], int] = {}

    def owner(raw: bytes, position: Position) -> int:
        if len(raw) > MAX_BYTES:
            return by_position(position, tasks)
        try:
            # by typed values: `5` and `"5"` are one entity where the key is a string
            values = tuple(typed(value, k[1], k[2]) for value, k in zip(fields(decoder.decode(raw)), keys, strict=True))
            if (found := seen.get(values)) is not None:
                return found
            entity = encode([moment_at(v) if i in moments else v for i, v in enumerate(values)])
        except Exception:  # whatever it is, it is this row's fault: its task finds the reason, or that it has a null key
            return by_position(position, tasks)
        seen[values] = zlib.crc32(entity) % tasks
        return seen[values]

    return owner


def own_rows(share: Share, data: Sequence[bytes], positions: Sequence[Position]) -> Callable[[View, list[int]], list[int]]:
    """A function that picks the share's rows of a view out of some."""
    known: dict[Any, tuple[Owner, dict[int, int]]] = {}

    def pick(view: View, some: list[int]) -> list[int]:
        if share.tasks == 1:
            return some
        owner, found = known.setdefault(keyed_by(view), (owner_function(view, share.tasks), {}))
        for i in some:
            if i not in found:
                found[i] = owner(data[i], positions[i])
        return [i for i in some if found[i] == share.task]

    return pick
