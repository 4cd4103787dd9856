"""Whether the engines can execute what a registry defines: asked before it is applied, and of a registry that holds something unusable."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from feature_repo.registry.definitions import DefinitionError
from feature_repo.registry.followed import Followed
from streaming.schema.columns import column_name
from streaming.schema.feature_view import View, compile_view, projections

if TYPE_CHECKING:
    from feast import FeatureStore

    from feature_repo.spec.use_case import UseCase

_NAME = re.compile(r"(?!__)[\w-]+")
"""What Spark's SQL, Parquet and LightGBM all carry as they are; two underscores begin the engines' own columns."""
_COLUMN = re.compile(r"(?!__|#)[^.`\x00-\x1f]+")


def usable(store: FeatureStore) -> tuple[dict[str, View], dict[str, str]]:
    """The applied online views that can be executed, compiled, and why the others cannot, both by name."""
    found: dict[str, View] = {}
    faults: dict[str, str] = {}
    for view in sorted(_online(store), key=lambda v: v.name):
        fault = _fault(lambda view=view: found.update({view.name: compile_view(view, store)}))  # type: ignore[misc]
        if fault:
            faults[view.name] = fault
    return found, faults


class Applied:
    """
    Args:
        case: whose registry is looked at.
        known: its compiled views, as they were when this is made.
    """

    def __init__(self, case: UseCase, known: Sequence[View]) -> None:
        self._registry = Followed(case)
        self._before = {view.name: view for view in known if view.stream}
        self._none = False

    def changed(self) -> str:
        """What was applied since, of the views that a stream feeds; empty: nothing, or the registry tells nothing now."""
        if not self._registry.changed():
            return ""
        now = {name: view for name, view in usable(self._registry.case.store)[0].items() if view.stream}
        if not now and self._before and not self._none:  # about to be written, perhaps: it is believed when it is seen again
            self._none = True
            self._registry.again()
            return ""
        self._none = False
        before = self._before
        said = [("without", sorted(before.keys() - now.keys())), ("with", sorted(now.keys() - before.keys()))]
        said.append(("another", sorted(name for name in now.keys() & before.keys() if now[name] != before[name])))
        return ", ".join(f"{word} {' and '.join(names)}" for word, names in said if names)


def check_view(store: FeatureStore, models: dict[str, str] | None = None) -> None:
    """Refuse definitions that could not be executed.

    Args:
        store: of a registry in which they are applied: a proposed one (`feature_repo.registry.plan.proposed`).
        models: feature service by model.

    Raises:
        DefinitionError: names every view, feature and service that is wrong, and how.
    """
    compiled, faulty = usable(store)
    faults = list(faulty.values())
    for view in compiled.values():
        faults += _names(view)
    served = {service: model for model, service in (models or {}).items()}
    for service in store.list_feature_services():
        fault = _fault(lambda name=service.name: _check_service(store, name, served.get(name)))  # type: ignore[misc]
        if fault and fault not in faults:
            faults.append(fault)
    if faults:
        raise DefinitionError("; ".join(faults))


def _online(store: FeatureStore) -> list[Any]:
    views = (*store.list_feature_views(allow_cache=True), *store.list_stream_feature_views(allow_cache=True))
    return [v for v in views if v.online]


def _fault(action: Callable[[], Any]) -> str | None:
    try:
        action()
    except DefinitionError as error:
        return str(error)
    return None


def _names(view: View) -> list[str]:
    """What of a view's names somebody on the way cannot carry."""
    where, faults = f"feature view {view.name!r}", []
    for what, name in (("name", view.name), *(("key", k) for k in view.key_names), *(("feature", f.name) for f in view.features)):
        if not _NAME.fullmatch(name):
            faults.append(f"{where}: {what} {name!r} is not made of letters, digits, _ and - (or begins with __)")
    times = [view.timestamp, *([view.created] if view.created else [])]
    for name in dict.fromkeys([*times, *view.source_columns, *(source for source, _ in view.mapping)]):
        if not _COLUMN.fullmatch(name):
            faults.append(f"{where}: column {name!r} cannot be named in SQL (no dots or backticks, and it may not begin with __ or #)")
    return faults + _alike(where, [*view.key_names, *(f.name for f in view.features)])


def _alike(where: str, names: list[str]) -> list[str]:
    seen: dict[str, str] = {}
    faults = []
    for name in names:
        other = seen.setdefault(name.lower(), name)
        if other is not name:
            faults.append(f"{where}: {other!r} and {name!r} are one column to Spark, which does not tell case apart")
    return faults


def _check_service(store: FeatureStore, service: str, model: str | None) -> None:
    where = f"feature service {service!r}"
    plan = projections(store, service)
    columns: dict[str, str] = {}
    references = [f"{p.name_to_use()}:{f.name}" for p in store.get_feature_service(service).feature_view_projections for f in p.features]
    for reference in dict.fromkeys([*references, *(f"{p.alias}:{name}" for p in plan for name in p.features)]):
        alias, _, name = reference.partition(":")
        if not _NAME.fullmatch(alias) or not _NAME.fullmatch(name):
            raise DefinitionError(f"{where}: {reference!r} is not made of letters, digits, _ and - (or begins with __)")
        column = column_name(alias, name)
        other = columns.setdefault(column.lower(), reference)
        if other != reference:
            raise DefinitionError(f"{where}: {other!r} and {reference!r} would both be the column {column!r}; give one another name")
    if model is not None:
        refuse_offline(plan, f"model {model!r}, {where}")


def refuse_offline(plan: Any, where: str) -> None:
    """
    Raises:
        DefinitionError: a view that is read online says that it is not online.
    """
    offline = [p.view.name for p in plan if not p.view.online]
    if offline:
        raise DefinitionError(f"{where} reads {', '.join(offline)} online, which says online=False: say True, or leave it out")
