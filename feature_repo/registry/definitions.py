"""What a feature means, as hashes: two registries that agree on a hash compute the same number."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from feast import FeatureStore


class DefinitionError(ValueError):
    """A feature service or view is not applied, or declares what Headrace cannot execute. The message names it."""


def _hash(meaning: Any) -> str:
    return hashlib.sha256(json.dumps(meaning, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _source(source: Any) -> dict[str, Any]:
    # not the path: moving the data does not change what a feature means
    return {
        "name": source.name,
        "timestamp": source.timestamp_field,
        "created": source.created_timestamp_column,
        "mapping": dict(source.field_mapping),
    }


def _view(view: Any, entities: dict[str, str], key_map: dict[str, str]) -> dict[str, Any]:
    return {
        "keys": sorted(f"{entities[e]}:{key_map.get(entities[e], entities[e])}" for e in view.entities if e in entities),
        "source": _source(view.batch_source),
        "ttl": str(view.ttl),
        "hop": str(getattr(view, "tiling_hop_size", None)),
    }


def service_projections(store: FeatureStore, service: str) -> list[Any]:
    """What a feature service lists, in its order.

    Raises:
        DefinitionError: it is not applied.
    """
    from feast.errors import FeastObjectNotFoundException, FeatureServiceNotFoundException

    try:
        return list(store.get_feature_service(service).feature_view_projections)
    except (FeatureServiceNotFoundException, FeastObjectNotFoundException):
        raise DefinitionError(f"feature service {service!r} is not applied in project {store.project!r}: run `headrace apply`") from None


def definitions_of(store: FeatureStore, service: str) -> dict[str, str]:
    """Hash of every feature of a service, and of what its on-demand features are made of, by `view:feature`.

    Raises:
        DefinitionError: the service, or a view it refers to, is not applied.
    """
    from feast.on_demand_feature_view import OnDemandFeatureView

    projections = service_projections(store, service)
    entities = {e.name: e.join_key for e in store.list_entities()}
    found: dict[str, str] = {}

    def add(projection: Any) -> None:
        view = store.registry.get_any_feature_view(projection.name, store.project, allow_cache=True)
        alias = projection.name_to_use()
        if isinstance(view, OnDemandFeatureView):
            for source in view.source_feature_view_projections.values():
                add(source)
            udf = view.feature_transformation
            meaning: dict[str, Any] = {
                "code": getattr(udf, "udf_string", ""),
                "mode": str(view.mode),
                "request": sorted(f"{f.name}:{f.dtype}" for s in view.source_request_sources.values() for f in s.schema),
                "features": sorted(
                    f"{ref}={found[ref]}" for s in view.source_feature_view_projections.values() for ref in _references(s) if ref in found
                ),
            }
        else:
            meaning = _view(view, entities, dict(projection.join_key_map))
        aggregations = {a.resolved_name(a.time_window): a for a in getattr(view, "aggregations", None) or []}
        keys = {entities[e] for e in getattr(view, "entities", None) or [] if e in entities}
        for feature in projection.features:
            if feature.name in keys:  # a stream feature view comes back from the registry with its keys among its features
                continue
            own = aggregations.get(feature.name)
            detail = (own.column, own.function, str(own.time_window), str(own.slide_interval)) if own else None
            found[f"{alias}:{feature.name}"] = _hash([meaning, feature.name, str(feature.dtype), detail])

    for projection in projections:
        add(projection)
    return found


def _references(projection: Any) -> list[str]:
    return [f"{projection.name_to_use()}:{f.name}" for f in projection.features]


def definition_hash(by_feature: dict[str, str]) -> str:
    """One hash over a service's features, independent of their order."""
    return _hash(sorted(by_feature.items()))
