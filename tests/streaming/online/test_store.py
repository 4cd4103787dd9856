"""The online store, by every way to reach one: what all of them promise, run over each."""

from __future__ import annotations

import asyncio
import subprocess
import time
import zlib
from collections.abc import Iterator
from typing import Any

import pytest

from infra import redis_client
from infra.supervision import redis_server
from serving.features.redis_connection import Connection, Pipelines
from streaming.aggregation.tiles import HEADER_SIZE
from streaming.online import entity_index
from streaming.online.resp import bulk
from streaming.online.store import ForeignKeyError, OnlineStore, Rows, connect
from tests.indexed import indexed
from tests.streaming.test_cluster import PASSWORD, cluster

__all__ = ["cluster"]  # a fixture
pytestmark = pytest.mark.integration
INDEX, TILE, VALUE = "{suite}:keys:v", b"tile", b"value"
HEADERS = [bytes([n]) * HEADER_SIZE for n in (1, 2, 3)]
PART = entity_index.parts(INDEX)[zlib.crc32(b"entity-0") % entity_index.PARTS]
KEYS = [f"entity-{n}".encode() for n in range(2_500)]
"""More than two chunks; of a cluster, on every node."""


@pytest.fixture(scope="module")
def socket_path(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that is reached by a unix socket alone."""
    folder = tmp_path_factory.mktemp("u")
    path = folder / "s"
    argv = [
        str(redis_server.binary()),
        "--port",
        "0",
        "--unixsocket",
        str(path),
        "--save",
        "",
        "--requirepass",
        PASSWORD,
        "--dir",
        str(folder),
    ]
    child = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if path.exists():
                break
            time.sleep(0.05)
        yield f"unix://:{PASSWORD}@{path}?db=1"
    finally:
        child.kill()
        child.wait()


@pytest.fixture(params=["port", "socket", "cluster"])
def url(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue({"port": "redis_url", "socket": "socket_path", "cluster": "cluster"}[request.param])
    return found


@pytest.fixture
def store(url: str) -> Iterator[OnlineStore]:
    client = connect(url)
    yield OnlineStore(client)
    for key in [*KEYS, f"{PART}:broken".encode()]:
        client.delete(key)
    entity_index.delete(client, INDEX)
    client.close()


def rows(header: bytes, keys: list[bytes] = KEYS) -> Rows:
    tiles = [bulk(header + key) for key in keys]
    return Rows(keys, [TILE, VALUE], [tiles, [bulk(key.upper()) for key in keys]])


def test_what_is_put_is_read_in_the_order_that_was_asked(store: OnlineStore) -> None:
    store.put([INDEX], rows(HEADERS[0]))
    assert store.read(KEYS[::-1], VALUE) == [key.upper() for key in KEYS[::-1]]
    assert store.read([b"nobody", KEYS[0]], VALUE) == [None, KEYS[0].upper()]
    assert indexed(store.client, INDEX) == set(KEYS)


def test_of_two_writers_who_read_the_same_one_wins_and_the_other_is_told(store: OnlineStore) -> None:
    some = KEYS[:50]
    assert store.swap([INDEX], rows(HEADERS[0], some), [b""] * 50) == [True] * 50
    assert store.swap([INDEX], rows(HEADERS[1], some), [b""] * 50) == [False] * 50, "it took them for new"
    assert store.swap([INDEX], rows(HEADERS[1], some), [HEADERS[0]] * 50) == [True] * 50
    assert store.swap([INDEX], rows(HEADERS[2], some), [HEADERS[0]] * 50) == [False] * 50
    assert store.read(some, TILE) == [HEADERS[1] + key for key in some]


def test_a_drop_takes_a_views_fields_and_nothing_that_is_still_wanted(store: OnlineStore) -> None:
    store.put([INDEX], rows(HEADERS[0], KEYS[:20]))
    store.put([INDEX], rows(HEADERS[1], KEYS[20:40]))
    store.client.hset(KEYS[0], "other", "stays")
    assert store.drop(INDEX, KEYS[:40], [TILE, VALUE], lambda header: header == HEADERS[1]) == 20
    assert store.read(KEYS[:40], VALUE) == [None] * 20 + [key.upper() for key in KEYS[20:40]]
    assert store.client.hget(KEYS[0], "other") == b"stays"
    assert indexed(store.client, INDEX) == set(KEYS[20:40])


def test_something_else_in_an_entitys_place_is_named_and_in_an_indexs_place_is_put_aside(store: OnlineStore) -> None:
    store.client.set(KEYS[1], "no hash")
    with pytest.raises(ForeignKeyError):
        store.put([INDEX], rows(HEADERS[0], KEYS[:3]))
    store.client.delete(KEYS[1])
    entity_index.delete(store.client, INDEX)
    store.client.set(PART, "no set")
    store.put([INDEX], rows(HEADERS[0], KEYS[:3]))
    assert indexed(store.client, INDEX) == set(KEYS[:3])
    assert store.client.get(f"{PART}:broken") == b"no set"


def test_serving_reads_what_streaming_wrote(store: OnlineStore, url: str) -> None:
    store.put([INDEX], rows(HEADERS[0], KEYS[:200]))

    async def ask() -> list[Any]:
        on_cluster = hasattr(store.client, "nodes_manager")
        client = Pipelines(url, 5.0, cluster=True) if on_cluster else Connection(url, 5.0)
        try:
            return await client.ask([(b"HMGET", key, VALUE, b"absent") for key in KEYS[:200]], 5.0)
        finally:
            await client.close()

    assert [list(reply) for reply in asyncio.run(ask())] == [[key.upper(), None] for key in KEYS[:200]]


def test_its_address_may_travel_without_its_password(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(redis_client.PASSWORD, redis_client.address(url).password or "")
    with connect(redis_client.without_password(url)) as client:
        assert client.ping()
