"""Ports of one checkout: chosen free once, kept in `<state>/ports.json`, so that two checkouts never meet."""

from __future__ import annotations

import fcntl
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.settings import Settings

PREFERRED = {"http": 8000}
"""Ports a person expects; taken where free when the checkout first asks."""


def _free(preferred: int = 0) -> int:
    for candidate in (preferred, 0):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            try:
                probe.bind(("127.0.0.1", candidate))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free TCP port on 127.0.0.1")


def _is_free(number: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
        return True


def port(settings: Settings, name: str, claim: bool = False) -> int:
    """The port this checkout uses for `name`, chosen on first use and kept.

    Args:
        claim: the caller is about to listen on it: where another program has taken it in the meantime, choose another.
    """
    settings.state.mkdir(parents=True, exist_ok=True)
    path: Path = settings.state / "ports.json"
    with open(settings.state / "ports.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ports: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
        if name not in ports or (claim and not _is_free(ports[name])):
            chosen = _free(PREFERRED.get(name, 0))
            while chosen in ports.values():
                chosen = _free()
            ports[name] = chosen
            partial = path.with_suffix(".new")
            partial.write_text(json.dumps(ports, indent=1))
            partial.replace(path)
        return ports[name]
