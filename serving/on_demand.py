"""On-demand features of a request: what was read and what was sent, as the declared values that `streaming.on_demand` runs on.

The plan is compiled once: where each stored feature lies in what the reader gives, and how it becomes the type that is declared of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from serving.reply import STALE
from streaming.declared import Convert, converter, from_floats
from streaming.on_demand import OnDemandError, Transformation, serveable, transformations
from streaming.view import NUMERIC, Projection

if TYPE_CHECKING:
    from serving.reader import FeatureRows

__all__ = ["OnDemand", "OnDemandError"]


class OnDemand:
    """The compiled transformations of one feature service.

    Args:
        views: see `compile`.
        columns: `view:feature` of the columns of `FeatureRows.values`.

    Attributes:
        sources: `view:feature` of every stored feature a transformation reads.
        fields: request fields and join keys the transformations read; `types` has their types.
        features: `view:feature` of what they give; `dtypes` has the types of these.

    Raises:
        OnDemandError: a transformation is not written in Python mode.
    """

    def __init__(self, views: Sequence[Transformation], columns: Sequence[str]) -> None:
        serveable(views)
        self._views = views
        dtypes = {source.reference: source.dtype for view in views for source in view.sources}
        self.sources = sorted(dtypes)
        self.types = {field: dtype for view in views for field, dtype in (view.keys | view.request).items()}
        self.fields = sorted(self.types)
        self.dtypes = {f"{view.alias}:{name}": view.outputs[name] for view in views for name in view.wanted}
        self.features = list(self.dtypes)
        self._request: list[tuple[str, Convert]] = [(field, converter(self.types[field])) for field in self.fields]
        place = {feature: i for i, feature in enumerate(columns)}
        self._stored = [(s, place[s], dtypes[s], converter(dtypes[s])) for s in self.sources if s in place]

    @classmethod
    def compile(cls, store: Any, service: str, joined: Sequence[Projection], columns: Sequence[str]) -> OnDemand:
        """Read the transformations that belong to a feature service.

        Args:
            store: a `feast.FeatureStore`.
            service: name of the feature service.
            joined: its views (`streaming.view.projections`).
            columns: see the class.

        Raises:
            DefinitionError: the service is not applied.
            OnDemandError: a transformation cannot be served.
        """
        return cls(transformations(store, service, joined), columns)

    def run(self, request: Mapping[str, Sequence[Any]], rows: FeatureRows) -> dict[str, list[Any]]:
        """Compute every on-demand feature.

        Args:
            request: each of `fields` → value per row; timestamps as aware datetimes; None is null.
            rows: what was read; what is stale there is null.

        Returns:
            `view:feature` → value per row, as it is declared; None is null.

        Raises:
            OnDemandError: a function raised, gave another number of values, or one that is not as declared.
        """
        if not self._views:
            return {}
        n = len(rows.extras)
        given = {field: _declared(field, convert, request[field]) for field, convert in self._request}
        stored = {feature: _column(rows, place, feature, dtype, convert) for feature, place, dtype, convert in self._stored}
        found: dict[str, list[Any]] = {}
        for view in self._views:
            for name, values in view.run(view.arguments(given, stored), n).items():
                found[f"{view.alias}:{name}"] = values
        return found


def _declared(field: str, convert: Convert, values: Sequence[Any]) -> list[Any]:
    found = []
    for row, value in enumerate(values):
        try:
            found.append(convert(value))
        except ValueError as error:
            raise OnDemandError(f"{field!r} {error}", row) from None
    return found


def _column(rows: FeatureRows, place: int, feature: str, dtype: str, convert: Convert) -> list[Any]:
    """A stored feature's values as they are declared: numbers from the matrix, what a float cannot carry from beside it."""
    if dtype in NUMERIC:
        values = from_floats(rows.values[:, place], dtype)
        values = [convert(extra[feature]) if feature in extra else v for v, extra in zip(values, rows.extras, strict=True)]
    else:
        values = [convert(extra.get(feature)) for extra in rows.extras]
    # as for the model, stale is null; what is missing is null already, and the windows of an entity without events are empty
    stale = rows.statuses[:, place] == STALE
    return [None if old else v for v, old in zip(values, stale.tolist(), strict=True)] if stale.any() else values
