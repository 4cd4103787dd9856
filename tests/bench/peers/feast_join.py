"""Feast's own Spark offline store: `feast_join.py TABLE SPINE FEATURES`. Each line on standard input is one join."""

import json
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

table, spine, features = sys.argv[1], sys.argv[2], int(sys.argv[3])
began = time.monotonic()
import pandas as pd  # noqa: E402
from feast import Entity, FeatureStore, FeatureView, Field, RepoConfig, ValueType  # noqa: E402
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
    offline_store={"type": "spark", "spark_conf": conf},
    online_store={"type": "sqlite", "path": str(folder / "online.db")},
    entity_key_serialization_version=3,
)
store = FeatureStore(config=config)
user = Entity(name="user_id", value_type=ValueType.INT64)
names = [f"f{i}" for i in range(features)]
source = SparkSource(
    name="wide", path=table, file_format="parquet", timestamp_field="event_timestamp", created_timestamp_column="created_timestamp"
)
view = FeatureView(
    name="wide",
    entities=[user],
    ttl=timedelta(0),
    source=source,
    schema=[Field(name="user_id", dtype=Int64), *(Field(name=n, dtype=Float64) for n in names)],
)
store.apply([user, source, view])
examples = pd.read_parquet(spine)
from feast.infra.offline_stores.contrib.spark_offline_store.spark import get_spark_session_or_start_new_with_repoconfig  # noqa: E402

get_spark_session_or_start_new_with_repoconfig(config.offline_store).range(1).count()
print("RESULT" + json.dumps({"start": time.monotonic() - began}), flush=True)
for _ in sys.stdin:
    began = time.monotonic()
    found = store.get_historical_features(examples, [f"wide:{n}" for n in names]).to_arrow()
    print("RESULT" + json.dumps({"seconds": time.monotonic() - began, "rows": found.num_rows}), flush=True)
