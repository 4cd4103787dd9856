"""On-demand features: a feature service's Feast transformations, run on the rows of one request at once.

Feast's own UDFs are executed (mode `python`: dict of lists → dict of lists), as training executes them; none is restated here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


class OnDemandError(ValueError):
    """A transformation cannot be compiled, or failed on a request's rows; the message names the view, and the row where one did it."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class _View:
    name: str
    udf: Callable[[dict[str, Any]], dict[str, Any]]
    singleton: bool
    request: dict[str, str]  # request field → Feast dtype
    sources: tuple[tuple[str, str, str], ...]  # (`view:feature` read, the name the UDF knows it by, its view-qualified name)
    outputs: dict[str, str]  # feature → Feast dtype


class OnDemand:
    """The compiled transformations of one feature service.

    Args:
        views: see `compile`.

    Attributes:
        sources: `view:feature` of every stored feature a transformation reads.
        fields: request fields the transformations read; `field_types` has their Feast dtypes.
        features: `view:feature` of what they give.
    """

    def __init__(self, views: list[_View]) -> None:
        self._views = views
        self.sources = sorted({source for view in views for source, _, _ in view.sources})
        self.field_types = {field: dtype for view in views for field, dtype in view.request.items()}
        self.fields = sorted(self.field_types)
        self.features = [f"{view.name}:{output}" for view in views for output in view.outputs]
        self.integers = {f"{v.name}:{o}" for v in views for o, dtype in v.outputs.items() if dtype.startswith("Int")}

    @classmethod
    def compile(cls, store: Any, service: str) -> OnDemand:
        """Read the transformations that belong to a feature service.

        Args:
            store: a `feast.FeatureStore`.
            service: name of the feature service.

        Raises:
            OnDemandError: a transformation is not written in Python mode.
        """
        views = {view.name: view for view in store.list_on_demand_feature_views()}
        projections = store.get_feature_service(service).feature_view_projections
        return cls([_compile(views[p.name], p) for p in projections if p.name in views])

    def run(self, request: Mapping[str, list[Any]], stored: Mapping[str, list[Any]], rows: int) -> dict[str, NDArray[np.float64]]:
        """Compute every on-demand feature.

        Args:
            request: field → value per row; timestamps as aware UTC datetimes; None is null.
            stored: `view:feature` → value per row, for each of `sources`; None is null.
            rows: how many rows there are.

        Returns:
            `view:feature` → float64 [rows]; NaN is null.

        Raises:
            OnDemandError: a UDF raised, gave another number of values, or something that is no number.
        """
        computed: dict[str, NDArray[np.float64]] = {}
        for view in self._views:
            columns: dict[str, list[Any]] = {field: request[field] for field in view.request}
            for source, short, qualified in view.sources:
                columns[short] = columns[qualified] = stored[source]
            try:
                given = _call(view, columns, rows)
            except Exception as error:  # whatever a user's function raises is an answer about the row, not a failure of ours
                raise self._blame(view, columns, rows, error) from error
            for feature, dtype in view.outputs.items():
                computed[f"{view.name}:{feature}"] = _column(view, feature, dtype, given, rows)
        return computed

    def _blame(self, view: _View, columns: dict[str, list[Any]], rows: int, error: Exception) -> OnDemandError:
        for row in range(rows):
            try:
                _call(view, {name: [values[row]] for name, values in columns.items()}, 1)
            except Exception as single:
                return OnDemandError(f"on-demand view {view.name!r} failed on this row: {type(single).__name__}: {single}", row)
        return OnDemandError(f"on-demand view {view.name!r} failed: {type(error).__name__}: {error}")


def _call(view: _View, columns: dict[str, list[Any]], rows: int) -> dict[str, Any]:
    if not view.singleton:
        return view.udf(dict(columns))
    singles = [view.udf({name: values[row] for name, values in columns.items()}) for row in range(rows)]
    return {feature: [single[feature] for single in singles] for feature in view.outputs}


def _column(view: _View, feature: str, dtype: str, given: Mapping[str, Any], rows: int) -> NDArray[np.float64]:
    values = given.get(feature, given.get(f"{view.name}__{feature}"))
    where = f"on-demand view {view.name!r}, feature {feature!r}"
    if values is None:
        raise OnDemandError(f"{where}: its function did not return it")
    if len(values) != rows:
        raise OnDemandError(f"{where}: its function gave {len(values)} values for {rows} rows")
    try:
        column = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise OnDemandError(f"{where} is not a number: {error}") from None
    # Declared single precision is what Feast stores and trains on: round as it does.
    return column.astype(np.float32).astype(np.float64) if dtype == "Float32" else column


def _compile(view: Any, projection: Any) -> _View:
    if view.mode != "python":
        raise OnDemandError(f"on-demand view {view.name!r} has mode {view.mode!r}: write it with mode='python' to serve it")
    sources = tuple(
        (f"{source.name_to_use()}:{field.name}", field.name, f"{source.name_to_use()}__{field.name}")
        for source in view.source_feature_view_projections.values()
        for field in source.features
    )
    request = {field.name: str(field.dtype) for source in view.source_request_sources.values() for field in source.schema}
    outputs = {field.name: str(field.dtype) for field in projection.features}
    return _View(projection.name_to_use(), view.feature_transformation.udf, bool(view.singleton), request, sources, outputs)
