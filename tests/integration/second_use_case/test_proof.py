"""Served, replayed and proven: what was served is what training computes."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import msgspec
import pytest

from feature_repo.records.redis_keys import keys_key, view_key
from serving.batch.rerun import RerunError, find, run_again
from serving.telemetry.prediction_id import PredictionIds
from streaming.aggregation.windows import HOUR, MINUTE
from streaming.online import entity_index
from streaming.online.store import connect
from streaming.skew.proof import prove, read_log
from tests.bikes.platform import SEAM_US, Bikes
from tests.indexed import indexed


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
        again = run_again(bikes.case, bikes.settings, prediction)
        assert again.same, again.summary()
    forged = msgspec.structs.replace(log[0], score=log[0].score + 1e-12)
    assert not run_again(bikes.case, bikes.settings, forged).same
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
        entities: Any = indexed(client, keys_key("bikes", view.name))
        entity_index.delete(client, keys_key("bikes", view.name))
        client.delete(view_key("bikes", view.name), *entities)
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
    (cell,) = [c for c in run_again(bikes.case, bikes.settings, forged).cells if not c.same]
    assert cell.name == "rides_by_station__rides_2h"
