"""Several real Redis servers of a test's own: a cluster, and a master with a replica and three Sentinels."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from infra.supervision import redis_server

PASSWORD = "correct-horse-battery"


def free_port() -> int:
    """One whose cluster bus, 10,000 above, is a port as well."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            number = int(probe.getsockname()[1])
        if number < 50_000:
            return number


def until(done: Callable[[], Any], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if done():
                return
        except (redis.RedisError, OSError):
            pass
        time.sleep(0.1)
    raise AssertionError("not in time")


@dataclass
class Several:
    """
    Attributes:
        ports: of the servers; a cluster's masters, or the master and its replica.
        sentinels: ports of the Sentinels.
        children: by port.
    """

    folder: Path
    ports: list[int] = field(default_factory=list)
    sentinels: list[int] = field(default_factory=list)
    children: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, number: int, **options: Any) -> None:
        home = self.folder / str(number)
        home.mkdir()
        said = {"port": number, "bind": "127.0.0.1", "dir": home, "save": "", "appendonly": "no"} | options
        said |= {"requirepass": PASSWORD, "masterauth": PASSWORD}
        argv = [str(redis_server.binary()), *(p for name, value in said.items() for p in (f"--{name.replace('_', '-')}", str(value)))]
        self.children[number] = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

    def sentinel(self, number: int, master: int) -> None:
        path = self.folder / f"{number}.conf"
        lines = [
            f"port {number}", "bind 127.0.0.1", f"dir {self.folder}", f"requirepass {PASSWORD}-watch", f"sentinel sentinel-pass {PASSWORD}-watch",
            f"sentinel monitor shelves 127.0.0.1 {master} 2", f"sentinel auth-pass shelves {PASSWORD}",
            "sentinel down-after-milliseconds shelves 500", "sentinel failover-timeout shelves 3000",
        ]  # fmt: skip
        path.write_text("\n".join(lines) + "\n")
        argv = [str(redis_server.binary()), str(path), "--sentinel"]
        self.children[number] = subprocess.Popen(argv, stdout=subprocess.DEVNULL)

    def kill(self, number: int) -> None:
        child = self.children.pop(number)
        child.kill()
        child.wait()

    def end(self) -> None:
        for number in list(self.children):
            self.kill(number)


@contextmanager
def cluster_of_three(folder: Path) -> Iterator[Several]:
    """Three masters with a password, every slot covered. The password is in the environment meanwhile."""
    made = Several(folder, [free_port() for _ in range(3)])
    before = os.environ.get("HEADRACE_REDIS_PASSWORD")
    try:
        for number in made.ports:
            made.start(number, cluster_enabled="yes", cluster_config_file="nodes.conf", cluster_node_timeout=5000)
        nodes = [redis.Redis(port=p, password=PASSWORD) for p in made.ports]
        for i, node in enumerate(nodes):
            until(node.ping)
            node.execute_command("CLUSTER", "ADDSLOTS", *range(i * 16384 // 3, (i + 1) * 16384 // 3))
            node.execute_command("CLUSTER", "SET-CONFIG-EPOCH", i + 1)
        for number in made.ports[1:]:
            nodes[0].execute_command("CLUSTER", "MEET", "127.0.0.1", number)
        until(lambda: all(map(_whole, nodes)))
        os.environ["HEADRACE_REDIS_PASSWORD"] = PASSWORD
        yield made
    finally:
        _put_back("HEADRACE_REDIS_PASSWORD", before)
        made.end()


def _put_back(name: str, value: str | None) -> None:
    os.environ.pop(name, None)
    if value is not None:
        os.environ[name] = value


def _whole(node: Any) -> bool:
    said = node.execute_command("CLUSTER INFO")
    return bool(said["cluster_state"] == "ok" and int(said["cluster_known_nodes"]) == 3)


@contextmanager
def sentinels_of_three(folder: Path) -> Iterator[Several]:
    """A master, its replica, and three Sentinels that call them `shelves`; each kind has a password, in the environment meanwhile."""
    made = Several(folder, [free_port(), free_port()], [free_port() for _ in range(3)])
    names = ("HEADRACE_REDIS_PASSWORD", "HEADRACE_SENTINEL_PASSWORD")
    before = {name: os.environ.get(name) for name in names}
    try:
        made.start(made.ports[0])
        made.start(made.ports[1], replicaof=f"127.0.0.1 {made.ports[0]}")
        servers = [redis.Redis(port=p, password=PASSWORD) for p in made.ports]
        until(lambda: servers[1].info("replication")["master_link_status"] == "up")  # type: ignore[index]
        for number in made.sentinels:
            made.sentinel(number, made.ports[0])
        asked = [redis.Redis(port=p, password=f"{PASSWORD}-watch", decode_responses=True) for p in made.sentinels]
        until(lambda: all(_knows(one) for one in asked))
        os.environ |= dict(zip(names, (PASSWORD, f"{PASSWORD}-watch"), strict=True))
        yield made
    finally:
        for name, value in before.items():
            _put_back(name, value)
        made.end()


def _knows(sentinel: Any) -> bool:
    """Whether it has found the replica and the two others."""
    said = sentinel.execute_command("SENTINEL", "MASTER", "shelves")
    known = said if isinstance(said, dict) else dict(zip(said[::2], said[1::2], strict=True))
    return (int(known["num-slaves"]), int(known["num-other-sentinels"])) == (1, 2)
