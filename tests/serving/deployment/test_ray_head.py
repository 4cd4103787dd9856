"""Ray's head: found again where it lives and is the same, and a start that fails is told in one line."""

from __future__ import annotations

import os
from pathlib import Path
from threading import Event

import msgspec
import psutil
import pytest

from infra.settings import Settings
from serving.deployment import leftovers, ray_head
from serving.deployment.ray_head import Head


def test_a_head_that_cannot_start_says_why_in_one_line(tmp_path: Path) -> None:
    own = Settings(state=tmp_path / "state")
    own.run_dir.mkdir(parents=True)
    long = tmp_path / ("x" * 110)  # Ray's sockets end at 107 bytes
    long.mkdir()
    with pytest.raises(ray_head.HeadError, match=r"Ray did not start: .*107") as failed:
        ray_head.start(own, long, 1, "this", Event())
    assert "\n" not in str(failed.value)
    assert "Traceback" not in str(failed.value)


def test_only_a_living_head_of_the_same_settings_is_taken_over(tmp_path: Path) -> None:
    own = Settings(state=tmp_path / "state")
    own.run_dir.mkdir(parents=True)
    path, me = own.run_dir / "ray-head", psutil.Process()
    assert ray_head.find(own, "this") is None
    path.write_bytes(msgspec.json.encode(Head(me.pid, me.create_time(), "127.0.0.1:1", "this")))
    assert ray_head.find(own, "this") is not None
    assert ray_head.find(own, "other") is None
    path.write_bytes(msgspec.json.encode(Head(me.pid, me.create_time() - 60, "127.0.0.1:1", "this")))
    assert ray_head.find(own, "this") is None  # another process has its number now
    for broken in (b"", b"[]", b'{"pid": "no"}', b"\xff"):
        path.write_bytes(broken)
        assert ray_head.find(own, "this") is None
    path.unlink()
    path.mkdir()
    assert ray_head.find(own, "this") is None


def test_what_a_head_is_made_of_hangs_on_every_setting_and_on_no_order() -> None:
    one = {"HEADRACE_REPLICAS": "1", "RAY_AUTH_MODE": "token"}
    assert ray_head.made_of(one) == ray_head.made_of(dict(reversed(one.items())))
    assert ray_head.made_of(one) != ray_head.made_of(one | {"HEADRACE_REPLICAS": "2"})


def test_noting_down_who_runs_survives_a_full_disk_and_never_names_oneself(tmp_path: Path) -> None:
    own = Settings(state=tmp_path / "state")
    own.run_dir.mkdir(parents=True)
    (own.run_dir / "serve.children").mkdir()  # as good as a full disk: it cannot be written
    started: set[psutil.Process] = set()
    leftovers.note(own, started, None)
    assert psutil.Process() not in started
    assert os.getpid() not in {p.pid for p in leftovers.left(own, tmp_path / "scratch")}
    leftovers.end(own, ())
