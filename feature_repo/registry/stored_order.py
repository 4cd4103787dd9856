"""In which order a view's features lie in older state of the online store.

Feast keeps a stream feature view's `schema` as a set. So the order of features in its registry differs between processes
(PYTHONHASHSEED). The engines now use an order of their own. Older versions of Headrace used the registry's: tiles and packed rows were
laid out, and fingerprinted, by it. Such state is still read. For that, `apply` keeps the registry's order as a tag of the view, as long as
the view means the same. A view without the tag was applied before there was one (or by Feast itself): its order is the registry's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

TAG = "headrace_stored_order"

Order = list[tuple[str, str]]
"""`(the feature's name when it was stored, its name now)`, as they were laid out."""


def of(view: Any) -> Order:
    """The order that a Feast view of the registry has been stored in; empty where it can only be the engines' own."""
    tag = view.tags.get(TAG)
    if tag is None:
        return [(name, name) for name in _names(view)]
    return _read(tag)


def keep(views: Iterable[Any], applied: Iterable[Any]) -> None:
    """Give views that are about to be applied the tag, from what is applied under their names."""
    before = {view.name: view for view in applied}
    for view in views:
        old = before.get(view.name)
        view.tags = dict(view.tags or {}) | {TAG: "" if old is None else _carried(old, view)}


def _read(tag: str) -> Order:
    try:
        found: list[list[str]] = json.loads(tag) if tag else []
        return [(str(then), str(now)) for then, now in found]
    except (ValueError, TypeError, RecursionError):  # not ours
        return []


def _carried(old: Any, new: Any) -> str:
    """The old view's order under the new view's names; nothing where another meaning is stored."""
    order, before, after = of(old), _meanings(old), _meanings(new)
    if not order or Counter(before.values()) != Counter(after.values()):
        return ""
    renamed = {name: name for name in before if after.get(name) == before[name]}
    free: dict[Any, list[str]] = {}
    for name in sorted(after):
        if name not in renamed:
            free.setdefault(after[name], []).append(name)
    for name in sorted(before):
        if name not in renamed:
            renamed[name] = free[before[name]].pop()
    if any(now not in renamed for _, now in order):
        return ""
    return json.dumps([[then, renamed[now]] for then, now in order], ensure_ascii=False)


def _names(view: Any) -> list[str]:
    meanings = _meanings(view)
    return [f.name for f in view.features if f.name in meanings]


def _meanings(view: Any) -> dict[str, Any]:
    """What is stored of each feature; a windowed one's name is no part of it."""
    aggregations = getattr(view, "aggregations", None) or []
    if aggregations:
        hop = str(getattr(view, "tiling_hop_size", None))
        return {
            a.resolved_name(a.time_window): (a.column, a.function, str(a.time_window), str(a.slide_interval), hop) for a in aggregations
        }
    keys = {c.name for c in view.entity_columns}
    return {f.name: (f.name, str(f.dtype)) for f in view.features if f.name not in keys}
