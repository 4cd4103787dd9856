"""Another field, another folder, no code changed: ingest, join, backfill, stream, train, serve, replay and the proof, on real services."""

from __future__ import annotations

import asyncio
import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from feature_repo.records import contract
from feature_repo.records.redis_keys import applied_key, events_key, keys_key, rejected_key, view_key
from feature_repo.registry.definitions import definitions
from infra.redis_client import for_feast
from infra.settings import ROOT
from serving.batch.rerun import RerunError, find, rerun
from serving.features.decoder import MISSING, STALE
from serving.features.reader import OnlineReader, OnlineStoreUnavailable
from serving.telemetry.prediction_id import PredictionIds
from streaming.aggregation.windows import HOUR, MINUTE, Layout
from streaming.backfill.run import backfill
from streaming.online import feast_layout
from streaming.online.store import connect
from streaming.schema.feature_view import View
from streaming.schema.json_row import encode
from streaming.schema.types import FIRST_US
from tests.bikes.platform import SEAM_US, Bikes
from tests.oracle import naive
from training.monitoring.skew import prove, read_log


def oracle_events(bikes: Bikes, view: View) -> list[naive.Event]:
    found = []
    for row in bikes.events(view):
        key = tuple(row[k] for k in view.key_names)
        when = round(row[view.timestamp].timestamp() * 1e6)
        known = round(row[view.created].timestamp() * 1e6) if view.created else when
        values = {c: row[c] if row[c] is None or isinstance(row[c], str) else float(row[c]) for c in view.source_columns}
        found.append(naive.Event(None if None in key else key, when, known, values))
    return sorted(found, key=lambda e: (e.event_us, e.known_us, str(e.values)))


def expected(view: View, events: list[naive.Event], key: Any, t_us: int) -> dict[str, float | None]:
    if view.layout:
        return {a.name: naive.window(events, a, key, t_us) for a in view.layout.aggregations}
    row = naive.latest(events, key, t_us, view.ttl_us)
    return {f.name: row.values[f.name] if row else None for f in view.features}


def close(got: float | None, want: float | None) -> bool:
    if want is None or math.isnan(want):
        return got is None or math.isnan(got)
    return got is not None and math.isclose(got, want, rel_tol=1e-12)


def test_every_joined_feature_equals_the_oracle(bikes: Bikes) -> None:
    import pyarrow.parquet as pq

    table = pq.read_table(bikes.training_set.path)
    rows = table.take(np.random.default_rng(3).choice(table.num_rows, 150, replace=False)).to_pylist()
    for view in bikes.views.values():
        events = oracle_events(bikes, view)
        for row in rows:
            want = expected(view, events, tuple(row[k] for k in view.key_names), round(row["asked"].timestamp() * 1e6))
            for name, value in want.items():
                assert close(row[f"{view.name}__{name}"], value), (view.name, name, row, value)


def test_one_example_in_is_one_row_out(bikes: Bikes) -> None:
    import pyarrow.dataset as ds
    import pyarrow.parquet as pq

    examples = ds.dataset(bikes.settings.offline_root / "requests", format="parquet").to_table()
    table = pq.read_table(bikes.training_set.path)
    assert sorted(table["request"].to_pylist()) == sorted(examples["request"].to_pylist())


def test_the_training_set_is_the_same_bytes_again(bikes: Bikes) -> None:
    from training.data.training_set import build

    assert build(bikes.spark, bikes.case, bikes.settings, bikes.spec).hash == bikes.training_set.hash


def read(bikes: Bikes, instances: list[dict[str, Any]], t_us: int) -> tuple[OnlineReader, Any]:
    async def go() -> tuple[OnlineReader, Any]:
        reader = OnlineReader.open(bikes.case.store, bikes.spec.feature_service, bikes.settings.redis(), 2.0)
        try:
            return reader, await reader.read(instances, t_us)
        finally:
            await reader.close()

    return asyncio.run(go())


def entities(bikes: Bikes) -> list[dict[str, Any]]:
    view = bikes.views["rides_by_station_and_class"]
    return [dict(zip(view.key_names, k, strict=True)) for k in sorted({e.key for e in oracle_events(bikes, view) if e.key})]


def check_online(bikes: Bikes, seen_us: int, t_us: int) -> None:
    """The reader at `t_us` gives what the oracle gives from the events known by `seen_us`."""
    instances = entities(bikes)
    reader, rows = read(bikes, instances, t_us)
    for view in bikes.views.values():
        events = [e for e in oracle_events(bikes, view) if e.known_us <= seen_us]
        for i, instance in enumerate(instances):
            want = expected(view, events, tuple(instance[k] for k in view.key_names), t_us)
            for name, value in want.items():
                place = reader.features.index(f"{view.name}:{name}")
                got = math.nan if rows.statuses[i, place] == STALE else rows.values[i, place]
                assert close(got, value), (view.name, name, instance, got, value)


@pytest.mark.parametrize("later", [0, 7 * MINUTE, 3 * HOUR, 30 * HOUR])
def test_a_backfill_read_back_equals_the_oracle_as_time_passes(bikes: Bikes, later: int) -> None:
    bikes.backfill()
    check_online(bikes, SEAM_US, SEAM_US + later)


def test_a_second_backfill_changes_nothing(bikes: Bikes) -> None:
    def dump() -> dict[bytes, Any]:
        client = connect(bikes.settings.redis())
        keys = {k for v in bikes.views for k in client.smembers(keys_key("bikes", v))}
        return {k: client.hgetall(k) for k in keys}

    bikes.backfill()
    before = dump()
    bikes.backfill()
    assert dump() == before
    assert len(before) > 10


def test_an_entity_the_backfill_does_not_find_loses_the_view_and_nothing_else(bikes: Bikes) -> None:
    client = connect(bikes.settings.redis())
    bikes.backfill()
    view = bikes.views["dock"]
    key = feast_layout.key_encoder("bikes", [("station", "int64")])([424242])
    client.hset(key, mapping={feast_layout.tile_field("dock"): b"H1", feast_layout.timestamp_field("dock"): b"", b"_hr:other": b"kept"})
    client.sadd(keys_key("bikes", view.name), key)
    bikes.backfill()
    assert client.hgetall(key) == {b"_hr:other": b"kept"}
    client.delete(key)


def push(bikes: Bikes, first_us: int, last_us: int) -> bytes:
    """Put what became known in `(first, last]` on the event stream; returns the last id."""
    client = connect(bikes.settings.redis())
    sources = {v.stream: v for v in bikes.views.values() if v.stream}
    rows = []
    for source, view in sources.items():
        for row in bikes.events(view):
            known = round(row[view.created or view.timestamp].timestamp() * 1e6)
            if first_us < known <= last_us:
                rows.append((known, source, encode(row)))
    last = b""
    for _, source, data in sorted(rows):
        last = client.xadd(events_key("bikes"), {"source": source, "data": data})  # type: ignore[assignment]
    return last


def wait_applied(bikes: Bikes, query: Any, last: bytes) -> None:
    client, deadline = connect(bikes.settings.redis()), time.monotonic() + 240
    while client.hget(applied_key("bikes"), "id") != last:
        assert query.isActive, query.exception()
        assert time.monotonic() < deadline, "the stream does not advance"
        time.sleep(0.05)


def test_backfill_then_stream_equals_the_oracle_across_the_seam_and_after_a_replayed_stream(bikes: Bikes, streaming: Any) -> None:
    query = streaming()
    for part in range(3):
        end = SEAM_US + (part + 1) * 2 * HOUR
        wait_applied(bikes, query, push(bikes, end - 2 * HOUR, end))
        check_online(bikes, end, end)
    # the checkpoint is lost, and every event comes again: each entity passes over what it has had
    end = SEAM_US + 6 * HOUR
    connect(bikes.settings.redis()).delete(applied_key("bikes"))
    query = streaming(fresh=True)
    wait_applied(bikes, query, push(bikes, end, end + HOUR))
    check_online(bikes, end + HOUR, end + HOUR)


def test_events_that_do_not_fit_are_set_aside_with_the_reason(bikes: Bikes, streaming: Any) -> None:
    client = connect(bikes.settings.redis())
    query = streaming()
    for source, data in (
        ("rides", b"{not json"),
        ("rides", b'{"began": "yesterday"}'),
        ("nobody", b"{}"),
        ("docks", b'{"seen": 1, "station": "x"}'),
        ("docks", b'{"seen": 1, "station": 18446744073709551615}'),
        ("docks", b'{"seen": 1700000000000000000, "station": 1}'),
        ("docks", b'{"seen": 1700000000000, "station": 1}'),
        ("docks", b'{"seen": "2131-01-01T00:00:00Z", "station": 1}'),
        ("docks", b'{"seen": 1, "station": 1, "free_bikes": 9223372036854775808}'),
        ("docks", b'{"seen": ' + b"[" * 5000 + b"]" * 5000 + b"}"),
        ("rides", b'{"began": 1, "reported": "2131-01-01T00:00:00Z", "station": 1, "rider_class": "member"}'),
    ):
        client.xadd(events_key("bikes"), {"source": source, "data": data})
    wait_applied(bikes, query, push(bikes, SEAM_US, SEAM_US + HOUR))
    entries: Any = client.xrange(rejected_key("bikes"))
    why = b" | ".join(fields[b"why"] for _, fields in entries)
    assert len(entries) == 11
    for word in (
        b"malformed",
        b"'yesterday'",
        b"'nobody'",
        b"'x'",
        b"18446744073709551615, not int64",
        b"milliseconds?",
        b"nested too deep",
    ):
        assert word in why, why
    assert why.count(b"ahead of the clock") >= 2
    check_online(bikes, SEAM_US + HOUR, SEAM_US + HOUR)
    # a backfill beside the stream reads the same entries
    done = backfill(bikes.spark, list(bikes.views.values()), bikes.settings.offline_root, bikes.settings.redis(), SEAM_US)
    assert not [d.error for d in done if d.error]
    check_online(bikes, SEAM_US + HOUR, SEAM_US + HOUR)


def test_statuses_say_what_is_not_there(bikes: Bikes) -> None:
    bikes.backfill()
    reader, rows = read(bikes, [{"station": 424242, "rider_class": "member"}, {"station": None, "rider_class": None}], SEAM_US)
    assert (rows.statuses == MISSING).all()
    count = reader.features.index("rides_by_station:rides_2h")
    assert rows.values[0, count] == 0
    reader, rows = read(bikes, entities(bikes)[:1], SEAM_US + 10 * HOUR)
    assert rows.statuses[0, reader.features.index("dock:free_bikes")] == STALE


def test_a_moment_the_store_has_moved_on_from_is_missing_and_not_guessed(bikes: Bikes) -> None:
    bikes.backfill()
    reader, rows = read(bikes, entities(bikes)[:1], SEAM_US - 30 * HOUR)
    windowed = [i for i, name in enumerate(reader.features) if name.startswith("rides_by_station:")]
    assert (rows.statuses[0, windowed] == MISSING).all()
    assert np.isnan(rows.values[0, windowed]).all()


@pytest.mark.parametrize("at_us", [FIRST_US, -1, SEAM_US - 30 * HOUR])
def test_no_request_before_the_newest_row_is_answered_from_its_future(bikes: Bikes, at_us: int) -> None:
    bikes.backfill()
    reader, rows = read(bikes, entities(bikes)[:1], at_us)
    latest = [i for i, name in enumerate(reader.features) if name.startswith("dock:")]
    assert (rows.statuses[0, latest] == MISSING).all()
    assert np.isnan(rows.values[0, latest]).all()


def test_a_redis_that_does_not_answer_is_said_so_within_the_deadline(bikes: Bikes) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(8)
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"

        async def go() -> float:
            reader = OnlineReader.open(bikes.case.store, bikes.spec.feature_service, url, 0.3)
            began = time.monotonic()
            with pytest.raises(OnlineStoreUnavailable):
                await reader.read(entities(bikes)[:1], SEAM_US)
            return time.monotonic() - began

        assert asyncio.run(go()) < 1.0


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
    for key in client.smembers(keys_key("bikes", "dock")):
        client.hdel(key, feast_layout.timestamp_field("dock"))
    store.materialize(SEAM.replace(month=1), SEAM, feature_views=["dock"])
    check_online(bikes, SEAM_US, SEAM_US)


def test_what_was_served_is_what_training_computes(bikes: Bikes, streaming: Any, server: str) -> None:
    from serving.simulation.replay import Where, events_of, play, requests_of

    streaming()
    span = (SEAM_US, SEAM_US + 18 * HOUR)
    root = bikes.settings.offline_root
    before = len(read_log(connect(bikes.settings.redis()), "bikes", "turned_away"))  # of other tests
    events = events_of(list(bikes.views.values()), root, *span)
    tally = asyncio.run(
        play(
            Where("turned_away", server, bikes.settings.redis(), "bikes"),
            events,
            requests_of(bikes.spec, bikes.contract, root, *span),
            span,
            30 * MINUTE,
        )
    )
    assert tally.failed == 0, tally.errors
    assert tally.predictions > 100
    assert tally.events == len(events.items)  # those of the last step too: the next replay begins there
    assert tally.labels == len(tally.truth)
    client = connect(bikes.settings.redis())
    deadline = time.monotonic() + 180
    while len(log := read_log(client, "bikes", "turned_away")[before:]) < tally.predictions and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len(log) == tally.predictions
    result = prove(lambda: bikes.spark, bikes.case, bikes.settings, bikes.contract, log)
    assert result.wrong == 0, result.examples
    assert 0 < result.late < result.cells / 2
    lag = result.lag_s()
    assert lag is not None
    assert 0 < lag["p99"] <= 30 * 60
    for prediction in log[:: max(1, len(log) // 15)]:
        again = rerun(bikes.case, bikes.settings, prediction)
        assert again.same, again.summary()
    forged = msgspec.structs.replace(log[0], score=log[0].score + 1e-12)
    assert not rerun(bikes.case, bikes.settings, forged).same
    assert find(client, "bikes", log[5].id) == log[5]
    with pytest.raises(RerunError, match="no prediction"):
        find(client, "bikes", PredictionIds(bytes(32)).make("m", log[5].wall_us)[0])


def test_a_store_that_has_lost_everything_serves_no_wrong_cell_and_says_what_it_lacks(bikes: Bikes, streaming: Any, server: str) -> None:
    """Live events go on, and their windows would pass for whole."""
    from serving.simulation.replay import Where, events_of, play, requests_of

    streaming()
    client = connect(bikes.settings.redis())
    before = len(read_log(client, "bikes", "turned_away"))
    for view in bikes.views.values():
        entities: Any = client.smembers(keys_key("bikes", view.name))
        client.delete(keys_key("bikes", view.name), view_key("bikes", view.name), *entities)
    deadline = time.monotonic() + 60
    while "count as missing" not in (said := httpx.get(f"{server}/readyz").text) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert "no backfill of rides_by_station" in said
    span, root = (SEAM_US, SEAM_US + 3 * HOUR), bikes.settings.offline_root
    events, requests = events_of(list(bikes.views.values()), root, *span), requests_of(bikes.spec, bikes.contract, root, *span)
    where = Where("turned_away", server, bikes.settings.redis(), "bikes")
    tally = asyncio.run(play(where, events, requests, span, 30 * MINUTE))
    assert tally.failed == 0, tally.errors
    deadline = time.monotonic() + 180
    while len(log := read_log(client, "bikes", "turned_away")[before:]) < tally.predictions and time.monotonic() < deadline:
        time.sleep(0.2)
    windows = [i for i, one in enumerate(bikes.contract.inputs) if one.source.startswith("rides_by_station:")]
    assert {p.statuses[i] for p in log for i in windows} == {"m"}
    result = prove(lambda: bikes.spark, bikes.case, bikes.settings, bikes.contract, log)
    assert result.wrong == 0, result.examples
    assert result.causes["missing row"] > 0
    bikes.backfill()
    deadline = time.monotonic() + 60
    while "count as missing" in httpx.get(f"{server}/readyz").text and time.monotonic() < deadline:
        time.sleep(0.2)
    instance = {"station": 7, "rider_class": "member", "wanted_at": "2021-03-13T00:10:00Z", "party": 2}
    answer = httpx.post(f"{server}/v1/models/turned_away/predict", json={"instances": [instance], "now": "2021-03-13T00:00:00Z"})
    assert answer.json()["predictions"][0]["statuses"]["missing"] == 0, "all is back"


def test_the_skew_proof_can_fail(bikes: Bikes, streaming: Any, server: str) -> None:
    client = connect(bikes.settings.redis())
    before = len(read_log(client, "bikes", "turned_away"))
    instance = {"station": 7, "rider_class": "member", "wanted_at": "2021-03-13T00:10:00Z", "party": 2}
    answer = httpx.post(f"{server}/v1/models/turned_away/predict", json={"instances": [instance], "now": "2021-03-13T00:00:00Z"})
    assert answer.status_code == 200, answer.text
    deadline = time.monotonic() + 180
    while len(log := read_log(client, "bikes", "turned_away")) == before and time.monotonic() < deadline:
        time.sleep(0.2)
    honest = log[-1]
    values = list(honest.values)
    place = bikes.contract.names.index("rides_by_station__rides_2h")
    values[place] = (values[place] or 0.0) + 1.0
    forged = msgspec.structs.replace(honest, values=values)
    result = prove(lambda: bikes.spark, bikes.case, bikes.settings, bikes.contract, [honest, forged])
    assert result.wrong == 1
    assert result.examples[0].feature == "rides_by_station:rides_2h"
    (cell,) = [c for c in rerun(bikes.case, bikes.settings, forged).cells if not c.same]
    assert cell.name == "rides_by_station__rides_2h"


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
    instance = {"station": 7, "rider_class": "member", "wanted_at": "2021-03-13T00:10:00Z", "party": 2}
    before = len(read_log(client, "bikes", "turned_away"))
    httpx.post(f"{server}/v1/models/turned_away/predict", json={"instances": [instance], "now": "2021-03-13T00:00:00Z"})
    deadline = time.monotonic() + 180
    while len(log := read_log(client, "bikes", "turned_away")) == before and time.monotonic() < deadline:
        time.sleep(0.2)
    check = Equality(client, bikes.settings, "bikes", "turned_away", 1.0)
    compared, unequal = check.check(log[-1])
    assert compared >= 12
    assert unequal == []
    key = feast_layout.key_encoder("bikes", [("station", "int64")])([7])
    kept = client.hget(key, feast_layout.field("rides_by_station", "sum_km_2h"))  # type: ignore[arg-type]
    client.hset(key, feast_layout.field("rides_by_station", "sum_km_2h"), feast_layout.encode_value(-1.0, "double"))  # type: ignore[arg-type]
    try:
        (found,) = check.check(log[-1])[1]
        assert (found.feature, found.feast) == ("rides_by_station:sum_km_2h", -1.0)
    finally:
        client.hset(key, feast_layout.field("rides_by_station", "sum_km_2h"), kept)  # type: ignore[arg-type]


def test_batch_scores_are_the_scores_that_training_and_serving_compute(bikes: Bikes, tmp_path: Path) -> None:
    """The training set's own rows, scored in Spark from the raw instances, against the model on the joined matrix."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from serving.batch.score import ScoreError, score
    from serving.inference.scorer import Scorer
    from training.data.splits import matrix

    sample = pq.read_table(bikes.training_set.path).slice(300, 200)
    fields = [f.name for f in bikes.contract.request]
    spine = sample.select([*fields, "request"]).append_column("event_timestamp", sample["asked"])
    pq.write_table(spine, tmp_path / "in.parquet")
    version = bikes.contract.version
    done = score(bikes.spark, bikes.case, bikes.settings, "turned_away", version, tmp_path / "in.parquet", tmp_path / "out", None)
    assert (done.rows, done.refused) == (200, 0)
    out = pq.read_table(tmp_path / "out").sort_by("request")
    scorer = Scorer(bikes.settings.model_root / "turned_away" / str(version) / "model.onnx", len(bikes.contract.inputs))
    want = sample.append_column("want", pa.array(scorer.score(matrix(sample, bikes.contract.inputs)))).sort_by("request")
    assert out["score"].to_pylist() == want["want"].to_pylist()
    assert set(out["model_version"].to_pylist()) == {version}
    pq.write_table(spine.drop_columns(["party"]), tmp_path / "less.parquet")
    with pytest.raises(ScoreError, match="lacks party"):
        score(bikes.spark, bikes.case, bikes.settings, "turned_away", version, tmp_path / "less.parquet", tmp_path / "out", None)
    with pytest.raises(ScoreError, match="nothing at"):
        score(bikes.spark, bikes.case, bikes.settings, "turned_away", version, tmp_path / "no.parquet", tmp_path / "out", None)


def test_a_changed_definition_is_refused_by_the_features_name(bikes: Bikes) -> None:
    applied = definitions(bikes.case.store, bikes.spec.feature_service)
    contract.check_definitions(bikes.contract, applied)
    with pytest.raises(contract.ContractError, match=r"changed: dock:charge"):
        contract.check_definitions(bikes.contract, applied | {"dock:charge": "0" * 16})


def test_a_tampered_contract_is_refused(bikes: Bikes, tmp_path: Path) -> None:
    folder = tmp_path / "1"
    shutil.copytree(bikes.settings.model_root / "turned_away" / str(bikes.contract.version), folder)
    contract.load(folder)
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes() + b" ")
    with pytest.raises(contract.ContractError, match=r"model\.onnx"):
        contract.load(folder)


def test_layouts_of_the_use_case_are_what_it_declares(bikes: Bikes) -> None:
    view = bikes.views["rides_by_station_and_class"]
    assert isinstance(view.layout, Layout)
    hops = {a.name: a.hop_us for a in view.layout.aggregations}
    assert hops == {"rides_30m": MINUTE, "mean_km_6h": 5 * MINUTE}


def test_only_a_use_case_knows_its_domain() -> None:
    words = ("flight", "airport", "carrier", "tailnum")
    for folder in ("infra", "streaming", "training", "serving", "headrace.py", "headrace"):
        paths = [ROOT / folder] if (ROOT / folder).is_file() else sorted((ROOT / folder).rglob("*.py"))
        for path in paths:
            found = [w for w in words if w in path.read_text().lower()]
            assert not found, f"{path.name} knows {found}"


def test_the_join_on_spark_gives_the_very_bytes_of_the_join_in_process(bikes: Bikes, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra.settings import settings
    from training.data.training_set import build

    monkeypatch.setattr(settings(), "join_in_process_rows", 0)
    assert build(bikes.spark, bikes.case, bikes.settings, bikes.spec).hash == bikes.training_set.hash
