"""What the replicas have counted, as the loop reads it: faults and latency end a stage, and what is not known ends none."""

from __future__ import annotations

import time

import msgspec
import pytest

from feature_repo.records.redis_keys import tallies_key
from feature_repo.records.replica_tally import Tally
from tests.training.retraining.world import MODEL, World
from training.retraining.server_metrics import Counters, Unknown, since, summed


@pytest.mark.parametrize(("counts", "says"), [({"failed": 80}, "fails more often: 80 of"), ({"slow": 400}, "slower: p99 ")])
def test_faults_and_latency_end_a_canary_before_anything_else(world: World, counts: dict[str, int], says: str) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    world.counted[2]["ok"] += 400
    world.counted[1]["ok"] += 400
    world.counted[2] |= counts
    world.serve(4)
    assert says in world.pilot().step()
    assert (world.steps()[-1], world.live()) == ("ended", 1)


@pytest.mark.parametrize("phase", ["shadow", "canary", "probation"])
def test_without_the_replicas_counters_a_stage_waits_and_says_so(world: World, phase: str) -> None:
    world.serve()
    world.drift()
    world.until(phase)
    world.silent = True
    world.client.delete(tallies_key(world.project))
    before = world.steps()
    for _ in range(6):
        world.serve(120)
        said = world.pilot().step()
    assert "not known, so it waits: how the replicas fare" in said
    assert world.steps() == [*before, "waits"], "said once, and nothing else done"
    world.silent = False
    world.until({"shadow": "canary", "canary": "promoted", "probation": "kept"}[phase])


def test_in_probation_failures_of_long_ago_excuse_none_of_today(world: World) -> None:
    world.serve()
    world.counted[1] |= {"ok": 2000, "failed": 1900}  # an outage before there was a challenger
    world.drift()
    world.until("probation")
    world.serve()
    world.counted[2]["failed"] += 60
    world.tell()
    assert "fails more often: 60 of" in world.pilot().step()
    assert (world.steps()[-1], world.live()) == ("rolled back", 1)


def test_an_outage_of_both_versions_ends_no_probation(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    world.counted[1]["failed"] += 40  # in the time just before
    world.until("probation")
    world.serve()
    world.counted[2]["failed"] += 8
    world.until("kept")


def test_tallies_that_are_no_hash_are_not_known(world: World) -> None:
    world.client.set(tallies_key(world.project), b"x")
    with pytest.raises(Unknown, match="no hash of tallies"):
        Counters(world.client, world.project, MODEL).read(time.time_ns() // 1000)


def test_a_restarted_replica_loses_no_fault_and_brings_none(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    world.tell("two")  # a second replica, which had counted the same, and is a new start: all of it is since then
    state = world.pilot().state
    added = since(*(Counters(world.client, world.project, MODEL).read(time.time_ns() // 1000)[0], state.counted or {}))
    assert added["one"][1].answered == 0
    assert added["two"][1].answered == world.counted[1]["ok"]


def test_an_older_state_has_no_counters_and_counts_from_now_on(world: World) -> None:
    world.serve()
    world.drift()
    world.until("canary")
    pilot = world.pilot()
    path = pilot.home / "state.json"
    old = msgspec.json.decode(path.read_bytes())
    del old["counted"], old["as_of_us"]
    path.write_bytes(msgspec.json.encode(old | {"traffic": {"1": {"answered": 5, "failed": 0, "latency": {}}}}))
    assert pilot.state.counted is None
    world.serve()
    pilot.step()
    assert pilot.state.counted is not None
    world.until("promoted")


def test_only_the_server_s_faults_are_counted_as_it_counted(world: World) -> None:
    from serving.telemetry.metrics import LATENCY_MS, Metrics

    counted = Metrics()
    for version, failures in ((1, 0), (2, 3)):
        mine = counted.model(MODEL, version, [])
        for i in range(400):
            mine.ok += 1
            mine.instances += 2
            mine.latency.observe([0.1, 0.1, 0.6 if i % 50 else 4.0])
        for status in (400, 404, 413, 422, 499):  # what the client did
            counted.failed(MODEL, version, status)
        for status in (500, 503, 504)[:failures]:
            counted.failed(MODEL, version, status)
    counted.failed(MODEL, None, 503)
    counted.shadow(MODEL, 3).scored.inc(7)
    counted.shadow(MODEL, 3).failed.inc(2)
    bounds = [float(b) for b in LATENCY_MS]
    tally = Tally("r", 0, time.time_ns() // 1000, bounds, counted.counts())
    for start in ("a", "b"):
        world.client.hset(tallies_key(world.project), start, msgspec.json.encode(tally))
    found, read = Counters(world.client, world.project, MODEL).read(time.time_ns() // 1000)
    one, two, beside = summed(found.values(), 1, read), summed(found.values(), 2, read), summed(found.values(), 3, read, shadow=True)
    assert (one.answered, one.failed, one.instances) == (800, 0, 1600)
    assert (two.answered, two.failed) == (800, 6)
    assert (beside.answered, beside.failed, beside.instances) == (14, 4, 14)
    assert one.p99_ms is not None
    assert 3 < one.p99_ms <= 5
