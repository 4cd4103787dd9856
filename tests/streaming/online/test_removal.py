"""A removed view takes its own fields with it and nothing else."""

from __future__ import annotations

import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from feature_repo.records.redis_keys import keys_key, view_key
from streaming.live.sink import apply_batch
from streaming.online import entity_index, feast_layout
from streaming.online.entities import key_function, view_fields
from streaming.online.removal import remove
from streaming.online.store import OnlineStore, connect
from streaming.online.unfilled import unfilled_views
from tests.streaming.test_survival import batch
from tests.streaming.world import views


def rows(n: int) -> list[bytes]:
    return [b'{"user": %d, "kind": "a", "at": "2020-09-13T00:00:00Z", "x": 1.5, "label": "l"}' % i for i in range(n)]


@pytest.fixture
def name() -> str:
    return f"prod{uuid.uuid4().hex[:8]}"


def dump(client: Any) -> dict[bytes, Any]:
    return {k: client.hgetall(k) for k in client.scan_iter(count=10_000) if client.type(k) == b"hash"}


@pytest.mark.parametrize("killed", [False, True])
def test_only_the_views_own_fields_go(redis_url: str, name: str, killed: bool) -> None:
    client = connect(redis_url.replace("/0", "/7"))
    client.flushdb()
    for project in (name, f"pre{name}"):  # ends alike
        apply_batch(views(project), OnlineStore(client), batch(rows(2_500), 1_000))
    latest = views(name)[0]
    encode = key_function(latest)
    client.hset(encode([3]), b"_ts:somebody_elses", b"kept")
    client.hset(view_key(name, "latest"), "rows", 1)
    before = dump(client)
    if killed:  # some entities are done already, as after a kill

        class Stop(Exception):
            pass

        def stop(_: int) -> None:
            raise Stop

        with pytest.raises(Stop):
            remove(client, latest, told=stop)
        assert 0 < entity_index.count(client, keys_key(name, "latest"))[0] < 2_500
    done = remove(client, latest)
    assert killed or (done.entities, done.keys) == (2_500, 2_499)
    after = dump(client)
    own = {encode([i]) for i in range(2_500)}
    assert after.pop(encode([3])) == {b"_ts:somebody_elses": b"kept"}
    expected = {k: v for k, v in before.items() if k not in own and k != view_key(name, "latest").encode()}
    assert after == expected
    assert not entity_index.count(client, keys_key(name, "latest"))[0]
    assert entity_index.count(client, keys_key(name, "windows"))[0] == 2_500
    assert entity_index.count(client, keys_key(f"pre{name}", "latest"))[0] == 2_500
    client.flushdb()


def test_what_only_stock_feast_wrote_is_found_by_decoding_every_key(redis_url: str, name: str) -> None:
    client = connect(redis_url.replace("/0", "/7"))
    client.flushdb()
    latest = views(name)[0]
    fields = dict.fromkeys(view_fields(latest)[1:], b"x")  # stock Feast has no tile field
    own, alike = key_function(latest)([5]), feast_layout.key_encoder(f"pre{name}", [("user", "int64")])([5])
    other = feast_layout.key_encoder(name, [("users", "int64")])([5])
    for key in (own, alike, other):
        client.hset(key, mapping=fields)
    client.set("something", "else")
    assert remove(client, latest).entities == 0
    assert remove(client, latest, scan=True).entities == 1
    assert not client.exists(own)
    assert client.hgetall(alike) == client.hgetall(other) == fields
    assert client.get("something") == b"else"
    client.flushdb()


def test_a_key_is_matched_by_what_it_says() -> None:
    matches = feast_layout.key_matcher("prod", [("user", "int64"), ("kind", "string")])
    key = feast_layout.key_encoder("prod", [("kind", "string"), ("user", "int64")])
    assert matches(key(["a", 1]))
    assert matches(key(["prod", 1]))
    assert not matches(feast_layout.key_encoder("preprod", [("kind", "string"), ("user", "int64")])(["a", 1]))
    assert not matches(feast_layout.key_encoder("prod", [("kind", "string"), ("user", "int32")])(["a", 1]))
    assert not matches(feast_layout.key_encoder("prod", [("user", "int64")])([1]))
    assert not matches(key(["a", 1])[:-5])
    assert not matches(b"")


def test_a_removal_that_was_killed_leaves_a_view_of_which_something_is_lost(redis_url: str, name: str, tmp_path: Path) -> None:
    """Where its definition comes back before the removal is gone on with, its windows must not pass for whole."""
    client = connect(redis_url.replace("/0", "/7"))
    client.flushdb()
    view = replace(views(name)[1], path=str(tmp_path / "table"))
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "part-0.parquet").touch()
    apply_batch([view], OnlineStore(client), batch(rows(2_500), 1_000))
    client.hset(view_key(name, view.name), "seam_us", 1)
    assert unfilled_views(client, [view], tmp_path) == []

    def killed(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remove(client, view, told=killed)
    assert entity_index.count(client, keys_key(name, view.name))[0] > 0
    assert unfilled_views(client, [view], tmp_path) == [view.name]


def test_something_else_in_the_place_of_a_backfills_word_is_none_and_a_refusal_says_nothing(
    redis_url: str, name: str, tmp_path: Path
) -> None:
    client = connect(redis_url.replace("/0", "/7"))
    view = replace(views(name)[1], path=str(tmp_path / "table"))
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "part-0.parquet").touch()
    client.set(view_key(name, view.name), "no hash")
    assert unfilled_views(client, [view], tmp_path) == [view.name]
    client.acl_setuser("reads-nothing", enabled=True, nopass=True, categories=["+@all"], commands=["-hexists"], keys=["*"])
    try:
        known = client.connection_pool.connection_kwargs
        with (
            redis.Redis(host=known["host"], port=known["port"], db=7, username="reads-nothing", password="any") as other,
            pytest.raises(redis.exceptions.NoPermissionError),
        ):
            unfilled_views(other, [view], tmp_path)
    finally:
        client.acl_deluser("reads-nothing")
