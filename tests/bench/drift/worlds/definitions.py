"""A world as a use case on disk: a folder with plain Feast objects, the model's spec, and nothing of how the world is drawn."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from tests.bench.drift.worlds.world import TRAINING_DAYS, Latest, View, Windowed, World

MODEL, SERVICE, ASKED, SPINE = "answer", "answer", "asked", "examples"
"""Of every world: its model, feature service, on-demand view of the request, and table of examples."""
LABEL, KNOWN = "label", "label_known_at"
VALID_DAYS = 14
_UNITS = {"h": "hours", "d": "days"}

_HEAD = '''"""{sort}: a generated use case."""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp
'''
_SOURCE = """
{name} = PushSource(
    name="{name}",
    batch_source=SparkSource(
        name="{name}_table", path="{name}", file_format="parquet",
        timestamp_field="event_timestamp", created_timestamp_column="created_timestamp",
    ),
)
"""
_WINDOWED = """
{name} = StreamFeatureView(
    name="{name}", entities=[{key}], source={source}, timestamp_field="event_timestamp", ttl=timedelta(days=7),
    aggregations=[
        {aggregations}
    ],
    schema=[Field(name="{key}", dtype=String), {fields}],
)
"""
_LATEST = """
{name} = FeatureView(
    name="{name}", entities=[{key}], source={source}, ttl=timedelta(hours={ttl_h}),
    schema=[Field(name="{key}", dtype=String), {fields}],
)
"""
_REQUEST = """
request = RequestSource(name="request", schema=[Field(name="asked_at", dtype=UnixTimestamp), {fields}])


@on_demand_feature_view(
    mode="python", sources=[request],
    schema=[Field(name="hour", dtype=Int64), Field(name="weekday", dtype=Int64), {outputs}],
)
def asked(inputs: dict[str, Any]) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    zone = ZoneInfo("{zone}")
    local = [moment.astimezone(zone) if moment else None for moment in inputs["asked_at"]]
    found = {{"hour": [at.hour if at else None for at in local], "weekday": [at.isoweekday() if at else None for at in local]}}
    return found | {{"sent_" + name: list(inputs[name]) for name in {names}}}


answer = FeatureService(name="answer", features=[{views}, asked])
"""


def write(world: World, folder: Path) -> None:
    """Write the use case's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "models").mkdir(exist_ok=True)
    store = {
        "project": world.name,
        "provider": "local",
        "registry": {"registry_type": "sql", "path": f"sqlite:///{folder.parent / 'registry.db'}", "cache_ttl_seconds": 3600},
        "online_store": {"type": "redis", "connection_string": "127.0.0.1:1"},  # never asked: the pipe is the online store
        "offline_store": {"type": "streaming.offline_store.HeadraceOfflineStore"},
        "batch_engine": {"type": "streaming.compute_engine.HeadraceComputeEngine"},
        "entity_key_serialization_version": 3,
    }
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(store))
    (folder / "features.py").write_text(feast_objects(world))
    (folder / "expectations.py").write_text(expectations(world))
    (folder / "models" / f"{MODEL}.yaml").write_text(yaml.safe_dump(model(world), sort_keys=False))


def expectations(world: World) -> str:
    """The module that says what the sources' rows must be."""
    schemas = []
    for source, columns in world.expected.items():
        checks = ", ".join(
            f'"{name}": Column(checks=Check.in_range({low!r}, {high!r}), nullable=True, required=False)'
            for name, (low, high) in columns.items()
        )
        schemas.append(f'    "{source}": DataFrameSchema({{{checks}}}),\n')
    head = '"""What every row of a source must be."""\n\nfrom pandera.pandas import Check, Column, DataFrameSchema\n\n'
    return f"{head}EXPECTATIONS = {{\n{''.join(schemas)}}}\n"


def keys(world: World) -> list[str]:
    """Join keys that a request carries, in order."""
    return list(dict.fromkeys(v.key for v in world.views))


def feast_objects(world: World) -> str:
    """The module that Feast applies."""
    parts = [_HEAD.format(sort=world.sort)]
    parts += [f'{key} = Entity(name="{key}", value_type=ValueType.STRING)\n' for key in keys(world)]
    parts += [_SOURCE.format(name=source.name) for source in world.sources]
    parts += [_view(world, view) for view in world.views]
    fields = ", ".join(f'Field(name="{name}", dtype={dtype})' for name, dtype in world.request.items())
    outputs = ", ".join(f'Field(name="sent_{name}", dtype={dtype})' for name, dtype in world.request.items())
    views = ", ".join(v.name for v in world.views)
    parts.append(_REQUEST.format(fields=fields, outputs=outputs, zone=world.zone, names=list(world.request), views=views))
    return "".join(parts)


def _view(world: World, view: View) -> str:
    if isinstance(view, Latest):
        columns = next(s.columns for s in world.sources if s.name == view.source)
        fields = ", ".join(f'Field(name="{name}", dtype={dtype})' for name, dtype in columns.items())
        return _LATEST.format(name=view.name, key=view.key, source=f"{view.source}", ttl_h=view.ttl_h, fields=fields)
    aggregations, declared = [], []
    for name, function, column, window in _features(view):
        span = f"timedelta({_UNITS[window[-1]]}={int(window[:-1])})"
        aggregations.append(f'Aggregation(column="{column}", function="{function}", time_window={span}, name="{name}"),')
        declared.append(f'Field(name="{name}", dtype={"Int64" if function == "count" else "Float64"})')
    return _WINDOWED.format(
        name=view.name, key=view.key, source=view.source, aggregations="\n        ".join(aggregations), fields=", ".join(declared)
    )


def _features(view: Windowed) -> list[tuple[str, str, str, str]]:
    """Name, function, column and window of each."""
    found = []
    for feature, windows in view.features.items():
        function, _, column = feature.partition("_")
        found += [(f"{feature}_{window}", function, column, window) for window in windows.split()]
    return found


def model(world: World) -> dict[str, Any]:
    """The model's spec."""
    valid, end = (str(world.first + timedelta(days=days)) for days in (TRAINING_DAYS - VALID_DAYS, TRAINING_DAYS))
    return {
        "name": MODEL,
        "description": world.sort,
        "feature_service": SERVICE,
        "spine": {"table": SPINE, "id": ["id"], "label": LABEL, "label_timestamp": KNOWN},
        "split": {"train": {"start": str(world.first), "end": valid}, "valid": {"start": valid, "end": end}},
        "parameters": {"learning_rate": 0.1, "num_leaves": 15, "min_data_in_leaf": 50, "lambda_l2": 5},
        "rounds": 80,
        "early_stopping": 10,
        "watch": {"window": world.window, "step": world.step},
        "calendar": {"time_zone": world.zone, "country": world.country},
    }
