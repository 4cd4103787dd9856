"""An address, a user and a password mean the same in every room, and no secret travels where it need not."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import redis
import yaml
from hypothesis import given
from hypothesis import strategies as st
from redis import exceptions

from infra import redis_client
from infra.settings import ROOT, Settings
from infra.supervision import redis_server
from infra.supervision.process import ServiceError
from serving.features.redis_connection import Connection
from streaming.online.store import OnlineStoreError, connect

PASSWORD, ALLOWED = "p@ss:w/rd#1,=$ ü", "12345"
RULES = ["on", f">{ALLOWED}", "~*", "&*", "+@all", "-@admin", "-@dangerous", "+info"]
"""What an ACL user of Headrace's needs: docs/howto/own-redis.md."""

NO_SEVERAL = [
    "redis+sentinel://:hunter2@h",
    "redis+cluster://:hunter2@h/1",
    "redis+else://hunter2",
    "redis+cluster://:hunter2@a,,b",
    "+://",
]
secrets = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=20)


@pytest.fixture(autouse=True)
def without_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(redis_client.PASSWORD, raising=False)
    monkeypatch.delenv(redis_client.USER, raising=False)


def url(user: str, password: str, scheme: str = "redis") -> str:
    where = "/run/r.sock?db=3" if scheme == "unix" else "example.org:6380/3"
    return f"{scheme}://{quote(user, safe='')}:{quote(password, safe='')}@{where}"


def feasts(url: str) -> dict[str, Any]:
    """What stock Feast makes of the connection string, having read it from its YAML."""
    from feast.infra.online_stores.redis import RedisOnlineStore

    said = yaml.safe_load(f"online_store:\n  connection_string: {redis_client.for_feast(url)}\n")
    nodes, params = RedisOnlineStore._parse_connection_string(said["online_store"]["connection_string"])
    assert len(nodes) == 1
    return nodes[0] | params


@given(user=secrets, password=secrets, scheme=st.sampled_from(["redis", "rediss", "unix"]))
def test_every_reader_of_an_address_finds_the_same_user_and_password(user: str, password: str, scheme: str) -> None:
    address = url(user, password, scheme)
    found = redis_client.address(address)
    assert (found.user, found.password, found.db, found.tls) == (user, password, 3, scheme == "rediss")
    for client in (redis_client.client(address), redis_client.asynchronous(address)):
        used = client.connection_pool.connection_kwargs
        assert (used["username"], used["password"], used["db"]) == (user, password, 3)
        assert used.get("path") == ("/run/r.sock" if scheme == "unix" else None)
    feast = feasts(address)
    assert (feast["username"], feast["password"], feast["db"]) == (user, password, 3)
    assert feast.get("ssl", False) == (scheme == "rediss")
    assert feast.get("unix_socket_path") == ("/run/r.sock" if scheme == "unix" else None)


several = st.sampled_from(["redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"])


@given(user=secrets, password=secrets, scheme=several, names=st.lists(st.sampled_from(["a", "b.example", "[::1]"]), min_size=1, max_size=3))
def test_every_server_that_an_address_names_is_known(user: str, password: str, scheme: str, names: list[str]) -> None:
    who = f"{quote(user, safe='')}:{quote(password, safe='')}@"
    sentinel = scheme.endswith("sentinel")
    hosts = ",".join(f"{name}:{7000 + i}" if i else name for i, name in enumerate(names))
    found = redis_client.address(f"{scheme}://{who}{hosts}{'/my%2Fshelves/3' if sentinel else ''}")
    first = 26379 if sentinel else 6379
    assert found.nodes == tuple((name.strip("[]"), 7000 + i if i else first) for i, name in enumerate(names))
    assert (found.user, found.password, found.tls) == (user, password, scheme.startswith("rediss"))
    assert (found.kind, found.service, found.db) == (("sentinel", "my/shelves", 3) if sentinel else ("cluster", "", 0))
    hidden = redis_client.without_password(f"{scheme}://u:hunter2@{hosts}{'/s/3' if sentinel else ''}")
    assert "hunter2" not in hidden
    assert redis_client.address(hidden).nodes == found.nodes


@given(
    user=st.text("ABC:@/%", min_size=1),
    password=st.text("abcdefgh", min_size=12, max_size=12),
    scheme=st.sampled_from(["redis", "rediss", "unix"]),
)
def test_what_travels_to_workers_has_the_user_and_no_password(user: str, password: str, scheme: str) -> None:
    for address in (url(user, password, scheme), url(user, "", scheme) + f"{'&' if scheme == 'unix' else '?'}password={password}"):
        travelling = redis_client.without_password(address)
        assert password not in travelling
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(redis_client.PASSWORD, password)
            assert redis_client.address(travelling) == redis_client.address(address)


def test_the_environment_says_what_the_url_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(redis_client.USER, "from-env")
    monkeypatch.setenv(redis_client.PASSWORD, "secret-env")
    for address, who in [
        ("redis://h/0", ("from-env", "secret-env")),
        ("redis://app@h/0", ("app", "secret-env")),
        ("redis://:own@h/0", ("from-env", "own")),
        ("redis://app:own@h/0", ("app", "own")),
    ]:
        found = redis_client.address(address)
        assert (found.user, found.password) == who
        used = redis_client.client(address).connection_pool.connection_kwargs
        assert (used["username"], used["password"]) == who
        feast = feasts(address)
        assert (feast["username"], feast["password"]) == who


@pytest.mark.parametrize(
    "address", ["http://h", "", "redis://:hunter2/x@h:1/0", "redis://:hunter2@h:x/0", "redis://h/0?db=hunter2", *NO_SEVERAL]
)
def test_what_is_no_address_is_refused_without_repeating_it(address: str) -> None:
    with pytest.raises(ValueError, match="HEADRACE_REDIS_URL") as caught:
        redis_client.address(address)
    assert "hunter2" not in str(caught.value)


def test_no_room_makes_a_client_of_its_own() -> None:
    """`redis.Redis(...)`, `from_url` and their like are called in the factory only."""
    kinds = {"Redis", "RedisCluster", "StrictRedis", "Sentinel", "from_url"}
    found = []
    for room in ("infra", "feature_repo", "streaming", "training", "serving"):
        for path in (ROOT / room).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in kinds:
                    found.append(path.relative_to(ROOT).as_posix())
    assert set(found) == {"infra/redis_client.py"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis with a password and an ACL user `app`, on a port and a unix socket: `host:port`, with the socket at `<folder>/s`."""
    import socket

    folder = tmp_path_factory.mktemp("guarded")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number = probe.getsockname()[1]
    options = {"port": str(number), "bind": "127.0.0.1", "dir": str(folder), "save": "", "unixsocket": "s", "requirepass": PASSWORD}
    argv = [str(redis_server.binary()), *(part for name, value in options.items() for part in (f"--{name}", value))]
    child = subprocess.Popen(argv, cwd=folder, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=number, password=PASSWORD) as client:
            for _ in range(200):
                try:
                    client.execute_command("ACL", "SETUSER", "app", *RULES)
                    break
                except redis.ConnectionError:
                    time.sleep(0.05)
        yield f"127.0.0.1:{number}{folder}/s"
    finally:
        child.kill()
        child.wait()


def addresses(guarded: str) -> list[tuple[str, dict[str, str]]]:
    """Every way to say where it is and who asks: URL, environment."""
    place, _, path = guarded.partition("/")
    quoted = quote(PASSWORD, safe="")
    return [
        (f"redis://:{quoted}@{place}/1", {}),
        (f"redis://{place}/1", {redis_client.PASSWORD: PASSWORD}),
        (f"redis://app:{ALLOWED}@{place}/1", {}),
        (f"redis://app@{place}/1", {redis_client.PASSWORD: ALLOWED}),
        (f"redis://{place}/1", {redis_client.USER: "app", redis_client.PASSWORD: ALLOWED}),
        (f"unix://app:{ALLOWED}@/{path}?db=1", {}),
        (f"unix:///{path}?db=1", {redis_client.PASSWORD: PASSWORD}),
    ]


async def _raw(address: str) -> Any:
    connection = Connection(address, 5.0)
    try:
        return (await connection.ask([(b"GET", b"k")], 5.0))[0]
    finally:
        await connection.close()


async def _asynchronous(address: str) -> Any:
    async with redis_client.asynchronous(address) as client:
        return await client.get("k")


@pytest.mark.integration
def test_every_way_in_opens_with_a_password_and_as_an_acl_user(guarded: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig

    for address, environment in addresses(guarded):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            with connect(address) as client:
                client.set("k", "1")
            assert asyncio.run(_raw(address)) == asyncio.run(_asynchronous(address)) == b"1", address
            redis_server.up(Settings(state=tmp_path, redis_url=address))
            feast = RedisOnlineStore()._get_client(RedisOnlineStoreConfig(connection_string=redis_client.for_feast(address)))
            assert feast.get("k") == b"1", address


@pytest.mark.integration
def test_a_refused_password_is_the_cause_that_is_said(guarded: str, tmp_path: Path) -> None:
    place = guarded.partition("/")[0]
    for address in (f"redis://{place}/0", f"redis://:hunter2@{place}/0", f"redis://app:hunter2@{place}/0"):
        with pytest.raises(OnlineStoreError, match="refuses user or password") as caught:
            connect(address)
        assert "hunter2" not in str(caught.value)
        with pytest.raises(ServiceError, match="refuses user or password"):
            redis_server.up(Settings(state=tmp_path, redis_url=address))
        with pytest.raises(ConnectionRefusedError, match="Redis refuses"):
            asyncio.run(_raw(address.replace("/0", "/1")))


def test_what_redis_refuses_is_said_in_its_own_words_and_no_more() -> None:
    script = "WRONGTYPE Operation against a key holding the wrong kind of value script: 0a1b, on @user_script:4."
    said = "refuses: WRONGTYPE Operation against a key holding the wrong kind of value"
    assert redis_client.says(exceptions.ResponseError(script)) == said
    piped = f"Command # 1 (XADD k data {'x' * 9000}) of pipeline caused error: {script}"
    assert redis_client.says(exceptions.ResponseError(piped)) == said
    assert (
        redis_client.says(exceptions.BusyLoadingError("LOADING Redis is loading\nthe dataset"))
        == "refuses: LOADING Redis is loading the dataset"
    )
    assert len(redis_client.says(exceptions.ResponseError("x" * 9000))) < 400
    for error in (exceptions.ConnectionError("refused"), exceptions.TimeoutError(), OSError(), TimeoutError()):
        assert redis_client.says(error) == "does not answer"
    assert redis_client.cause(exceptions.ResponseError("OOM command not allowed")) == "Redis refuses: OOM command not allowed"


def test_a_key_that_is_something_else_is_named_and_one_that_is_not_there_is_none_of_these() -> None:
    kinds = {"a": "hash", "b": "stream", "c": "string"}
    assert redis_client.misplaced(kinds, [b"hash", b"none", b"string"]) == ""
    assert redis_client.misplaced(kinds, [b"hash", b"list", b"set"]) == "b is a list and not a stream: rename or remove it"
