"""Will a rider be turned away at this dock? Rides and dock reports, known by station, and by station and class of rider."""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

station = Entity(name="station", value_type=ValueType.INT64)
rider_class = Entity(name="rider_class", value_type=ValueType.STRING)

rides = PushSource(
    name="rides",
    batch_source=SparkSource(
        name="rides_table", path="rides", file_format="parquet", timestamp_field="began", created_timestamp_column="reported"
    ),
)
docks = PushSource(
    name="docks",
    batch_source=SparkSource(name="docks_table", path="docks", file_format="parquet", timestamp_field="seen"),
)

rides_by_station = StreamFeatureView(
    name="rides_by_station",
    entities=[station],
    source=rides,
    timestamp_field="began",
    aggregations=[
        Aggregation(column="ride", function="count", time_window=timedelta(hours=2), name="rides_2h"),
        Aggregation(column="kilometres", function="sum", time_window=timedelta(hours=2), name="sum_km_2h"),
        Aggregation(column="kilometres", function="mean", time_window=timedelta(days=1), name="mean_km_1d"),
        Aggregation(column="kilometres", function="min", time_window=timedelta(hours=2), name="min_km_2h"),
        Aggregation(column="kilometres", function="max", time_window=timedelta(days=1), name="max_km_1d"),
        Aggregation(column="kilometres", function="std", time_window=timedelta(days=1), name="std_km_1d"),
        Aggregation(column="kilometres", function="last", time_window=timedelta(hours=2), name="last_km_2h"),
        Aggregation(column="kilometres", function="first", time_window=timedelta(hours=2), name="first_km_2h"),
        Aggregation(column="kilometres", function="median", time_window=timedelta(hours=2), name="median_km_2h"),
        Aggregation(column="kilometres", function="p95", time_window=timedelta(days=1), name="p95_km_1d"),
        Aggregation(column="rider_class", function="count_distinct", time_window=timedelta(hours=2), name="classes_2h"),
        Aggregation(column="ride", function="count_distinct", time_window=timedelta(days=1), name="distinct_rides_1d"),
    ],
    schema=[
        Field(name="station", dtype=Int64),
        Field(name="rides_2h", dtype=Int64),
        Field(name="sum_km_2h", dtype=Float64),
        Field(name="mean_km_1d", dtype=Float64),
        Field(name="min_km_2h", dtype=Float64),
        Field(name="max_km_1d", dtype=Float64),
        Field(name="std_km_1d", dtype=Float64),
        Field(name="last_km_2h", dtype=Float64),
        Field(name="first_km_2h", dtype=Float64),
        Field(name="median_km_2h", dtype=Float64),
        Field(name="p95_km_1d", dtype=Float64),
        Field(name="classes_2h", dtype=Int64),
        Field(name="distinct_rides_1d", dtype=Int64),
    ],
)
rides_by_station_and_class = StreamFeatureView(
    name="rides_by_station_and_class",
    entities=[station, rider_class],
    source=rides,
    timestamp_field="began",
    tiling_hop_size=timedelta(minutes=1),
    aggregations=[
        Aggregation(
            column="ride",
            function="count",
            time_window=timedelta(minutes=30),
            slide_interval=timedelta(minutes=1),
            name="rides_30m",
        ),
        Aggregation(column="kilometres", function="mean", time_window=timedelta(hours=6), name="mean_km_6h"),
    ],
    schema=[
        Field(name="station", dtype=Int64),
        Field(name="rider_class", dtype=String),
        Field(name="rides_30m", dtype=Int64),
        Field(name="mean_km_6h", dtype=Float64),
    ],
)
dock = FeatureView(
    name="dock",
    entities=[station],
    source=docks,
    ttl=timedelta(minutes=25),
    schema=[
        Field(name="station", dtype=Int64),
        Field(name="free_bikes", dtype=Int64),
        Field(name="charge", dtype=Float64),
    ],
)

ask = RequestSource(name="ask", schema=[Field(name="wanted_at", dtype=UnixTimestamp), Field(name="party", dtype=Int64)])


@on_demand_feature_view(  # type: ignore[untyped-decorator]
    mode="python",
    sources=[ask, dock],
    schema=[
        Field(name="hour", dtype=Int64),
        Field(name="riders", dtype=Int64),
        Field(name="spare", dtype=Int64),
    ],
)
def wish(inputs: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(inputs["free_bikes"], inputs["party"], strict=True)
    return {
        "hour": [moment.hour if moment is not None else None for moment in inputs["wanted_at"]],
        "riders": list(inputs["party"]),
        "spare": [None if free is None or party is None else int(free) - int(party) for free, party in pairs],
    }


dock_choice = FeatureService(name="dock_choice", features=[rides_by_station, rides_by_station_and_class, dock, wish])
