"""Stock Feast beside ours, on the same repository and the same store."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from feature_repo.records.prediction import Prediction
from feature_repo.records.redis_keys import keys_key
from infra.redis_client import for_feast
from streaming.aggregation.windows import HOUR
from streaming.online import feast_layout
from streaming.online.store import connect
from streaming.skew.proof import read_log
from tests.bikes.oracle import check_online, entities, read
from tests.bikes.platform import SEAM_US, Bikes
from tests.indexed import indexed

STOCK = """
import json, os, sys
from feast import FeatureStore, RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStoreConfig
config = RepoConfig(project="bikes", provider="local", registry={"registry_type": "sql", "path": os.environ["REGISTRY"]},
    online_store=RedisOnlineStoreConfig(connection_string=os.environ["REDIS"]), offline_store={"type": "file"},
    entity_key_serialization_version=3)
rows = json.loads(sys.stdin.read())
answer = FeatureStore(config=config).get_online_features(features=["dock:free_bikes", "dock:charge"], entity_rows=rows).to_dict()
assert not [m for m in sys.modules if m.split(".")[0] in ("streaming", "serving", "training", "infra", "feature_repo")]
print("ANSWER" + json.dumps(answer))
"""


def test_stock_feast_reads_the_same_values_without_any_code_of_ours(bikes: Bikes, tmp_path: Path) -> None:
    bikes.backfill()
    instances = [{"station": s} for s in sorted({e["station"] for e in entities(bikes)})]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"REGISTRY": bikes.settings.registry_url, "REDIS": for_feast(bikes.settings.redis())}
    done = subprocess.run(
        [sys.executable, "-c", STOCK],
        input=json.dumps(instances),
        text=True,
        capture_output=True,
        cwd=tmp_path,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    stock = json.loads(done.stdout.rpartition("ANSWER")[2])
    reader, rows = read(bikes, [i | {"rider_class": None} for i in instances], SEAM_US)
    for name in ("free_bikes", "charge"):
        ours = [None if math.isnan(v) else v for v in rows.values[:, reader.features.index(f"dock:{name}")].tolist()]
        assert stock[name] == ours
        assert any(v is not None for v in ours)


def test_feasts_own_calls_use_our_join_and_our_backfill(bikes: Bikes) -> None:
    import pandas as pd
    import pyarrow.parquet as pq

    sample = pq.read_table(bikes.training_set.path).slice(500, 40).to_pandas()
    spine = sample[["asked", "station", "rider_class", "request", "wanted_at", "party"]].rename(columns={"asked": "event_timestamp"})
    store = bikes.case.store
    got = store.get_historical_features(spine, store.get_feature_service("dock_choice"), full_feature_names=True).to_df()
    assert got["request"].tolist() == sample["request"].tolist()
    for name in (i.name for i in bikes.training_set.inputs):
        pd.testing.assert_series_equal(got[name], sample[name], check_dtype=False, check_names=False)
    from tests.bikes.platform import SEAM

    client = connect(bikes.settings.redis())
    for key in indexed(client, keys_key("bikes", "dock")):
        client.hdel(key, feast_layout.timestamp_field("dock"))
    store.materialize(SEAM.replace(month=1), SEAM, feature_views=["dock"])
    check_online(bikes, SEAM_US, SEAM_US)


def test_a_row_that_stock_feast_wrote_after_ours_is_what_is_read(bikes: Bikes) -> None:
    import pandas as pd

    bikes.backfill()
    at = pd.Timestamp(SEAM_US + HOUR, unit="us", tz="UTC")
    where = [{"station": 7, "rider_class": "member"}, {"station": 3, "rider_class": "member"}]
    before = read(bikes, where, SEAM_US + HOUR)[1]
    frame = pd.DataFrame({"station": [7], "seen": [at], "free_bikes": [77], "charge": [0.125]})
    bikes.case.store.write_to_online_store("dock", frame)
    try:
        reader, rows = read(bikes, where, SEAM_US + HOUR)
        mine = [reader.features.index(f"dock:{name}") for name in ("free_bikes", "charge")]
        assert rows.values[0, mine].tolist() == [77.0, 0.125]
        assert rows.marks[0]["dock"].event_us == SEAM_US + HOUR
        other = [i for i in range(len(reader.features)) if i not in mine]
        np.testing.assert_array_equal(rows.values[0, other], before.values[0, other])
        np.testing.assert_array_equal(rows.values[1], before.values[1])
    finally:
        bikes.backfill()


def test_what_is_served_is_what_stock_feast_reads_and_a_difference_is_found(bikes: Bikes, streaming: Any, server: str) -> None:

    from serving.monitoring.feast_parity import Equality

    client = connect(bikes.settings.redis())
    prediction = answered(server, client, "2021-03-13T00:00:00Z")
    check = Equality(client, bikes.settings, "bikes", "turned_away", 1.0)
    compared, unequal = check.check(prediction)
    assert compared >= 12
    assert unequal == []
    key = feast_layout.key_encoder("bikes", [("station", "int64")])([7])
    kept = client.hget(key, feast_layout.field("rides_by_station", "sum_km_2h"))  # type: ignore[arg-type]
    client.hset(key, feast_layout.field("rides_by_station", "sum_km_2h"), feast_layout.encode_value(-1.0, "double"))  # type: ignore[arg-type]
    try:
        (found,) = check.check(prediction)[1]
        assert (found.feature, found.feast) == ("rides_by_station:sum_km_2h", -1.0)
        assert f"{prediction.id}: rides_by_station:sum_km_2h of station 7 was served as " in found.text
        assert found.text.endswith("stock Feast reads -1.0")
    finally:
        client.hset(key, feast_layout.field("rides_by_station", "sum_km_2h"), kept)  # type: ignore[arg-type]


def test_a_request_of_a_moment_that_the_store_has_left_is_no_difference(bikes: Bikes, streaming: Any, server: str) -> None:
    """Requests whose times jump back: the row in the store lies in their future, is served as missing, and Feast reads it all the same."""
    from serving.monitoring.feast_parity import Equality

    bikes.backfill()
    client = connect(bikes.settings.redis())
    prediction = answered(server, client, "2021-03-12T00:00:00Z")
    place = [i.source for i in bikes.contract.inputs].index("dock:free_bikes")
    assert (prediction.values[place], prediction.statuses[place]) == (None, "m")
    compared, unequal = Equality(client, bikes.settings, "bikes", "turned_away", 1.0).check(prediction)
    assert compared
    assert unequal == []


def test_a_row_that_is_applied_while_functions_are_read_again_is_no_difference(bikes: Bikes, streaming: Any, server: str) -> None:
    from serving.monitoring.feast_parity import Equality

    class Busy(Equality):
        """Newer rows of the docks come in just before Feast computes."""

        read: dict[str, Any]

        def _computed(self, *asked: Any) -> dict[str, Any]:
            bikes.backfill(SEAM_US + 6 * HOUR)
            self.read = super()._computed(*asked)
            return self.read

    bikes.backfill()
    client = connect(bikes.settings.redis())
    prediction = answered(server, client, "2021-03-13T00:00:00Z")
    check = Busy(client, bikes.settings, "bikes", "turned_away", 1.0)
    try:
        compared, unequal = check.check(prediction)
        assert check.read["spare"] != prediction.values[[i.source for i in bikes.contract.inputs].index("wish:spare")], (
            "Feast reads another"
        )
        assert compared
        assert unequal == []
    finally:
        bikes.backfill()


def answered(server: str, client: Any, now: str) -> Prediction:
    """The prediction of station 7 at a moment, as it was logged."""
    instance = {"station": 7, "rider_class": "member", "wanted_at": "2021-03-13T00:10:00Z", "party": 2}
    before = len(read_log(client, "bikes", "turned_away"))
    httpx.post(f"{server}/v1/models/turned_away/predict", json={"instances": [instance], "now": now})
    deadline = time.monotonic() + 180
    while len(log := read_log(client, "bikes", "turned_away")) == before and time.monotonic() < deadline:
        time.sleep(0.2)
    return log[-1]
