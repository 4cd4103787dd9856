"""Will this flight arrive more than 15 minutes late? Asked an hour before it is to leave, answered from what was known by then.

One file says it all: entities, sources, windowed views of departures and arrivals, latest-value views of weather and planes, what the
request itself tells, and the feature service that the model reads. Nothing here runs anything.
"""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, PushSource, RequestSource, StreamFeatureView, ValueType
from feast.aggregation import Aggregation
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

# Entities

tailnum = Entity(name="tailnum", value_type=ValueType.STRING, description="the aircraft")
origin = Entity(name="origin", value_type=ValueType.STRING, description="airport of departure")
dest = Entity(name="dest", value_type=ValueType.STRING, description="airport of arrival")
carrier = Entity(name="carrier", value_type=ValueType.STRING, description="the airline")
route = Entity(name="route", value_type=ValueType.STRING, description="origin-dest, such as EWR-BOS")
origin_carrier = Entity(name="origin_carrier", value_type=ValueType.STRING, description="origin-carrier, such as EWR-UA")

# Sources: tables of the offline store (ingest.yaml makes them); what is pushed arrives live under the same name


def table(name: str, created: str = "created_timestamp") -> SparkSource:
    return SparkSource(
        name=f"{name}_table",
        path=name,
        file_format="parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column=created,
    )


departures = PushSource(name="departures", batch_source=table("departures"))
arrivals = PushSource(name="arrivals", batch_source=table("arrivals"))
observations = PushSource(name="weather", batch_source=table("weather"))
planes = table("planes", created="")

# Windowed views

WINDOWS = {"1h": timedelta(hours=1), "3h": timedelta(hours=3), "24h": timedelta(hours=24), "7d": timedelta(days=7)}


def windowed(source: PushSource, entity: Entity, **features: str) -> StreamFeatureView:
    """A view of one source by one entity. `mean_dep_delay="1h 3h"` declares the features mean_dep_delay_1h and mean_dep_delay_3h."""
    aggregations = [
        Aggregation(column=column, function=function, time_window=WINDOWS[window], name=f"{feature}_{window}")
        for feature, windows in features.items()
        for function, _, column in [feature.partition("_")]
        for window in windows.split()
    ]
    return StreamFeatureView(
        name=f"{source.name}_by_{entity.name}",
        entities=[entity],
        source=source,
        timestamp_field="event_timestamp",
        ttl=timedelta(days=7),
        aggregations=aggregations,
        schema=[
            Field(name=entity.join_key, dtype=String),
            *(Field(name=a.name, dtype=Int64 if a.function == "count" else Float64) for a in aggregations),
        ],
    )


departures_by_origin = windowed(
    departures,
    origin,
    mean_dep_delay="1h 3h 24h",
    mean_dep_late="1h 3h",
    max_dep_delay="1h",
    count_dep_delay="3h",
)
departures_by_carrier = windowed(departures, carrier, mean_dep_delay="1h 3h 24h 7d", mean_dep_late="3h")
departures_by_origin_carrier = windowed(
    departures,
    origin_carrier,
    mean_dep_delay="1h 3h 24h 7d",
    mean_dep_late="3h",
    count_dep_delay="3h",
)
departures_by_tailnum = windowed(departures, tailnum, last_dep_delay="24h", mean_dep_delay="24h 7d")

arrivals_by_dest = windowed(arrivals, dest, mean_arr_delay="1h 3h 24h 7d", mean_arr_late="3h", std_arr_delay="24h")
arrivals_by_carrier = windowed(arrivals, carrier, mean_arr_delay="1h 3h 24h 7d", mean_arr_late="3h 7d")
arrivals_by_tailnum = windowed(arrivals, tailnum, last_arr_delay="24h", mean_arr_delay="24h 7d")
arrivals_by_route = windowed(arrivals, route, mean_arr_delay="24h 7d", mean_arr_late="7d", std_arr_delay="7d", count_arr_delay="7d")

# Latest-value views

weather = FeatureView(
    name="weather",
    entities=[origin],
    source=observations,
    ttl=timedelta(hours=3),
    schema=[
        Field(name="origin", dtype=String),
        Field(name="temp", dtype=Float64),
        Field(name="dewp", dtype=Float64),
        Field(name="humid", dtype=Float64),
        Field(name="wind_dir", dtype=Float64),
        Field(name="wind_speed", dtype=Float64),
        Field(name="wind_gust", dtype=Float64),
        Field(name="precip", dtype=Float64),
        Field(name="pressure", dtype=Float64),
        Field(name="visib", dtype=Float64),
    ],
)
plane = FeatureView(
    name="plane",
    entities=[tailnum],
    source=planes,
    ttl=timedelta(0),
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="year", dtype=Int64),
        Field(name="seats", dtype=Int64),
    ],
)

# What only the request knows

request = RequestSource(
    name="request",
    schema=[
        Field(name="scheduled_departure", dtype=UnixTimestamp),
        Field(name="scheduled_arrival", dtype=UnixTimestamp),
        Field(name="distance", dtype=Float64),
    ],
)


@on_demand_feature_view(
    mode="python",
    sources=[request],
    schema=[
        Field(name="local_minute_of_day", dtype=Int64),
        Field(name="day_of_week", dtype=Int64),
        Field(name="block_minutes", dtype=Float64),
        Field(name="miles", dtype=Float64),
    ],
)
def schedule(inputs: dict[str, Any]) -> dict[str, Any]:
    from zoneinfo import ZoneInfo

    new_york = ZoneInfo("America/New_York")
    leaves = [moment.astimezone(new_york) if moment else None for moment in inputs["scheduled_departure"]]
    times = zip(inputs["scheduled_departure"], inputs["scheduled_arrival"], strict=True)
    return {
        "local_minute_of_day": [local.hour * 60 + local.minute if local else None for local in leaves],
        "day_of_week": [local.isoweekday() if local else None for local in leaves],
        "block_minutes": [(arrives - departs).total_seconds() / 60 if departs and arrives else None for departs, arrives in times],
        "miles": list(inputs["distance"]),
    }


# What the model reads

arrival_delay = FeatureService(
    name="arrival_delay",
    features=[
        departures_by_origin,
        departures_by_carrier,
        departures_by_origin_carrier,
        departures_by_tailnum,
        arrivals_by_dest,
        arrivals_by_carrier,
        arrivals_by_tailnum,
        arrivals_by_route,
        weather,
        plane,
        schedule,
    ],
)
