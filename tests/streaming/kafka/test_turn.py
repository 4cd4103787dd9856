"""Kafka, read directly, against a real broker: every event counts once, whatever is killed, and no partition is read ahead of another."""

from __future__ import annotations

import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from feature_repo.records.redis_keys import applied_kafka_key, cuts_key, events_key, kafka_key
from streaming.aggregation.windows import DAY, HOUR
from streaming.kafka import cuts
from streaming.kafka.client import KafkaError, Topics
from streaming.kafka.kafka_log import KafkaLog, log_of
from streaming.kafka.put_back import replay
from streaming.kafka.reader import Reader, in_order, ranges_of, read
from streaming.kafka.turn import Follower
from streaming.live import dead_letters
from streaming.live.event_log import StreamLog
from streaming.live.sink import apply_batch
from streaming.online.store import OnlineStore, connect
from tests.streaming.live.test_hostile import batch
from tests.streaming.world import START, World, views

pytestmark = pytest.mark.integration
END = START + 4 * DAY


@pytest.fixture
def project(redis_url: str) -> Iterator[str]:
    name = f"k{uuid.uuid4().hex[:10]}"
    yield name
    client = connect(redis_url)
    client.delete(*client.scan_iter(f"*{name}*"), "nothing")


@pytest.fixture
def topics(kafka: Any, project: str) -> Topics:
    """A topic of two partitions for the push source `things`."""
    kafka.make(project, 2)
    return Topics({"bootstrap.servers": kafka.address}, {"things": project})


def rows_of(world: World) -> dict[int, list[tuple[int, bytes]]]:
    """By user, each row and the millisecond in which it became known."""
    found: dict[int, list[tuple[int, bytes]]] = {}
    known = world.table["known"].cast("int64").to_pylist()
    for user, us, data in zip(world.table["user"].to_pylist(), known, world.rows_known(0, 2**60), strict=True):
        found.setdefault(user, []).append((us // 1000, data))
    return found


def put(kafka: Any, topic: str, rows: list[tuple[int, bytes]], partition: int) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": kafka.address, "enable.idempotence": True})
    for at_ms, data in rows:
        producer.produce(topic, data, partition=partition, timestamp=at_ms)
        producer.poll(0)
    assert not producer.flush(60)


def drain(follower: Follower) -> int:
    """Steps until nothing is left; how many events this was."""
    total, idle = 0, 0
    while idle < 3:
        done = follower.step()
        total, idle = total + done, 0 if done else idle + 1
    return total


def test_every_event_counts_once_whatever_is_killed(kafka: Any, redis_url: str, project: str, topics: Topics) -> None:
    """The process that applies is killed again and again, the broker once, and the topic gets a third partition meanwhile."""
    world, client = World(1500, 60, seed=3), connect(redis_url)
    by_user = rows_of(world)
    command = [sys.executable, "-m", "tests.streaming.kafka.follow", redis_url, project, kafka.address, project, "90"]

    def share(number: int, parts: int) -> list[tuple[int, bytes]]:
        return sorted(row for user, rows in by_user.items() if user % parts == number for row in rows)

    for number in (0, 1):
        put(kafka, project, share(number, 3), number)
    for kill in range(3):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            before = cuts.applied(client, project)
            deadline = time.monotonic() + 30
            while cuts.applied(client, project) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            assert cuts.applied(client, project) > before, "it moves on"
            if kill == 1:
                kafka.kill()
                time.sleep(0.5)
                kafka.start()
                kafka.make(project, 3)
                put(kafka, project, share(2, 3), 2)
            process.kill()
    follower = Follower(client, views(project), topics, limit=400)
    drain(follower)
    time.sleep(1.1)
    follower.step()
    follower.close()
    assert client.hget(applied_kafka_key(project), "waiting") == b"0"
    assert sum(upto for upto in cuts.place(client, project).at.values()) == 1500
    for view in views(project):
        world.check(client, view, END, END, entities=60)
    assert dead_letters.count(client, project) == 0


def test_a_cut_that_was_not_applied_is_applied_as_it_was_cut(kafka: Any, redis_url: str, project: str, topics: Topics) -> None:
    world, client = World(300, 10), connect(redis_url)
    rows = sorted(row for some in rows_of(world).values() for row in some)
    put(kafka, project, rows[:200], 0)
    reader = Reader(topics, {})
    before, records = dict(reader.at), []
    while not records:
        records = reader.take(80)
    reader.close()
    number = cuts.write(client, project, 0, ranges_of(records, before))
    assert number is not None
    # of what was cut some had been applied before the end
    half = next(KafkaLog(project, topics).read(client, (0, 0), (number, cuts.LAST_SEQ))).slice(0, 30)
    import pyarrow as pa

    apply_batch(views(project), OnlineStore(client), pa.Table.from_batches([half]))
    put(kafka, project, rows[200:], 0)
    follower = Follower(client, views(project), topics)
    assert follower.step() == 80
    assert drain(follower) == 220
    follower.close()
    for view in views(project):
        world.check(client, view, END, END, entities=10)


def test_a_partition_that_lags_is_waited_for(kafka: Any, project: str, topics: Topics) -> None:
    """What is taken is in order of time over all partitions, however much of one of them lies there; and it is the same when read again."""
    rows = [(1_600_000_000_000 + i, b"%d" % i) for i in range(3000)]
    put(kafka, project, [row for i, row in enumerate(rows) if i % 3], 0)
    put(kafka, project, [row for i, row in enumerate(rows) if not i % 3], 1)
    reader = Reader(topics, {})
    taken, steps = [], 0
    while len(taken) < len(rows):
        before = dict(reader.at)
        some = reader.take(200)
        assert len(some) <= 200, "back-pressure"
        if some:
            ranges = ranges_of(some, before)
            assert in_order(read(topics.options, ranges)) == some
        taken += some
        steps += 1
    reader.close()
    assert [record.value for record in taken] == [data for _, data in rows]


def test_a_redis_that_lost_its_last_second_is_followed(kafka: Any, redis_url: str, project: str, topics: Topics) -> None:
    world, client = World(400, 10), connect(redis_url)
    rows = sorted(row for some in rows_of(world).values() for row in some)
    put(kafka, project, rows[:200], 0)
    follower = Follower(client, views(project), topics, limit=50)
    drain(follower)
    kept = {key: client.dump(key) for key in client.scan_iter(f"*{project}*")}
    put(kafka, project, rows[200:], 0)
    assert follower.step() == 50
    for key in list(client.scan_iter(f"*{project}*")):
        client.delete(key)
    for key, dumped in kept.items():
        client.restore(key, 0, dumped)
    assert drain(follower) == 200
    follower.close()
    for view in views(project):
        world.check(client, view, END, END, entities=10)


def test_a_source_is_read_from_one_place_and_says_so(kafka: Any, redis_url: str, project: str, topics: Topics) -> None:
    """What was pushed all the same is rejected with the reason, and goes to the topic when it is put back."""
    client, (view, _) = connect(redis_url), views(project)
    assert isinstance(log_of(client, view, None), StreamLog)
    cuts.claim(client, project, ["things"])
    assert isinstance(log_of(client, view, topics), KafkaLog)
    with pytest.raises(KafkaError, match="set HEADRACE_KAFKA here"):
        log_of(client, view, None)
    row = next(World(10, 3).rows_known(0, 2**60))
    other = view.__class__(**{**{n: getattr(view, n) for n in view.__dataclass_fields__}, "stream": "others"})
    apply_batch([other], OnlineStore(client), batch([row]))
    (letter,) = dead_letters.read(client, project)
    assert "is read from Kafka" in letter.why[""]
    with pytest.raises(KafkaError, match="set HEADRACE_KAFKA here"):
        replay(client, project, None)
    assert replay(client, project, topics) == 1
    assert dead_letters.count(client, project) == 0
    follower = Follower(client, views(project), topics)
    assert drain(follower) == 1
    follower.close()
    assert not client.exists(events_key(project))


def test_a_dead_letter_is_put_back_for_the_view_that_refused_it(kafka: Any, redis_url: str, project: str, topics: Topics) -> None:
    client, both = connect(redis_url), views(project)
    row = msgspec.json.decode(next(World(10, 3).rows_known(0, 2**60)))
    del row["kind"]  # a null key is no reason: what is no text is
    row["kind"] = [1]
    cuts.claim(client, project, ["things"])
    kafka.put(project, [msgspec.json.encode(row), None, b"\xff"])
    follower = Follower(client, both, topics)
    assert drain(follower) == 2, "a record without a value says nothing"
    said = list(dead_letters.read(client, project))
    assert [sorted("".join(one.why).split(",")) for one in said] == [["windows"], ["latest", "windows"]] or len(said) == 2
    assert replay(client, project, topics) == 2
    assert drain(follower) == 2
    assert dead_letters.count(client, project) == 2, "the reason is not gone"
    follower.close()
    log = KafkaLog(project, topics)
    assert sum(len(b) for b in log.read(client, (0, 0), log.last(client))) == 4


def test_what_cannot_be_read_is_said_with_what_to_do(kafka: Any, redis_url: str, project: str, topics: Topics) -> None:
    client = connect(redis_url)
    missing = Topics(topics.options, {"things": f"{project}-none"})
    with pytest.raises(KafkaError, match="HEADRACE_KAFKA_TOPICS"):
        Follower(client, views(project), missing).step()
    kafka.put(project, [b"{}"])
    client.hset(kafka_key(project), f"at:{project}-0", 7)  # as where a topic was made anew
    follower = Follower(client, views(project), topics)
    with pytest.raises(KafkaError, match=f"remove field at:{project}-0"):
        drain(follower)
    client.hset(kafka_key(project), f"at:{project}-0", "many")
    with pytest.raises(KafkaError, match="is no number"):
        follower.step()
    client.delete(kafka_key(project))
    follower.close()
    assert drain(follower) == 1
    client.delete(cuts_key(project))
    client.hset(applied_kafka_key(project), "id", "0-0")
    with pytest.raises(KafkaError, match="is gone from Redis"):
        follower.step()


def test_cuts_are_kept_as_long_as_events_are(kafka: Any, redis_url: str, project: str, topics: Topics) -> None:
    client = connect(redis_url)
    follower = Follower(client, views(project), topics, keep_s=HOUR / 1e6)
    for _ in range(3):
        kafka.put(project, [b"{}"])
        drain(follower)
    assert client.xlen(cuts_key(project)) == 3
    brief = Follower(client, views(project), topics, keep_s=0.0)
    kafka.put(project, [b"{}"])
    drain(brief)
    assert client.xlen(cuts_key(project)) <= 1
    cuts.forget(client, project)
    assert drain(brief) == 0, "a rewind does not read anew"
    for one in (follower, brief):
        one.close()
