"""Plain Feast objects of the made-up shop: two latest-value views and a transformation over one of them and the request."""

from datetime import timedelta
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, RequestSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String, UnixTimestamp

product = Entity(name="product", value_type=ValueType.STRING)
store = Entity(name="store", value_type=ValueType.INT64)


def table(name: str) -> FileSource:
    return FileSource(name=f"{name}_table", path=f"{name}.parquet", timestamp_field="event_timestamp")


sales = FeatureView(
    name="sales",
    entities=[product, store],
    source=table("sales"),
    ttl=timedelta(hours=2),
    schema=[
        Field(name="product", dtype=String),
        Field(name="store", dtype=Int64),
        Field(name="count_1h", dtype=Int64),
        Field(name="mean_price", dtype=Float64),
    ],
)
shelf = FeatureView(
    name="shelf",
    entities=[product],
    source=table("shelf"),
    ttl=timedelta(days=30),
    schema=[Field(name="product", dtype=String), Field(name="stock", dtype=Float64)],
)
asked = RequestSource(name="asked", schema=[Field(name="price", dtype=Float64), Field(name="asked_at", dtype=UnixTimestamp)])


@on_demand_feature_view(
    mode="python",
    sources=[asked, sales],
    schema=[Field(name="price_ratio", dtype=Float64), Field(name="hour", dtype=Int64)],
)
def pricing(inputs: dict[str, Any]) -> dict[str, Any]:
    pairs = zip(inputs["price"], inputs["mean_price"], strict=True)
    return {
        "price_ratio": [price / mean if price is not None and mean is not None else None for price, mean in pairs],
        "hour": [at.hour if at is not None else None for at in inputs["asked_at"]],
    }


sells_out = FeatureService(name="sells_out", features=[sales, shelf, pricing])
