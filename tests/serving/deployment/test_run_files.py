"""What a run of serving has left behind of itself - its head, its processes, its HAProxy - spoilt: it is taken for what it says, or for nothing."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.settings import Settings
from serving.deployment import haproxy, leftovers, ray_head
from serving.deployment.haproxy import Ingress, IngressError
from serving.deployment.readiness import detail
from tests.fuzz import fuzzed, spoilt
from tests.serving.hostile import bodies

DEEP = b"[" * 100_000
NOBODY = {"pid": 2**22 + 7, "created": 1.5, "address": "127.0.0.1:1", "made_of": "this"}
"""Beyond what a process can be numbered here: nothing is ended by a test."""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    made = Settings(state=tmp_path_factory.mktemp("run") / "state")
    made.run_dir.mkdir(parents=True)
    return made


def nobody(raw: bytes) -> bytes:
    """Never the number of a process that runs."""
    return raw if not any(str(pid).encode() in raw for pid in psutil.pids()) else b"{"


@fuzzed
@given(st.one_of(bodies(NOBODY), spoilt(msgspec.json.encode(NOBODY)), st.just(DEEP)).map(nobody))
def test_fuzz_a_head_that_was_left_is_found_or_forgotten(own: Settings, raw: bytes) -> None:
    path = own.run_dir / "ray-head"
    path.write_bytes(raw)
    assert ray_head.find(own, "this") is None
    ray_head.stop(own)
    assert not path.exists()


@fuzzed
@given(st.one_of(bodies([[2**22 + 7, 1.5], [2**22 + 9, 2.5]]), st.just(DEEP)).map(nobody))
def test_fuzz_processes_that_were_left_are_found_or_nobodys(own: Settings, raw: bytes) -> None:
    (own.run_dir / "serve.children").write_bytes(raw)
    assert leftovers.noted(own) == set()


def test_what_was_noted_down_is_found(own: Settings) -> None:
    me = psutil.Process()
    (own.run_dir / "serve.children").write_bytes(msgspec.json.encode([(me.pid, me.create_time()), (2**22 + 7, 1.5)]))
    assert leftovers.noted(own) == {me}
    for strange in (b"[[-1,1.5]]", b"[[4294967296,1.5]]", b"[[99999999999999999999,1.5]]", DEEP, b'["\xff"]'):
        (own.run_dir / "serve.children").write_bytes(strange)
        assert leftovers.noted(own) == set()
        (own.run_dir / "ray-head").write_bytes(msgspec.json.encode(NOBODY).replace(str(2**22 + 7).encode(), b"-1"))
        assert ray_head.find(own, "this") is None
        ray_head.stop(own)


def made(folder: Path) -> Ingress:
    return Ingress(str(folder), "127.0.0.1", "app", 7, False, "/bin/haproxy")


@fuzzed
@given(st.data())
def test_fuzz_the_ingress_files_are_read_or_refused(own: Settings, data: st.DataObject) -> None:
    folder = own.run_dir
    wanted = made(folder)
    wanted.current.write_bytes(data.draw(spoilt(f"{os.getpid()} /tmp/admin.sock".encode())))
    assert haproxy.running(wanted) is None, "this process is no HAProxy"
    raw = data.draw(bodies(msgspec.to_builtins(wanted)))
    (folder / "ingress.json").write_bytes(raw)
    with contextlib.suppress(IngressError):
        assert isinstance(haproxy.read(folder), Ingress)


@fuzzed
@given(bodies({"status": 503, "detail": "models are being loaded"}, {"detail": ["a"]}))
def test_fuzz_what_readyz_says_is_told_in_words(raw: bytes) -> None:
    assert isinstance(detail(raw), str)


def test_what_readyz_says_is_told() -> None:
    said: dict[bytes, Any] = {b'{"detail":"models are being loaded"}': "models are being loaded"}
    said |= dict.fromkeys((b"", DEEP, b"\xff", b"[1]", b'{"detail":"\xff"}'), "the replica does not answer")
    assert {raw: detail(raw) for raw in said} == said
