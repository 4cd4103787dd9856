"""On-demand feature views, compiled: a user's function, the declared values that it is given, and its answers as they are declared.

Both joins run the functions here: the offline one (training, the skew proof, replayed predictions, the leakage check, the what-if of a
changed definition) and the online one. They differ only in where the inputs come from: columns of the join, or what was read from
Redis. `streaming.schema.declared` makes the same Python objects of both.
"""

from __future__ import annotations

from asyncio import CancelledError
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from reprlib import repr as short
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from feature_repo.registry.definitions import DefinitionError
from streaming.join.on_spark import JoinError
from streaming.schema.columns import column_name
from streaming.schema.declared import Convert, converter, from_arrow, to_arrow
from streaming.schema.feature_view import Projection, dtype_of

if TYPE_CHECKING:
    from feast import FeatureStore


_RAISED = (Exception, SystemExit, GeneratorExit, CancelledError)
"""All that a function may raise, but for Ctrl-C."""


MOST_SAID = 500
"""Characters of an error of a user's function that are passed on."""


class OnDemandError(ValueError):
    """A transformation cannot be compiled, or failed on some rows; the message names the view, and the row where one did it."""

    def __init__(self, message: str, row: int | None = None) -> None:
        super().__init__(message)
        self.row = row


@dataclass(frozen=True)
class Source:
    """A stored feature that a function reads.

    Attributes:
        reference: `alias:feature`.
        names: what the function may call it: its own name, and the same behind its view's (`view__feature`).
        dtype: of `streaming.schema.feature_view`.
    """

    reference: str
    names: tuple[str, ...]
    dtype: str


@dataclass(frozen=True)
class Transformation:
    """One on-demand view of one feature service.

    Attributes:
        name: the view's; `alias`: what features are called by.
        mode: `python`, or another of Feast's.
        request: request field → dtype.
        keys: join keys of the views it reads, by their column or request field → dtype; the function may read them, as in Feast.
        outputs: every feature the view declares → dtype; `wanted`: those that the service takes.
    """

    name: str
    alias: str
    mode: str
    singleton: bool
    function: Any
    request: dict[str, str]
    keys: dict[str, str]
    sources: tuple[Source, ...]
    outputs: dict[str, str]
    wanted: tuple[str, ...]
    _convert: dict[str, Convert] = field(default_factory=dict)

    @property
    def where(self) -> str:
        return f"on-demand view {self.name!r}"

    def arguments(self, request: Mapping[str, list[Any]], stored: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
        """What the function is called with, in Feast's order: join keys, the request's fields, then stored features.

        Args:
            request: fields and join keys → declared value per row.
            stored: `alias:feature` → declared value per row.
        """
        columns: dict[str, list[Any]] = {name: request[name] for name in (*self.keys, *self.request)}
        for source in self.sources:
            for name in source.names:
                columns[name] = stored[source.reference]
        return columns

    def run(self, columns: dict[str, list[Any]], rows: int) -> dict[str, list[Any]]:
        """The wanted features, as they are declared, one value per row.

        Args:
            columns: of `arguments`.

        Raises:
            OnDemandError: the function raised, gave another number of values, or one that is not as declared.
        """
        try:
            given = self._call(columns, rows)
        except _RAISED as error:  # whatever a user's function raises is an answer about the row, not a failure of ours
            raise self._blame(columns, rows, error) from error
        return {feature: self._declared(feature, given, rows) for feature in self.wanted}

    def _call(self, columns: dict[str, list[Any]], rows: int) -> Mapping[str, Any]:
        if not self.singleton:
            # a function that writes into its inputs writes into nobody else's
            return self.function({name: list(values) for name, values in columns.items()})
        singles = [self.function({name: values[row] for name, values in columns.items()}) for row in range(rows)]
        return {name: [_single(single, name, self) for single in singles] for name in self.wanted}

    def _blame(self, columns: dict[str, list[Any]], rows: int, error: BaseException) -> OnDemandError:
        if isinstance(error, OnDemandError):
            return error
        for row in range(rows if rows > 1 else 1):
            try:
                self._call({name: [values[row]] for name, values in columns.items()}, 1)
            except _RAISED as single:
                return OnDemandError(f"{self.where} failed on this row: {_said(single)}", row)
        return OnDemandError(f"{self.where} failed: {_said(error)}")

    def _length(self, values: Any, where: str) -> int:
        """Of what a function gave and is no list.

        Raises:
            OnDemandError: it is not one value per row.
        """
        if not hasattr(values, "__len__") or isinstance(values, str | bytes | Set | Mapping):  # the last two have no order of rows
            raise OnDemandError(f"{where}: its function gave {short(values)}, not one value per row")
        try:
            return len(values)
        except _RAISED as error:
            raise OnDemandError(f"{where}: its function gave what has no length: {_said(error)}") from None

    def _declared(self, feature: str, given: Mapping[str, Any], rows: int) -> list[Any]:
        values = _answer(given, feature, self)
        where = f"{self.where}, feature {feature!r}"
        length = len(values) if isinstance(values, list) else self._length(values, where)
        if length != rows:
            raise OnDemandError(f"{where}: its function gave {length} values for {rows} rows")
        if hasattr(values, "tolist"):  # an array or a series; what is in it has a Python twin
            values = values.tolist()
        convert = self._convert[feature]
        try:
            return [convert(value) for value in values]
        except _RAISED:
            for row, value in enumerate(values):
                try:
                    convert(value)
                except ValueError as error:
                    raise OnDemandError(f"{where} {error}", row) from None
                except _RAISED as error:
                    raise OnDemandError(f"{where} cannot be read: {type(error).__name__} of a {type(value).__name__}", row) from None
            raise


def _said(error: BaseException) -> str:
    """What a user's function raised, cut short, as text that every caller can be sent."""
    try:
        text = str(error)
    except Exception:  # its own __str__ raises
        text = ""
    shown = text[:MOST_SAID].encode("utf-8", "replace").decode()
    return f"{type(error).__name__}: {shown}{' ...' if len(text) > MOST_SAID else ''}"


def _answer(given: Mapping[str, Any], feature: str, view: Transformation) -> Any:
    """
    Raises:
        OnDemandError: it is not among what the function returned.
    """
    try:
        for name in (feature, column_name(view.alias, feature), column_name(view.name, feature)):
            if name in given:
                return given[name]
    except TypeError:
        raise OnDemandError(f"{view.where}: its function gave {short(given)}, not a dict of its features") from None
    raise OnDemandError(f"{view.where}, feature {feature!r}: its function did not return it")


def _single(given: Mapping[str, Any], feature: str, view: Transformation) -> Any:
    value = _answer(given, feature, view)
    listed = isinstance(value, list) and len(value) == 1 and not view.outputs[feature].startswith("array<")
    return value[0] if listed else value


def transformation(view: Any, alias: str, wanted: Iterable[str], joined: Sequence[Projection]) -> Transformation:
    """Compile an on-demand feature view.

    Args:
        view: Feast's.
        alias: what the service calls it.
        wanted: the features that are asked of it.
        joined: the views that are read with it (`streaming.schema.feature_view.projections`): its sources' keys are found there.

    Raises:
        OnDemandError: it is written to the online store, aggregates, or has no function.
    """
    if getattr(view, "write_to_online_store", False) is True:
        raise OnDemandError(f"on-demand view {view.name!r} is written to the online store: make a feature view of it")
    if getattr(view, "aggregations", None) or view.feature_transformation is None:
        raise OnDemandError(f"on-demand view {view.name!r} has no function: aggregate in a stream feature view, and transform here")
    keys: dict[str, str] = {}
    sources = []
    for source in view.source_feature_view_projections.values():
        own = source.name_to_use()
        if own != source.name:
            raise OnDemandError(f"on-demand view {view.name!r} reads {source.name!r} as {own!r}: Feast finds a source by its own name only")
        for one in joined:
            if one.alias == own:
                keys |= {column: k.dtype for column, k in zip(one.spine_keys, one.view.keys, strict=True)}
        for f in source.features:
            sources.append(Source(f"{own}:{f.name}", (f.name, column_name(own, f.name)), _dtype(f, view)))
    request = {f.name: _dtype(f, view) for s in view.source_request_sources.values() for f in s.schema}
    outputs = {f.name: _dtype(f, view) for f in view.features}
    mode = str(getattr(view.mode, "value", view.mode))
    function = view.feature_transformation.udf if mode == "python" else _other_mode(view)
    convert = {name: converter(dtype) for name, dtype in outputs.items()}
    named = tuple(name for name in dict.fromkeys(wanted) if name in outputs)
    keys = {name: dtype for name, dtype in keys.items() if name not in request}
    return Transformation(view.name, alias, mode, bool(view.singleton), function, request, keys, tuple(sources), outputs, named, convert)


def _dtype(feature: Any, view: Any) -> str:
    """Of `streaming.schema.feature_view`; an empty text where Feast knows the type and the engines do not: its values stay as they are."""
    try:
        return dtype_of(feature.dtype, f"on-demand view {view.name!r}, {feature.name!r}")
    except DefinitionError:
        return ""


def transformations(store: FeatureStore, service: str, joined: Sequence[Projection]) -> list[Transformation]:
    """The on-demand views of a feature service, in its order, under their aliases.

    Raises:
        DefinitionError: the service is not applied.
        OnDemandError: see `transformation`.
    """
    from feature_repo.registry.definitions import service_projections

    known = {view.name: view for view in store.list_on_demand_feature_views(allow_cache=True)}
    listed = [p for p in service_projections(store, service) if p.name in known]
    return [transformation(known[p.name], p.name_to_use(), (f.name for f in p.features), joined) for p in listed]


def serveable(some: Iterable[Transformation]) -> None:
    """
    Raises:
        OnDemandError: one is not written in Python mode: what Pandas makes of a type depends on the other rows of a batch.
    """
    for one in some:
        if one.mode != "python":
            raise OnDemandError(f"{one.where} has mode {one.mode!r}: write it with mode='python' to serve it")


def append(table: pa.Table, view: Transformation, column: Callable[[str], str], called: Callable[[str], str]) -> pa.Table:
    """The table with the features of an on-demand view: the offline road.

    Args:
        column: which of the table's columns a stored feature, `view:feature`, is in.
        called: what to call the column of a feature of this view.

    Raises:
        JoinError: a column is not there, or two would have one name.
        OnDemandError: a column is not what is declared, or the function fails.
    """
    request = view.keys | view.request
    absent = [c for c in (*request, *(column(s.reference) for s in view.sources)) if c not in table.column_names]
    if absent:
        raise JoinError(f"{view.where} needs {', '.join(absent)}, which the entity rows do not have")
    names = [called(name) for name in view.wanted]
    if clash := [name for name in names if name in table.column_names]:
        raise JoinError(f"two features are called {clash[0]!r}: ask with full_feature_names=True")

    def declared(values: pa.ChunkedArray, dtype: str, name: str) -> list[Any]:
        try:
            return from_arrow(values, dtype)
        except ValueError as error:
            raise OnDemandError(f"{view.where}, {name!r} {error}") from None

    if view.mode == "python":
        given = {name: declared(table[name], dtype, name) for name, dtype in request.items()}
        stored = {s.reference: declared(table[column(s.reference)], s.dtype, s.reference) for s in view.sources}
        made = view.run(view.arguments(given, stored), table.num_rows)
    else:
        known = {name: name for name in request} | {name: column(s.reference) for s in view.sources for name in s.names}
        answer = view.function(pa.table({name: table[c] for name, c in known.items()}))
        found = {name: _answer(answer, name, view) for name in view.wanted}
        made = {name: declared(values, view.outputs[name], name) for name, values in found.items()}
    for name, column_of in zip(view.wanted, names, strict=True):
        table = table.append_column(column_of, to_arrow(made[name], view.outputs[name]))
    return table


def append_each(table: pa.Table, view: Transformation, column: Callable[[str], str], called: Callable[[str], str]) -> pa.Table:
    """`append`, but a function that fails on one row does not fail the others: its features are null in that row only.

    Raises:
        JoinError: a column is not there.
    """
    try:
        return append(table, view, column, called)
    except OnDemandError:
        found: dict[str, list[Any]] = {name: [] for name in view.wanted}
        for row in range(table.num_rows):
            try:
                one = append(table.slice(row, 1), view, column, called)
            except OnDemandError:
                one = None
            for name, values in found.items():
                values.append(None if one is None else one[called(name)][0].as_py())
        for name, values in found.items():
            table = table.append_column(called(name), to_arrow(values, view.outputs[name]))
        return table


def _other_mode(view: Any) -> Callable[[pa.Table], dict[str, pa.ChunkedArray]]:
    """Pandas and the other modes, as Feast runs them: the columns that a function makes of some."""

    def function(given: pa.Table) -> dict[str, pa.ChunkedArray]:
        made = view.feature_transformation.transform_arrow(given, view.features)
        return dict(zip(made.column_names, made.columns, strict=True))

    return function
