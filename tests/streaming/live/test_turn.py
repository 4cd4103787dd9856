"""A turn of the streaming query: what it takes, how far it gets, how long it lasts."""

from __future__ import annotations

import pickle
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo.records.redis_keys import applied_key, events_key
from streaming.live import dead_letters, event_log, turn
from streaming.online.store import connect, stream_id
from tests.streaming.world import views

pytestmark = pytest.mark.integration
KEEP_S, TOLERANCE_S = 48 * 3600.0, 300.0


@pytest.fixture
def project(redis_url: str) -> Iterator[str]:
    name = f"t{uuid.uuid4().hex[:10]}"
    yield name
    client = connect(redis_url)
    client.delete(*client.scan_iter(f"*{name}*"), "nothing")


def _put(client: Any, project: str, n: int) -> list[tuple[int, int]]:
    with client.pipeline(transaction=False) as pipe:
        for _ in range(n):
            pipe.xadd(events_key(project), {"source": "nobody's", "data": b"{}"})
        return [stream_id(i) for i in pipe.execute()]


def _ids(batches: list[pa.RecordBatch]) -> list[tuple[int, int]]:
    return [one for b in batches for one in zip(b["ms"].to_pylist(), b["seq"].to_pylist(), strict=True)]


def _run(redis_url: str, project: str, number: int, turns_s: tuple[float, float]) -> tuple[int, float]:
    """How many events a turn merged, and its seconds."""
    began = time.monotonic()
    ticks = iter([pa.RecordBatch.from_pydict({"value": pa.array([number], pa.int64())})])
    common = turn.Turns(redis_url, pickle.dumps(views(project)), KEEP_S, TOLERANCE_S, turns_s=turns_s)
    (told,) = turn.take_turn(ticks, common)
    return told["events"][0].as_py(), time.monotonic() - began


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(there=st.integers(0, 25), after=st.integers(0, 25), limit=st.integers(1, 30), read=st.integers(1, 12))
def test_the_oldest_that_are_not_applied_are_taken_and_no_more(
    redis_url: str, project: str, there: int, after: int, limit: int, read: int
) -> None:
    client = connect(redis_url)
    client.delete(events_key(project), applied_key(project))
    ids = _put(client, project, there)
    done = ids[min(after, there) - 1] if min(after, there) else None
    if done:
        client.hset(applied_key(project), "id", event_log.text(done))
    before, event_log._READ = event_log._READ, read
    try:
        taken = turn.take(client, project, limit)
    finally:
        event_log._READ = before
    assert _ids(taken) == [i for i in ids if done is None or i > done][:limit]


def test_what_comes_during_a_turn_is_merged_in_it_and_the_first_is_short(redis_url: str, project: str) -> None:
    client = connect(redis_url)
    _put(client, project, 3)
    late = threading.Timer(0.4, _put, (client, project, 2))
    late.start()
    events, seconds = _run(redis_url, project, number=4, turns_s=(0.0, 1.2))
    assert (events, seconds >= 1.2) == (5, True)
    late.join()
    last = _put(client, project, 1)[-1]
    events, seconds = _run(redis_url, project, number=0, turns_s=(0.0, 60.0))
    assert (events, seconds < 30) == (1, True)
    assert stream_id(client.hget(applied_key(project), "id") or b"") == last  # type: ignore[arg-type]
    assert client.hget(applied_key(project), "events") == b"6"


def test_a_redis_that_lost_its_last_second_is_followed(redis_url: str, project: str) -> None:
    """A turn that remembered where it was would pass over what Redis has forgotten."""
    client = connect(redis_url)
    ids = _put(client, project, 5)

    def lose() -> None:
        client.hset(applied_key(project), mapping={"id": event_log.text(ids[1]), "events": 2})

    losing = threading.Timer(0.5, lose)
    losing.start()
    events, _ = _run(redis_url, project, number=1, turns_s=(0.0, 1.5))
    losing.join()
    assert events == 5 + 3
    assert stream_id(client.hget(applied_key(project), "id") or b"") == ids[-1]  # type: ignore[arg-type]


def test_the_tasks_of_a_turn_read_all_each_and_count_every_event_once(redis_url: str, project: str) -> None:
    client, said = connect(redis_url), {}
    last = _put(client, project, 30)[-1]
    common = turn.Turns(redis_url, pickle.dumps(views(project)), KEEP_S, TOLERANCE_S, tasks=3, run="r", turns_s=(0.0, 0.4))

    def work(number: int) -> None:
        ticks = iter([pa.RecordBatch.from_pydict({"value": pa.array([number], pa.int64())})])
        (told,) = turn.take_turn(ticks, common)
        said[number] = told["events"][0].as_py()

    threads = [threading.Thread(target=work, args=(number,)) for number in (6, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said == {6: 30, 7: 30, 8: 30}
    assert stream_id(client.hget(applied_key(project), "id") or b"") == last  # type: ignore[arg-type]
    assert client.hget(applied_key(project), "events") == b"30"
    assert dead_letters.count(client, project) == 30, "each was refused by one"
