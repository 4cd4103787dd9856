"""Feast's own materialization into Redis: `feast_materialize.py spark|local TABLE FEATURES HOST:PORT,db=N ENTITIES`. A line is one run."""

import json
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

engine, table, features, redis = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType  # noqa: E402
from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource  # noqa: E402
from feast.types import Float64, Int64  # noqa: E402

folder = Path(tempfile.mkdtemp(prefix="feast-"))
conf = {
    "spark.master": "local[2]",
    "spark.driver.memory": "3g",
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.shuffle.partitions": "4",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.local.dir": str(folder),
    "spark.sql.warehouse.dir": str(folder / "warehouse"),
}
config = RepoConfig(
    project="peer",
    provider="local",
    registry=str(folder / "registry.db"),
    offline_store={"type": "spark", "spark_conf": conf} if engine == "spark" else {"type": "dask"},
    batch_engine={"type": "spark.engine", "partitions": 4} if engine == "spark" else {"type": "local"},
    online_store={"type": "redis", "connection_string": redis},
    entity_key_serialization_version=3,
)
store = FeatureStore(config=config)
user = Entity(name="user_id", value_type=ValueType.INT64)
names = [f"f{i}" for i in range(features)]
times = {"timestamp_field": "event_timestamp", "created_timestamp_column": "created_timestamp"}
if engine == "spark":
    source = SparkSource(name="wide", path=table, file_format="parquet", **times)
else:
    source = FileSource(name="wide", path=table, **times)
view = FeatureView(
    name="wide",
    entities=[user],
    ttl=timedelta(0),
    source=source,
    schema=[Field(name="user_id", dtype=Int64), *(Field(name=n, dtype=Float64) for n in names)],
)
store.apply([user, source, view])
if engine == "spark":
    from feast.infra.offline_stores.contrib.spark_offline_store.spark import get_spark_session_or_start_new_with_repoconfig

    get_spark_session_or_start_new_with_repoconfig(config.offline_store).range(1).count()
print("RESULT{}", flush=True)
for _ in sys.stdin:
    began = time.monotonic()
    store.materialize(datetime(2023, 12, 1), datetime(2024, 2, 1), feature_views=["wide"])
    print("RESULT" + json.dumps({"seconds": time.monotonic() - began}), flush=True)
