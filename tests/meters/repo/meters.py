"""A third use case, of types: every declared type goes into functions of every style, and each function says exactly what it saw."""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

meter = Entity(name="meter", value_type=ValueType.INT64)
readings = SparkSource(name="readings_table", path="readings", file_format="parquet", timestamp_field="read_at")
flows = PushSource(
    name="flows", batch_source=SparkSource(name="flows_table", path="flows", file_format="parquet", timestamp_field="measured_at")
)

reading = FeatureView(
    name="reading",
    entities=[meter],
    source=readings,
    ttl=timedelta(hours=6),
    schema=[
        Field(name="meter", dtype=Int64),
        Field(name="load", dtype=Int64),
        Field(name="phase", dtype=Int32),
        Field(name="on", dtype=Bool),
        Field(name="unit", dtype=String),
        Field(name="ratio", dtype=Float64),
        Field(name="single", dtype=Float32),
        Field(name="installed", dtype=UnixTimestamp),
        Field(name="raw", dtype=Bytes),
        Field(name="taps", dtype=Array(Int64)),
        Field(name="slopes", dtype=Array(Float64)),
        Field(name="tags", dtype=Array(String)),
    ],
)
flow = StreamFeatureView(
    name="flow",
    entities=[meter],
    source=flows,
    timestamp_field="measured_at",
    aggregations=[
        Aggregation(column="litres", function="sum", time_window=timedelta(hours=2), name="litres_2h"),
        Aggregation(column="litres", function="mean", time_window=timedelta(hours=2), name="mean_2h"),
        Aggregation(column="litres", function="max", time_window=timedelta(hours=2), name="max_2h"),
    ],
    schema=[
        Field(name="meter", dtype=Int64),
        Field(name="litres_2h", dtype=Int64),
        Field(name="mean_2h", dtype=Float32),
        Field(name="max_2h", dtype=Int32),
    ],
)

asked = RequestSource(
    name="asked",
    schema=[
        Field(name="count", dtype=Int64),
        Field(name="step", dtype=Int32),
        Field(name="yes", dtype=Bool),
        Field(name="word", dtype=String),
        Field(name="share", dtype=Float64),
        Field(name="near", dtype=Float32),
        Field(name="when", dtype=UnixTimestamp),
    ],
)


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    mode="python",
    sources=[asked, reading],
    schema=[
        Field(name="is_on", dtype=Int64),
        Field(name="digits", dtype=Int64),
        Field(name="seven", dtype=Int64),
        Field(name="odd", dtype=Int64),
        Field(name="beyond", dtype=Int64),
        Field(name="truth", dtype=Bool),
        Field(name="half", dtype=Float32),
        Field(name="tenth", dtype=Float64),
    ],
)
def kinds(inputs: dict[str, Any]) -> dict[str, Any]:
    from numpy import float32

    load, on, share = inputs["load"], inputs["on"], inputs["share"]
    return {
        "is_on": [int(value is True) for value in on],
        "digits": [len(str(value)) for value in load],
        "seven": [{"7": 1}.get(str(value), 0) for value in load],
        "odd": [None if value is None else value & 1 for value in load],
        "beyond": [None if value is None else value ^ 1 for value in load],
        "truth": [None if value is None else value > 0 for value in load],
        "half": [None if value is None else float32(value / 2) for value in share],
        "tenth": [None if value is None else value / 10 for value in share],
    }


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    mode="python",
    sources=[asked, reading, flow],
    schema=[Field(name="stored", dtype=Int64), Field(name="sent", dtype=Int64), Field(name="windowed", dtype=Int64)],
)
def seen(inputs: dict[str, Any]) -> dict[str, Any]:
    """A checksum of the type and the text of all that it gets, by its names in Feast."""
    from zlib import crc32

    def of(*names: str) -> list[int]:
        return [crc32(repr([(type(v).__name__, v) for v in row]).encode()) for row in zip(*(inputs[n] for n in names), strict=True)]

    stored = ("load", "phase", "on", "unit", "ratio", "single", "installed", "raw", "taps", "slopes", "tags")
    return {
        "stored": of(*stored, *(f"reading__{name}" for name in stored), *(name for name in ("meter",) if name in inputs)),
        "sent": of("count", "step", "yes", "word", "share", "near", "when"),
        "windowed": of("litres_2h", "mean_2h", "flow__max_2h"),
    }


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    mode="python",
    singleton=True,
    sources=[asked, reading],
    schema=[Field(name="next_count", dtype=Int64), Field(name="name_length", dtype=Int64)],
)
def alone(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        "next_count": None if inputs["count"] is None else inputs["count"] + 1,
        "name_length": len(inputs["reading__unit"] or "") + isinstance(inputs["load"], int),
    }


leak_test = FeatureService(name="leak_test", features=[kinds, alone])
meter_check = FeatureService(
    name="meter_check",
    features=[
        reading[["load", "phase", "on", "ratio", "single"]],
        flow,
        kinds.with_name("sorts")[["is_on", "odd", "digits", "seven", "half", "beyond"]],
        seen,
        alone,
    ],
)
