"""A feature view, compiled: everything the engines need of a Feast view, as a small value that travels to Spark's workers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from feature_repo.registry import stored_order
from feature_repo.registry.definitions import DefinitionError, service_projections
from streaming.aggregation import tiles
from streaming.aggregation.windows import HASHED, SECOND, Aggregation, Layout, default_hop

if TYPE_CHECKING:
    from feast import FeatureStore

NUMERIC = frozenset({"double", "float", "int64", "int32", "bool"})
_DTYPES = {
    "Float64": "double",
    "Float32": "float",
    "Int64": "int64",
    "Int32": "int32",
    "Bool": "bool",
    "String": "string",
    "Bytes": "bytes",
    "UnixTimestamp": "timestamp",
    "Json": "json",
    "Uuid": "uuid",
    "TimeUuid": "timeuuid",
    "Decimal": "decimal",
}
_DTYPES |= {f"Array({name})": f"array<{dtype}>" for name, dtype in _DTYPES.items() if dtype not in ("json", "uuid", "timeuuid", "decimal")}


@dataclass(frozen=True)
class Feature:
    """`dtype` is one of double, float, int64, int32, bool, string, bytes, timestamp, json, uuid, timeuuid, decimal, or `array<...>` of the first eight."""

    name: str
    dtype: str

    @property
    def numeric(self) -> bool:
        return self.dtype in NUMERIC


@dataclass(frozen=True)
class View:
    """
    Attributes:
        keys: join keys in Feast's (sorted) order, with dtypes.
        path: the offline table, relative to the offline root or absolute.
        created: column of the known-time; None: an event is known when it happens.
        mapping: source column → name used in the view.
        ttl_us: 0 means for ever; concerns latest-value views only.
        features: in canonical order, by name: not in the registry's, which is incidental.
        layout: the windows, for a windowed view (in canonical order too); None for a latest-value view.
        stream: name of the push source that carries its live events, if any.
        stored_order: `(name then, name now)` of the features in the order that state from before canonical identity lies in.
        online: whether it is for the online store at all; False: for training only.
    """

    project: str
    name: str
    keys: tuple[Feature, ...]
    path: str
    timestamp: str
    created: str | None
    mapping: tuple[tuple[str, str], ...]
    ttl_us: int
    features: tuple[Feature, ...]
    layout: Layout | None
    stream: str | None
    stored_order: tuple[tuple[str, str], ...] = ()
    online: bool = True

    @cached_property
    def fingerprint(self) -> int:
        """What the view's stored state is known by."""
        return tiles.fingerprint(self.layout)

    @cached_property
    def former(self) -> dict[int, Layout]:
        """Layouts in which older state of the same windows may lie, by its fingerprint."""
        if self.layout is None or not self.stored_order:
            return {}
        now = {a.name: a for a in self.layout.aggregations}
        if any(name not in now for _, name in self.stored_order):
            return {}
        # the names it had are part of what it is known by
        then = Layout.of([replace(now[name], name=was) for was, name in self.stored_order])
        return {tiles.former_fingerprint(then): Layout.of([now[name] for _, name in self.stored_order])}

    def holds(self, fingerprint: int) -> bool:
        """Whether stored state with this fingerprint is the view's, now or as it was laid out before."""
        return fingerprint == self.fingerprint or fingerprint in self.former

    @property
    def key_names(self) -> list[str]:
        return [k.name for k in self.keys]

    @property
    def reach_us(self) -> int:
        """How far back a windowed view looks from any moment: its longest window plus hop."""
        return max((a.window_us + a.hop_us for a in self.layout.aggregations), default=0) if self.layout else 0

    @property
    def columns(self) -> list[str]:
        """What the features are made of: source columns by their names in the view, or `#column` for the hashes of one."""
        return self.layout.columns if self.layout else [f.name for f in self.features]

    @property
    def source_columns(self) -> list[str]:
        """The same, without the distinction."""
        return list(dict.fromkeys(c.removeprefix(HASHED) for c in self.columns))


@dataclass(frozen=True)
class Projection:
    """A view as a feature service uses it: some of its features, under an alias, with join keys renamed.

    Attributes:
        alias: the view's name in feature references and output columns.
        features: names, in the service's order.
        key_map: join key of the view → column of the spine or field of the request.
    """

    view: View
    alias: str
    features: tuple[str, ...]
    key_map: tuple[tuple[str, str], ...]

    @property
    def spine_keys(self) -> list[str]:
        renamed = dict(self.key_map)
        return [renamed.get(k, k) for k in self.view.key_names]


def dtype_of(feast_type: Any, where: str) -> str:
    """Our name of a Feast type.

    Raises:
        DefinitionError: a type that the engines do not carry yet.
    """
    name = str(feast_type)
    if name not in _DTYPES:
        raise DefinitionError(f"{where}: type {name} is not supported (use one of {', '.join(_DTYPES)})")
    return _DTYPES[name]


def _microseconds(span: timedelta | None) -> int:
    return 0 if span is None else round(span.total_seconds() * SECOND)


def _aggregation(spec: Any, view: Any) -> Aggregation:
    window = _microseconds(spec.time_window)
    slide = _microseconds(spec.slide_interval)
    # Feast fills slide_interval with the window where none was given
    hop = slide if 0 < slide < window else default_hop(max(window, 1))
    hop = max(hop, _microseconds(getattr(view, "tiling_hop_size", None)))
    name = spec.resolved_name(spec.time_window)
    try:
        return Aggregation(name, spec.column, spec.function, window, min(hop, window) if window else 0)
    except ValueError as error:
        raise DefinitionError(f"feature view {view.name!r}: {error}") from None


def compile_view(view: Any, store: FeatureStore) -> View:
    """Compile a (stream) feature view.

    Raises:
        DefinitionError: it declares what the engines cannot execute; the message names view and feature.
    """
    where = f"feature view {view.name!r}"
    source = view.batch_source
    if source is None or not getattr(source, "path", None):
        raise DefinitionError(f"{where}: its batch source must be a SparkSource with a path")
    if getattr(view, "udf", None) is not None:
        raise DefinitionError(f"{where}: a transformation (udf) on a stream feature view is not supported; do it in the ingest SQL")
    mapping = dict(source.field_mapping)
    entities = {e.name: e for e in store.list_entities(allow_cache=True)}
    # a stream feature view comes back from the registry with its keys among its features
    key_types = {f.name: dtype_of(f.dtype, f"{where}, key {f.name!r}") for f in (*view.features, *view.entity_columns)}
    keys = []
    for name in view.entities:
        if name in entities:
            join_key = entities[name].join_key
            keys.append(Feature(join_key, key_types.get(join_key, "string")))
    if not keys:
        raise DefinitionError(f"{where}: a view needs at least one entity")
    key_names = {k.name for k in keys}
    declared = [Feature(f.name, dtype_of(f.dtype, f"{where}, feature {f.name!r}")) for f in view.features if f.name not in key_names]
    features = tuple(sorted(declared, key=lambda f: f.name))
    aggregations = [_aggregation(a, view) for a in getattr(view, "aggregations", None) or []]
    layout = None
    if aggregations:
        names = {a.name for a in aggregations}
        plain = [f.name for f in features if f.name not in names]
        if plain:
            raise DefinitionError(
                f"{where}: {', '.join(plain)} is no aggregation of it; put latest-value features into a view of their own"
            )
        if odd := [f"{f.name} ({f.dtype})" for f in features if not f.numeric]:
            raise DefinitionError(f"{where}: {', '.join(odd)}: what a window gives is a number (Float64, Float32, Int64, Int32 or Bool)")
        by_name = {a.name: a for a in aggregations}
        layout = Layout.canonical([by_name[f.name] for f in features])
    stream = getattr(view, "stream_source", None)
    return View(
        project=store.project,
        name=view.name,
        keys=tuple(sorted(keys, key=lambda k: k.name)),
        path=str(source.path),
        timestamp=mapping.get(source.timestamp_field, source.timestamp_field),
        created=mapping.get(source.created_timestamp_column, source.created_timestamp_column) or None,
        mapping=tuple(sorted(mapping.items())),
        ttl_us=_microseconds(view.ttl),
        features=features,
        layout=layout,
        stream=stream.name if stream is not None else None,
        stored_order=tuple(stored_order.of(view)),
        online=bool(view.online),
    )


def views(store: FeatureStore) -> dict[str, View]:
    """Every online view that is applied (neither on-demand ones nor those that say `online=False`), compiled, by name.

    Raises:
        DefinitionError: one cannot be executed (`streaming.schema.compilation.usable` gives the others).
    """
    applied = [*store.list_feature_views(allow_cache=True), *store.list_stream_feature_views(allow_cache=True)]
    return {v.name: compile_view(v, store) for v in sorted(applied, key=lambda v: v.name) if v.online}


def projections(store: FeatureStore, service: str) -> list[Projection]:
    """The views a feature service reads, its on-demand views' sources included; one entry per alias.

    Raises:
        DefinitionError: the service is not applied.
    """
    from feast.on_demand_feature_view import OnDemandFeatureView

    wanted = service_projections(store, service)
    found: dict[str, Projection] = {}

    def add(projection: Any) -> None:
        view = store.registry.get_any_feature_view(projection.name, store.project, allow_cache=True)
        if isinstance(view, OnDemandFeatureView):
            for source in view.source_feature_view_projections.values():
                add(source)
            return
        alias = projection.name_to_use()
        compiled = compile_view(view, store)
        own = {f.name for f in compiled.features}
        names = [f.name for f in projection.features if f.name in own]
        if alias in found:
            names = [*found[alias].features, *(n for n in names if n not in found[alias].features)]
        found[alias] = Projection(compiled, alias, tuple(names), tuple(sorted(projection.join_key_map.items())))

    # a service's own features first, so that their order is the declared one
    for projection in sorted(wanted, key=lambda p: p.name in {v.name for v in store.list_on_demand_feature_views(allow_cache=True)}):
        add(projection)
    return list(found.values())
