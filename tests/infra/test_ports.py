"""Two checkouts on one machine never meet."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from infra import redis_client
from infra.ports import port
from infra.settings import Settings


def test_a_checkout_keeps_its_ports(tmp_path: Path) -> None:
    own = Settings(state=tmp_path)
    assert port(own.state, "redis") == port(own.state, "redis") == port(tmp_path, "redis")


def test_names_get_ports_of_their_own_even_when_asked_for_at_once(tmp_path: Path) -> None:
    own = Settings(state=tmp_path)
    names = [f"service-{i}" for i in range(16)]
    with ThreadPoolExecutor(8) as pool:
        first = list(pool.map(lambda name: port(own.state, name), names))
    assert len(set(first)) == len(names)
    assert [port(own.state, name) for name in names] == first


def test_two_states_do_not_share_a_port_in_use(tmp_path: Path) -> None:
    one, other = Settings(state=tmp_path / "one"), Settings(state=tmp_path / "other")
    with socket.socket() as server:
        server.bind(("127.0.0.1", port(one.state, "http")))
        server.listen()
        assert port(other.state, "http") != port(one.state, "http")


def test_the_online_stores_url_names_this_checkouts_own_port(tmp_path: Path) -> None:
    own = Settings(state=tmp_path)
    assert own.redis() == f"redis://default:{redis_client.embedded_password(own.state)}@127.0.0.1:{port(own.state, 'redis')}/0"
