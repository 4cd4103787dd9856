"""The one way to a Redis client: every room opens its connections here, so that an address, a user and a password mean the same everywhere.

Addresses: `redis://[user[:password]@]host[:port][/db]`, `rediss://…` (TLS; redis-py's `ssl_…` options in the query) and
`unix://[user[:password]@]/path[?db=n]`. Of several servers: `redis+sentinel://[user[:password]@]host[:port],…/service[/db]` (the hosts are
the Sentinels, who know which server is the master; a password of their own is `HEADRACE_SENTINEL_PASSWORD`) and
`redis+cluster://[user[:password]@]host[:port],…` (any nodes of it), both with `rediss+…` for TLS. What an address does not say of user and
password, `HEADRACE_REDIS_USER` and `HEADRACE_REDIS_PASSWORD` do. Quoted characters (`%40`) are meant as what they stand for.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from infra import private

if TYPE_CHECKING:
    import redis
    import redis.asyncio

USER, PASSWORD, SENTINEL_PASSWORD = "HEADRACE_REDIS_USER", "HEADRACE_REDIS_PASSWORD", "HEADRACE_SENTINEL_PASSWORD"
Kind = Literal["single", "sentinel", "cluster"]
_PLAIN = re.compile(r"[\w.~:/+-]+", re.ASCII)


@dataclass(frozen=True)
class Address:
    """Where a Redis is and who asks it.

    Attributes:
        kind: `single`: one server; `sentinel`: the Sentinels at `nodes` say where it is; `cluster`: it is the one that `nodes` belong to.
        nodes: every host and port that the URL names; empty for a unix socket.
        service: by which the Sentinels know the master.
        path: of its unix socket; empty: `host` and `port` count.
        options: redis-py's further options, as the URL's query has them (`ssl_ca_certs`, ...).
    """

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    db: int = 0
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: bool = False
    options: dict[str, Any] = field(default_factory=dict)
    kind: Kind = "single"
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""


def address(url: str) -> Address:
    """Read a URL; user and password that it lacks come from the environment.

    Raises:
        ValueError: it is no Redis URL. The message does not repeat it: there may be a password in it.
    """
    from redis.connection import parse_url

    try:
        scheme = urlsplit(url).scheme
        plain, kind, nodes, service = _several(url) if "+" in scheme else (url, "single", (), "")
        said: dict[str, Any] = dict(parse_url(plain))  # type: ignore[no-untyped-call]
    except ValueError:
        raise ValueError(
            "HEADRACE_REDIS_URL is no address of a Redis: write redis://, rediss://, unix://, redis+sentinel://host,host/service or "
            "redis+cluster://host,host, and quote what is special in a user or password (%2F for /, %40 for @, %23 for #)"
        ) from None
    said.pop("connection_class", None)
    if not nodes and "path" not in said:
        nodes = ((said.get("host") or "127.0.0.1", said.get("port") or 6379),)
    return Address(
        host=said.pop("host", None) or "127.0.0.1",
        port=said.pop("port", None) or 6379,
        path=said.pop("path", ""),
        db=int(said.pop("db", 0)),
        user=said.pop("username", None) or os.environ.get(USER) or None,
        password=said.pop("password", None) or os.environ.get(PASSWORD) or None,
        tls=scheme.startswith("rediss"),
        options=said,
        kind=kind,
        nodes=nodes,
        service=service,
    )


def _several(url: str) -> tuple[str, Kind, tuple[tuple[str, int], ...], str]:
    """A URL that names several servers: the same of its first one alone, the kind, all of them, and the service.

    Raises:
        ValueError: it is none.
    """
    parts = urlsplit(url)
    plain, _, named = parts.scheme.partition("+")
    kind: dict[str, Kind] = {"sentinel": "sentinel", "cluster": "cluster"}
    who, at, hosts = parts.netloc.rpartition("@")
    nodes = []
    for one in hosts.split(","):
        place = urlsplit(f"//{one}")
        nodes.append((place.hostname or "", place.port or (26379 if named == "sentinel" else 6379)))
    service, _, db = parts.path.strip("/").partition("/") if named == "sentinel" else ("", "", parts.path.strip("/"))
    whole = plain in ("redis", "rediss") and named in kind and all(host for host, _ in nodes)
    if not whole or (named == "sentinel" and not service) or (named == "cluster" and db not in ("", "0")):
        raise ValueError("no address of several servers")
    query = f"?{parts.query}" if parts.query else ""
    return f"{plain}://{who}{at}{hosts.split(',')[0]}/{db}{query}", kind[named], tuple(nodes), unquote(service)


def _told(to: Address, **options: Any) -> dict[str, Any]:
    """What redis-py is told of a server that it has not from a URL."""
    tls = {"ssl": True} if to.tls else {}
    return {**to.options, "username": to.user, "password": to.password, **tls, **options}


def _sentinels(to: Address, kind: Any, options: Mapping[str, Any]) -> Any:
    """A client of the master that the Sentinels name; they are asked again for each connection."""
    of_time = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout") if name in options}
    theirs = {**to.options, **of_time, "password": os.environ.get(SENTINEL_PASSWORD) or None} | ({"ssl": True} if to.tls else {})
    return kind(list(to.nodes), sentinel_kwargs=theirs).master_for(to.service, **_told(to, db=to.db, **options))


def client(url: str, **options: Any) -> redis.Redis:
    """A client of the server; nothing is connected yet, but to a cluster (`redis+cluster://`), whose map is needed.

    Args:
        options: redis-py's (`socket_timeout`, `decode_responses`, ...).
    """
    import redis.sentinel

    to = address(url)
    if to.kind == "sentinel":
        return _sentinels(to, redis.sentinel.Sentinel, options)
    if to.kind == "cluster":
        return _cluster(to, options)
    return redis.Redis.from_url(url, username=to.user, password=to.password, **options)


def _cluster(to: Address, options: Mapping[str, Any]) -> Any:
    import redis.cluster

    node: Any = redis.cluster.ClusterNode
    return redis.RedisCluster(startup_nodes=[node(*place) for place in to.nodes], **_told(to, **options))


def asynchronous(url: str, **options: Any) -> redis.asyncio.Redis:
    """The same for asyncio; nothing is connected yet, whatever it is."""
    import redis.asyncio.sentinel

    to = address(url)
    if to.kind == "sentinel":
        return _sentinels(to, redis.asyncio.sentinel.Sentinel, options)
    if to.kind == "cluster":
        return asynchronous_cluster(url, **options)
    return redis.asyncio.Redis.from_url(url, username=to.user, password=to.password, **options)


def asynchronous_cluster(url: str, **options: Any) -> Any:
    """An asyncio client of the cluster that the URL names nodes of."""
    import redis.asyncio.cluster

    to = address(url)
    nodes = [redis.asyncio.cluster.ClusterNode(*node) for node in to.nodes]
    return redis.asyncio.RedisCluster(startup_nodes=nodes, **_told(to, **options))


async def master(url: str) -> tuple[str, int]:
    """Host and port that commands go to: of a Sentinels' service, the master that they name now.

    Raises:
        redis.RedisError: no Sentinel answers, or none knows a master.
    """
    import redis.asyncio.sentinel

    to = address(url)
    if to.kind != "sentinel":
        return to.host, to.port
    theirs = {**to.options, "password": os.environ.get(SENTINEL_PASSWORD) or None, "socket_timeout": 1.0, "socket_connect_timeout": 1.0}
    kind: Any = redis.asyncio.sentinel.Sentinel
    asked = kind(list(to.nodes), sentinel_kwargs=theirs)
    try:
        return await asked.discover_master(to.service)
    finally:
        for one in asked.sentinels:
            await one.aclose()


def connect(url: str, timeout_s: float = 10.0) -> redis.Redis:
    """A client whose server was seen to answer; a cluster's, where a cluster answers.

    Args:
        timeout_s: for each command; also how long a server may take to load its data after a restart.

    Raises:
        redis.RedisError: nothing answers there, or it refuses us (`cause` says it in a sentence).
    """
    to = address(url)
    limits = {"socket_timeout": timeout_s, "socket_connect_timeout": min(timeout_s, 5.0)}
    made = client(url, **limits)
    try:
        _wait_until_loaded(made, timeout_s)
        if to.kind == "cluster" or not made.info("cluster")["cluster_enabled"]:  # type: ignore[index]
            return made
    except BaseException:
        made.close()
        raise
    made.close()
    return _cluster(to, limits)


def _wait_until_loaded(made: redis.Redis, timeout_s: float) -> None:
    """After a restart Redis answers before it has read its data."""
    import redis

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            made.ping()
            return
        except redis.BusyLoadingError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def cause(error: Exception) -> str:
    """Why a Redis cannot be used, as a sentence for who can mend it."""
    from redis import exceptions

    text = str(error).rstrip(".")
    refused = (
        isinstance(error, exceptions.AuthenticationError) or text.startswith(("WRONGPASS", "NOAUTH")) or "without any password" in text
    )
    if refused:
        return f"Redis refuses user or password ({text}): put them into HEADRACE_REDIS_URL, or set {USER} and {PASSWORD}"
    if isinstance(error, exceptions.NoPermissionError) or text.startswith("NOPERM"):
        return f"Redis does not allow its user what Headrace needs ({text}): docs/howto/own-redis.md has the rules an ACL user needs"
    if isinstance(error, exceptions.ResponseError):
        return f"Redis {says(error)}"
    return f"Redis does not answer ({text}): start it with `headrace up`, or set HEADRACE_REDIS_URL"


def says(error: BaseException) -> str:
    """What became of a command, in one line, to stand after Redis' name: `does not answer`, or `refuses: ` and its own words."""
    from redis import exceptions

    if not isinstance(error, exceptions.ResponseError | exceptions.BusyLoadingError):
        return "does not answer"
    # redis-py repeats the command, and all that was to be written; Redis the script that it ran
    text = str(error).rpartition(" caused error: ")[2].partition(" script: ")[0]
    return f"refuses: {' '.join(text.split())[:300]}"


def misplaced(kinds: Mapping[str, str], found: Sequence[bytes]) -> str:
    """Which key is not what it should be, and what to do; empty: each is, or is not there.

    Args:
        kinds: key → its type, as Redis calls it.
        found: what Redis answers to `TYPE` of each.
    """
    for (key, kind), raw in zip(kinds.items(), found, strict=True):
        if (there := raw.decode()) not in (kind, "none"):
            return f"{key} is a {there} and not a {kind}: rename or remove it"
    return ""


def without_password(url: str) -> str:
    """The URL as it may travel to Spark's workers and into logs: with its user, who is no secret.

    The workers take the password from `HEADRACE_REDIS_PASSWORD`.
    """
    parts, user = urlsplit(url), address(url).user
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(p for p in parts.query.split("&") if p.partition("=")[0] not in ("username", "password"))
    plain = parts._replace(netloc=f"{quote(user, safe='')}@{host}" if user else host, query=query).geturl()
    # without a host urllib leaves the slashes out
    return plain if "://" in plain else plain.replace(":", "://", 1)


def for_feast(url: str) -> str:
    """Feast's `connection_string` for the same server: `host:port,name=value,…`, split at commas, values read as JSON where they are."""
    to = address(url)
    parts = [f"{host}:{port}" for host, port in to.nodes] or ["127.0.0.1:6379"]
    if to.kind != "cluster":
        parts.append(f"db={to.db}")
    if to.path:
        parts.append(f"unix_socket_path={_value(to.path)}")
    if to.user:
        parts.append(f"username={_value(to.user)}")
    if to.password:
        parts.append(f"password={_value(to.password)}")
    if to.tls:
        parts.append("ssl=true")
    parts += [f"{name}={_value(value) if isinstance(value, str) else json.dumps(value)}" for name, value in to.options.items()]
    return ",".join(parts)


def whole(raw: bytes | str | None) -> int | None:
    """A whole number (64 bits) that a key or a field of ours holds; None where there is nothing, or something else."""
    try:
        number = int(raw or "")
    except ValueError:
        return None
    return number if -(2**63) <= number < 2**63 else None


def _value(text: str) -> str:
    """A text that Feast reads as that text: neither as a number nor cut at a comma, and YAML sees nothing in it."""
    if _PLAIN.fullmatch(text) and not text.endswith(":"):
        try:
            json.loads(text)
        except ValueError:
            return text
    units = text.encode("utf-16-be", "surrogatepass")
    escaped = (
        chr(unit) if chr(unit).isascii() and chr(unit).isalnum() else f"\\u{unit:04x}"
        for unit in (int.from_bytes(units[i : i + 2]) for i in range(0, len(units), 2))
    )
    return f'"{"".join(escaped)}"'


def embedded_password(state: Path) -> str:
    """Of the checkout's own server: in a file of its user's own below the state folder, made on first use."""
    state.mkdir(parents=True, exist_ok=True)
    return private.secret(private.folder(state / "redis") / "password")
