"""Removal of a view's own fields from the entities that hold it, and of nothing else.

Keys are decoded and compared, never matched by pattern: `prod` must not remove what is `preprod`'s. If an entity's hash holds
nothing else, Redis drops it with its last field. Other views' fields, other projects' keys and whatever else lies there stay as they are,
byte for byte.

A removal that was killed is run again. It has less to do, because the index of the view's entities shrinks as it goes. What it must know
of the view is written to a file before the registry forgets the view, and stays until the removal is done: the next `apply`
goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from feature_repo.records.redis_keys import journal_key, keys_key, rejected_rows_key, view_key
from infra import files
from streaming.online import entity_index, feast_layout
from streaming.online.entities import view_fields
from streaming.online.lease import hold
from streaming.online.store import OnlineStore
from streaming.schema.feature_view import Feature, View

if TYPE_CHECKING:
    import redis

OWED = "removing.json"


class _Owed(msgspec.Struct, frozen=True):
    """What a removal needs of a view."""

    project: str
    name: str
    keys: tuple[Feature, ...]
    features: tuple[Feature, ...]


@dataclass(frozen=True)
class Removed:
    """
    Attributes:
        entities: that lost the view's fields.
        keys: of them, those that held nothing else and are gone.
    """

    view: str
    entities: int
    keys: int


def owed(state: Path) -> list[View]:
    """Views that an `apply` was to remove from the store and, as far as is known, has not; only what `remove` needs is in them."""
    path = state / OWED
    try:
        found = files.read_json(path, list[_Owed])
    except FileNotFoundError:
        return []
    except files.FileError as error:
        files.put_aside(path, f"{error}: values of views that were removed before may stay in the online store")
        return []
    return [View(v.project, v.name, v.keys, "", "", None, (), 0, v.features, None, None) for v in found]


def owe(state: Path, views: Sequence[View]) -> None:
    """Keep for `owed` what is to be removed, in the place of what was kept."""
    if views:
        kept = [_Owed(v.project, v.name, v.keys, v.features) for v in views]
        files.replace(state / OWED, msgspec.json.encode(kept))
    else:
        (state / OWED).unlink(missing_ok=True)


def remove(client: redis.Redis, view: View, scan: bool = False, told: Callable[[int], None] = lambda _: None) -> Removed:
    """Delete what the online store holds of a view.

    Args:
        view: as it was applied.
        scan: look at every key of the store besides, for entities that only stock Feast wrote (they are in no index of ours); costs a pass
            over the whole store.
        told: entities done so far.

    Raises:
        HeldError: a backfill of the view is running.
    """
    store, index, fields = OnlineStore(client), keys_key(view.project, view.name), view_fields(view)
    entities = gone = 0
    with hold(client, view):
        # first what says that the view is there as a whole: where this is killed, and the definition comes back, its windows are lost
        for name in (view_key(view.project, view.name), journal_key(view.project, view.name)):
            client.delete(name)
        for keys in entity_index.members(client, index):
            entities += store.drop(index, keys, fields, lambda _: False)
            gone += _absent(store, keys)
            told(entities)
        if scan:
            matches = feast_layout.key_matcher(view.project, [(k.name, k.dtype) for k in view.keys])
            batch: list[bytes] = []
            for key in client.scan_iter(count=1000):
                if matches(key):
                    batch.append(key)
                if len(batch) >= 1000:
                    found = _delete(store, batch, fields)
                    entities, gone, batch = entities + found[0], gone + found[1], []
            found = _delete(store, batch, fields)
            entities, gone = entities + found[0], gone + found[1]
        client.delete(rejected_rows_key(view.project, view.name))
        for name in (index, index + ":backfill"):
            entity_index.delete(client, name)
    return Removed(view.name, entities, gone)


def _delete(store: OnlineStore, keys: Sequence[bytes], fields: Sequence[bytes]) -> tuple[int, int]:
    """Delete fields of keys; how many keys had any, and how many are gone."""
    had = 0
    for client, places in store.lanes(keys):
        with client.pipeline(transaction=False) as pipe:
            for i in places:
                pipe.hdel(keys[i], *fields)  # type: ignore[arg-type]
            had += sum(1 for n in pipe.execute() if n)
    return had, _absent(store, keys) if had else 0


def _absent(store: OnlineStore, keys: Sequence[bytes]) -> int:
    total = 0
    for client, places in store.lanes(keys):
        with client.pipeline(transaction=False) as pipe:
            for i in places:
                pipe.exists(keys[i])
            found: list[Any] = pipe.execute()
            total += sum(1 for n in found if not n)
    return total
