"""Several tasks, each with its share: the whole is as far as the last of them, whoever is slow, dies, or wakes up late."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from feature_repo.records.redis_keys import applied_key, events_key, refused_key, run_key
from streaming.live import dead_letters, event_log
from streaming.live.progress import newest_field, reached
from streaming.live.share import WHOLE, Share
from streaming.live.sink import apply_batch, merge
from streaming.live.turn import take
from streaming.online.store import OnlineStore, OnlineStoreError, connect
from streaming.schema.feature_view import View
from tests.oracle.hostile import POISON, good, views
from tests.streaming.live.test_hostile import counts

pytestmark = pytest.mark.integration
KEEP_S = 48 * 3600.0


@pytest.fixture
def project() -> str:
    return f"p{uuid.uuid4().hex[:10]}"


@pytest.fixture
def client(redis_url: str, project: str) -> Iterator[Any]:
    made = connect(redis_url)
    yield made
    made.delete(*made.scan_iter(f"*{project}*"), "nothing")
    made.close()


def put(client: Any, project: str, rows: list[bytes], first: int = 1) -> None:
    for i, raw in enumerate(rows):
        client.xadd(events_key(project), {"source": "things", "data": raw}, id=f"{first + i}-0")


def event(number: int, **changes: Any) -> bytes:
    return json.dumps(good(number, at="2023-11-14T21:00:00Z", **changes)).encode()


def work(client: Any, compiled: list[View], share: Share, limit: int = 1_000) -> int:
    """What a task does with one batch."""
    return merge(client, compiled, take(client, compiled[0].project, limit, share), KEEP_S, share=share)


def progress(client: Any, project: str) -> tuple[bytes | None, bytes | None]:
    return tuple(client.hmget(applied_key(project), "id", "events"))  # type: ignore[return-value]


def test_the_whole_is_as_far_as_the_task_that_is_furthest_behind(client: Any, project: str) -> None:
    compiled = views(project)
    put(client, project, [event(n % 9) for n in range(30)])
    first, slow, last = (Share(task, 3, "r") for task in range(3))
    assert work(client, compiled, first) == 30
    assert work(client, compiled, first) == 0, "it has read them all"
    assert work(client, compiled, last, 20) == 20
    assert progress(client, project) == (None, None), "one has not begun"
    assert work(client, compiled, slow, 12) == 12
    assert progress(client, project) == (b"12-0", b"12")
    work(client, compiled, slow)
    assert progress(client, project) == (b"20-0", b"20")
    work(client, compiled, last)
    assert progress(client, project) == (b"30-0", b"30")
    assert int(client.hget(applied_key(project), newest_field("windows"))) == 1_699_995_600_000_000
    assert [counts(client, compiled[1], n) for n in range(9)] == [4, 4, 4, 3, 3, 3, 3, 3, 3]


def test_a_task_that_dies_is_done_again_and_the_others_go_on(client: Any, project: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from streaming.live import sink

    compiled = views(project)
    put(client, project, [event(n % 9) for n in range(30)])
    good_one, dies = Share(0, 2, "r"), Share(1, 2, "r")

    def dying(*_: Any) -> None:
        raise OnlineStoreError("killed after it has applied, before it notes")

    with monkeypatch.context() as patch:
        patch.setattr(sink, "commit", dying)
        with pytest.raises(OnlineStoreError):
            work(client, compiled, dies)
    work(client, compiled, good_one)
    put(client, project, [event(n % 9) for n in range(30, 36)], 31)
    work(client, compiled, good_one)
    assert reached(client, project, good_one) == (36, 0)
    assert progress(client, project) == (None, None)
    # with it the query: the next run begins where the whole is, with another number of tasks
    for task in (2, 0, 1):
        work(client, compiled, Share(task, 3, "next"))
    assert progress(client, project) == (b"36-0", b"36")
    assert [counts(client, compiled[1], n) for n in range(9)] == [4] * 9


def test_a_task_of_an_older_run_that_wakes_up_harms_nobody(client: Any, project: str) -> None:
    compiled = views(project)
    put(client, project, [event(n % 9) for n in range(30)])
    asleep = Share(0, 2, "old")
    held = take(client, project, 10, asleep)
    work(client, compiled, Share(1, 2, "old"), 5)
    for task in range(4):
        work(client, compiled, Share(task, 4, "new"))
    assert progress(client, project) == (b"30-0", b"30")
    merge(client, compiled, held, KEEP_S, share=asleep)
    assert progress(client, project) == (b"30-0", b"30"), "neither back, nor counted twice"
    assert reached(client, project, Share(2, 4, "new")) == (30, 0)
    assert reached(client, project, asleep) == (30, 0), "it goes on where the whole is"
    assert [counts(client, compiled[1], n) for n in range(9)] == [4, 4, 4, 3, 3, 3, 3, 3, 3]
    work(client, compiled, WHOLE)
    assert progress(client, project) == (b"30-0", b"30")


def test_notes_that_are_lost_or_broken_are_made_again(client: Any, project: str) -> None:
    compiled = views(project)
    put(client, project, [event(n % 9) for n in range(12)])
    shares = [Share(task, 2, "r") for task in range(2)]
    for share in shares:
        work(client, compiled, share)
    client.hset(run_key(project, "r"), mapping={"0": b"\xff 7", "counted": "much"})
    put(client, project, [event(n % 9) for n in range(12, 18)], 13)
    for share in shares:
        work(client, compiled, share)
    assert client.hget(applied_key(project), "id") == b"18-0"
    client.delete(run_key(project, "r"))
    put(client, project, [event(1)], 19)
    for share in shares:
        assert work(client, compiled, share) == 1
    assert client.hget(applied_key(project), "id") == b"19-0"
    assert [counts(client, compiled[1], n) for n in range(9)] == [2, 3, *[2] * 7]
    assert client.ttl(run_key(project, "r")) > 0, "a run that is over leaves nothing for ever"


def test_an_event_that_two_tasks_refuse_is_one_letter_as_if_one_had(client: Any, project: str) -> None:
    compiled, alone = views(project), views(f"{project}a")
    rows = [event(1), *POISON.values(), *(event(n, known="no moment") for n in range(20)), event(2)]
    put(client, project, rows)
    put(client, alone[0].project, rows)
    client.xadd(events_key(project), {"source": "nobody's", "data": b"{}"}, id="900-0")
    client.xadd(events_key(alone[0].project), {"source": "nobody's", "data": b"{}"}, id="900-0")
    work(client, alone, WHOLE)
    shares = [Share(task, 8, "r") for task in range(8)]
    for share in shares[:-1]:
        work(client, compiled, share)
    assert dead_letters.count(client, project) == 0, "one task has not looked yet"
    early = dead_letters.set_aside(client, project, (0, 0), (900, 0))
    work(client, compiled, shares[-1])

    def letters(of: str) -> list[Any]:
        return [(one.position, one.source, one.data, set(one.why)) for one in dead_letters.read(client, of)]

    assert letters(project) == letters(alone[0].project) != []
    assert not client.exists(refused_key(project))
    aside = dead_letters.set_aside(client, project, (0, 0), (900, 0))
    assert aside == dead_letters.set_aside(client, alone[0].project, (0, 0), (900, 0))
    assert early
    assert all(views_ <= aside[position] for position, views_ in early.items()), "and was set aside from the moment it was refused"


def test_a_refusal_that_was_held_back_when_all_died_is_a_letter_and_never_applied(client: Any, project: str) -> None:
    compiled = views(project)
    ahead = event(1, known="2023-11-14T22:30:00Z")
    put(client, project, [ahead, event(1), b"{"])
    table = next(event_log.entries(client, events_key(project), "0-0", "+"))
    import pyarrow as pa

    for task in range(2):  # the clock stood before it, then they died
        apply_batch(compiled, OnlineStore(client), pa.Table.from_batches([table]), now_us=1_700_000_000_000_000, share=Share(task, 2, "r"))
    assert dead_letters.count(client, project) == 0
    work(client, compiled, WHOLE)
    assert [(one.position, set(one.why)) for one in dead_letters.read(client, project)] == [
        ((1, 0), {"latest", "windows"}),
        ((3, 0), {"latest", "windows"}),
    ]
    assert counts(client, compiled[1], 1) == 1
    assert not client.exists(refused_key(project))
