"""What applying a folder would change, said as a person would say it, and which live models read what changes. Changes nothing."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_repo.records import release
from feature_repo.registry.definitions import DefinitionError, definitions_of
from feature_repo.spec.use_case import UseCase

if TYPE_CHECKING:
    from feast import FeatureStore

    from infra.settings import Settings


@dataclass(frozen=True)
class Change:
    """
    Attributes:
        what: of a view, an on-demand view, a service, an entity.
        name: of the object.
        text: what changes, as a sentence's end ("mean_delay_1h: window 1:00:00 -> 3:00:00").
    """

    what: str
    name: str
    text: str


@dataclass
class Plan:
    """
    Attributes:
        changes: in the order views, on-demand views, services, entities.
        backfill: views whose state in the online store would not be of their new definition.
        removed: views that are no longer defined, or no longer online.
        readers: by live model, the features it reads that change.
        broken: by live model, the features it could no longer be served with: changed ones and ones that are gone.
    """

    changes: list[Change] = field(default_factory=list)
    backfill: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    readers: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, list[str]] = field(default_factory=dict)


@contextlib.contextmanager
def proposed(use_case: UseCase) -> Iterator[UseCase]:
    """The folder as it would be after `apply`, in a registry of its own that is gone afterwards.

    Raises:
        UseCaseError: the folder cannot be parsed, or Feast refuses an object.
    """
    from feature_repo.registry.apply import apply_definitions

    with tempfile.TemporaryDirectory(prefix="hr-plan-") as folder:
        case = UseCase(use_case.folder, Path(folder) / "registry.db")
        apply_definitions(case)
        yield case


@contextlib.contextmanager
def applied(use_case: UseCase) -> Iterator[UseCase]:
    """The use case as it is applied: its own registry, to be read only, or an empty one that is gone afterwards where it has none yet."""
    if use_case.applied:
        yield use_case
        return
    with tempfile.TemporaryDirectory(prefix="hr-plan-") as folder:
        yield UseCase(use_case.folder, Path(folder) / "registry.db")


def make_plan(use_case: UseCase, after: UseCase, settings: Settings) -> Plan:
    """What changes from the applied registry (`use_case`) to the proposed one (`after`)."""
    found = Plan()
    old, new = _views(use_case.store), _views(after.store)
    whole: set[str] = set()  # views of which every feature changes
    for name in sorted(old.keys() | new.keys()):
        if name not in new:
            found.changes.append(Change("view", name, "is removed; its values in the online store are deleted"))
            found.removed.append(name)
        elif name not in old:
            found.changes.append(Change("view", name, f"is new: {', '.join(new[name]['features'])}"))
            found.backfill += [name] * new[name]["online"]
        elif texts := _view_changes(old[name], new[name]):
            found.changes += [Change("view", name, text) for text in texts]
            if old[name]["online"] and not new[name]["online"]:
                found.removed.append(name)
            elif new[name]["online"] and _stale(old[name], new[name]):
                found.backfill.append(name)
            if any(old[name][part] != new[name][part] for part in old[name] if part not in ("push source", "features")):
                whole.add(name)
    for what, read in (("on-demand view", _on_demand), ("service", _services), ("entity", _entities)):
        before, now = read(use_case.store), read(after.store)
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                found.changes.append(Change(what, name, _difference(before.get(name), now.get(name))))
    _models(use_case, after, settings, found, whole)
    return found


def _views(store: FeatureStore) -> dict[str, dict[str, Any]]:
    entities = {e.name: e.join_key for e in store.list_entities()}
    found = {}
    for view in [*store.list_feature_views(), *store.list_stream_feature_views()]:
        source, keys = view.batch_source, sorted(entities.get(e, e) for e in view.entities)
        aggregations = {a.resolved_name(a.time_window): a for a in getattr(view, "aggregations", None) or []}
        features: dict[str, dict[str, Any]] = {}
        for one in sorted(view.features, key=lambda f: f.name):  # the registry's order is incidental
            if one.name in keys:
                continue
            a = aggregations.get(one.name)
            features[one.name] = {"type": str(one.dtype)}
            if a is not None:
                slide = a.slide_interval if a.slide_interval != a.time_window else None  # Feast's own filling
                features[one.name] |= {"function": a.function, "column": a.column, "window": a.time_window, "slide": slide}
        stream = getattr(view, "stream_source", None)
        found[view.name] = {
            "keys": keys,
            "table": getattr(source, "path", None),
            "timestamp column": getattr(source, "timestamp_field", None),
            "created column": getattr(source, "created_timestamp_column", None) or None,
            "ttl": view.ttl,
            "tiling hop": getattr(view, "tiling_hop_size", None),
            "push source": stream.name if stream else None,
            "online": bool(view.online),
            "features": features,
        }
    return found


def _view_changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What changes of a view."""
    texts = [f"{name} {_shown(old[name])} -> {_shown(new[name])}" for name in old if name != "features" and old[name] != new[name]]
    if old["online"] and not new["online"]:
        texts.append("its values in the online store are deleted")
    before, now = old["features"], new["features"]
    renamed = _renamed(before, now)
    for name in [*before, *(n for n in now if n not in before and n not in renamed.values())]:
        if name in renamed:
            texts.append(
                f"feature {name} is renamed to {renamed[name]}; its tiles are kept (stock Feast sees it with the entity's next event)"
            )
        elif name not in now:
            texts.append(f"feature {name} is removed")
        elif name not in before:
            texts.append(f"feature {name} is new ({', '.join(f'{k} {_shown(v)}' for k, v in now[name].items() if v is not None)})")
        else:
            texts += [
                f"{name}: {k} {_shown(before[name].get(k))} -> {_shown(now[name].get(k))}"
                for k in dict.fromkeys([*before[name], *now[name]])
                if before[name].get(k) != now[name].get(k)
            ]
    return texts


def _renamed(before: dict[str, Any], now: dict[str, Any]) -> dict[str, str]:
    """Windowed features that compute the same under another name: old name -> new name."""
    came = [name for name in now if name not in before]
    found: dict[str, str] = {}
    for name in before:
        if name not in now and "function" in before[name]:
            same = next((other for other in came if now[other] == before[name] and other not in found.values()), None)
            found |= {name: same} if same else {}
    return found


def _stale(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether what the online store holds of a view is not of its new definition."""
    if any(old[part] != new[part] for part in old if part not in ("ttl", "push source", "features")):
        return True
    renamed = _renamed(old["features"], new["features"])
    return {renamed.get(name, name): meaning for name, meaning in old["features"].items()} != new["features"]


def _on_demand(store: FeatureStore) -> dict[str, Any]:
    found = {}
    for view in store.list_on_demand_feature_views():
        code = getattr(view.feature_transformation, "udf_string", "")
        found[view.name] = {
            "code": code,
            "features": sorted(f"{f.name} ({f.dtype})" for f in view.features),
            "request fields": sorted(f"{f.name} ({f.dtype})" for s in view.source_request_sources.values() for f in s.schema),
            "views": sorted(view.source_feature_view_projections),
        }
    return found


def _services(store: FeatureStore) -> dict[str, Any]:
    return {
        s.name: {"features": [f"{p.name_to_use()}:{f.name}" for p in s.feature_view_projections for f in p.features]}
        for s in store.list_feature_services()
    }


def _entities(store: FeatureStore) -> dict[str, Any]:
    return {e.name: {"join key": e.join_key, "type": str(e.value_type)} for e in store.list_entities() if e.name != "__dummy"}


def _difference(old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    if old is None or new is None:
        return "is new" if old is None else "is removed"
    texts = []
    for name in old:
        if old[name] == new[name]:
            continue
        if name == "code":
            texts.append("its code changes")
        elif isinstance(old[name], list):
            gone, came = [x for x in old[name] if x not in new[name]], [x for x in new[name] if x not in old[name]]
            parts = [f"without {', '.join(gone)}"] * bool(gone) + [f"with {', '.join(came)}"] * bool(came)
            texts.append(f"{name}: {'; '.join(parts) or 'another order'}")
        else:
            texts.append(f"{name} {old[name]} -> {new[name]}")
    return "; ".join(texts)


def _shown(value: Any) -> str:
    if value is None or (isinstance(value, timedelta) and not value):
        return "none"
    return ", ".join(value) if isinstance(value, list) else str(value)


def _models(use_case: UseCase, after: UseCase, settings: Settings, found: Plan, whole: set[str]) -> None:
    """Note which live models read what changes, and which could no longer be served: serving refuses a contract whose definitions are not the
    applied ones.
    """
    for folder in sorted(settings.model_root.glob(f"*/{release.RELEASE}")) if settings.model_root.is_dir() else []:
        name = folder.parent.name
        number = release.champion(settings.model_root, name)
        made = release.verified(settings.model_root, name, number or 0)
        if made.project != use_case.project:
            continue
        try:
            now = definitions_of(after.store, made.feature_service)
        except DefinitionError:
            now = {}  # its whole service is gone
        moved = sorted(f for f, was in made.definitions.items() if now.get(f) != was)
        found.readers[name] = sorted(f for f in made.definitions if f.partition(":")[0] in whole or f in moved)
        if moved:
            found.broken[name] = moved
