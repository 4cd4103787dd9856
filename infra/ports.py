"""Ports of one checkout: chosen free once, kept in `<state>/ports.json`, so that two checkouts never meet.

What one checkout has chosen is written down for the others in a folder of the user's own, because a port that nobody listens on *yet* looks
free to everyone. Ports lie below the range that the kernel gives to outgoing connections: no client of ours can be sitting on one.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from infra import files, private

PREFERRED = {"http": 8000}
"""Ports a person expects; taken where free when the checkout first asks."""

_RANGE = range(20_000, 30_000)  # above: replicas of Ray Serve, then the kernel


def is_free(number: int) -> bool:
    """Whether a server could listen there, on 127.0.0.1, now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError:
            return False
        return True


def _choose(preferred: int | None, taken: set[int]) -> int:
    if preferred is not None and preferred not in taken and is_free(preferred):
        return preferred
    for number in random.sample(_RANGE, len(_RANGE)):
        if number not in taken and is_free(number):
            return number
    raise OSError(f"no free TCP port on 127.0.0.1 between {_RANGE.start} and {_RANGE.stop}")


def claims_folder() -> Path:
    """Where this user's checkouts tell each other what they have chosen."""
    return Path(tempfile.gettempdir()) / f"headrace-ports-{os.getuid()}"


@contextlib.contextmanager
def _claims() -> Iterator[dict[str, str]]:
    """Port → state folder of every checkout of this user, locked; what is changed is kept, claims of folders that are gone are not."""
    folder = private.folder(claims_folder())
    path = folder / "claims.json"
    with files.alone(folder / "lock"):
        before: dict[str, str] = {}
        try:
            before = files.read_json(path, dict[str, str])
        except FileNotFoundError:
            pass
        except files.FileError as error:  # who has claimed what is found out by listening
            files.put_aside(path, error)
        claims = {number: state for number, state in before.items() if number.isdigit() and (Path(state) / "ports.json").exists()}
        yield claims
        if claims != before:
            _replace(path, claims)


def _replace(path: Path, content: object) -> None:
    files.replace(path, json.dumps(content, indent=1).encode())


def chosen(state: Path) -> dict[str, int]:
    """The ports of this checkout so far. A file that is broken is put aside: ports are chosen anew then, and services have to be started again."""
    path = state / "ports.json"
    try:
        return files.read_json(path, dict[str, Annotated[int, msgspec.Meta(ge=1, le=65535)]])
    except FileNotFoundError:
        return {}
    except files.FileError as error:
        files.put_aside(path, f"{error}; ports are chosen anew: run `headrace down` and `headrace up`")
        return {}


def port(state: Path, name: str, claim: bool = False) -> int:
    """The port this checkout uses for `name`, chosen on first use and kept.

    Args:
        state: the checkout's state folder.
        claim: the caller is about to listen on it: where another program has taken it in the meantime, choose another.
    """
    state.mkdir(parents=True, exist_ok=True)
    path = state / "ports.json"
    with files.alone(state / "ports.lock"):
        ports = chosen(state)
        if name not in ports or (claim and not is_free(ports[name])):
            with _claims() as claims:
                ports[name] = _choose(PREFERRED.get(name), {int(number) for number in claims} | set(ports.values()))
                _replace(path, ports)
                claims[str(ports[name])] = str(state)
        return ports[name]
