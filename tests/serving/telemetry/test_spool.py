from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records.prediction import Prediction
from infra.settings import ROOT
from serving.telemetry import prediction_log, spool
from serving.telemetry.prediction_log import PredictionLog
from serving.telemetry.spool import Spool


def die(one: Spool) -> None:
    """What a kill does: the kernel closes the files, and nobody tidies up."""
    for segment in one._segments:
        if segment.file >= 0:
            os.close(segment.file)


def left(folder: Path) -> list[bytes]:
    found: list[bytes] = []
    while True:
        with Spool(folder).orphan() as entries:
            if entries is None:
                return found
            found += entries


@given(st.lists(st.one_of(st.integers(1, 6).map(lambda n: ("put", n)), st.integers(0, 8).map(lambda n: ("confirm", n))), max_size=30))
def test_whatever_is_not_confirmed_is_left_by_a_kill(steps: list[tuple[str, int]]) -> None:
    patched = pytest.MonkeyPatch()
    patched.setattr(spool, "SEGMENT", 24)
    with tempfile.TemporaryDirectory() as folder:
        one, waiting, number = Spool(Path(folder)), list[bytes](), 0
        for what, n in steps:
            if what == "put":
                for _ in range(n):
                    one.put(b"%d" % number)
                    waiting.append(b"%d" % number)
                    number += 1
            else:
                one.confirm(min(n, len(waiting)))
                del waiting[:n]
        die(one)
        found = left(Path(folder))
        assert sorted(found, key=int)[len(found) - len(waiting) :] == waiting
        assert len(set(found)) == len(found)
        assert not list(Path(folder).glob("*.jsonl"))
    patched.undo()


def test_what_a_living_replica_holds_is_nobody_elses(tmp_path: Path) -> None:
    one = Spool(tmp_path)
    one.put(b"mine")
    assert left(tmp_path) == []
    one.confirm(1)
    one.close()
    assert list(tmp_path.iterdir()) == []


def test_an_orphan_stays_until_it_has_been_sent(tmp_path: Path) -> None:
    one = Spool(tmp_path)
    one.put(b"a")
    die(one)

    def send() -> None:
        with Spool(tmp_path).orphan() as entries:
            raise ConnectionError(entries)

    with pytest.raises(ConnectionError, match="b'a'"):
        send()
    assert left(tmp_path) == [b"a"]


def test_a_disk_that_takes_nothing_is_counted_and_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Spool(tmp_path)
    one.put(b"before")
    with monkeypatch.context() as full:
        full.setattr(spool.os, "write", lambda file, line: os.pwrite(file, line[:3], os.fstat(file).st_size))
        one.put(b"half of it")
    one.put(b"after")
    assert one.unwritten == 1
    die(one)
    assert left(tmp_path) == [b"before", b"after"]
    nowhere = Spool(Path("/proc/nothing"))
    nowhere.put(b"x")
    nowhere.confirm(1)
    nowhere.close()
    assert nowhere.unwritten == 1


def rename_away(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def remove_the_files(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def put_another_in_its_place(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
        path.write_bytes(b"")
        path.rename(path.with_suffix(".other"))
        path.write_bytes(b"not ours")


@pytest.mark.parametrize("gone", [shutil.rmtree, rename_away, remove_the_files, put_another_in_its_place])
def test_files_that_are_deleted_or_moved_away_are_made_anew_with_what_they_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gone: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(spool, "SEGMENT", 8)
    folder = tmp_path / "spool"
    one = Spool(folder)
    for i in range(10):
        one.put(b"%d" % i)
    one.confirm(5)
    gone(folder)
    one.put(b"10")
    one.mend()
    one.put(b"11")
    one.confirm(1)
    one.mend()
    assert (one.unwritten, one.trouble) == (0, "")
    die(one)
    found = left(folder)
    assert sorted(set(found) - {b"5"}, key=int) == [b"%d" % i for i in range(6, 12)]
    assert len(set(found)) == len(found)


def test_a_spool_with_nothing_in_it_is_mended_too(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    one = Spool(folder)
    one.put(b"a")
    one.confirm(1)
    shutil.rmtree(folder)
    one.mend()
    one.put(b"b")
    die(one)
    assert left(folder) == [b"b"]


def test_a_spool_that_cannot_be_made_anew_is_said_until_it_can(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    one = Spool(folder)
    one.put(b"a")
    shutil.rmtree(folder)
    folder.write_text("a file is in its place")
    one.mend()
    assert str(folder) in one.trouble
    assert "\n" not in one.trouble
    folder.unlink()
    one.mend()
    assert one.trouble == ""
    die(one)
    assert left(folder) == [b"a"]


def test_a_disk_that_takes_files_again_gets_the_next_entry(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    folder.write_text("a file is in its place")
    one = Spool(folder)
    one.put(b"a")
    one.put(b"b")
    assert one.unwritten == 2
    assert str(folder) in one.trouble
    folder.unlink()
    one.put(b"c")
    assert (one.unwritten, one.trouble) == (2, "")
    one.confirm(1)
    die(one)
    assert left(folder) == [b"c"]


def test_a_log_sees_to_its_spool_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "_ORPHANS_S", 0.01)
    folder = tmp_path / "spool"

    async def scenario() -> None:
        own = Spool(folder)
        log = PredictionLog(Stream(), "stream", capacity=10, retention=10, spool=own)
        log.start()
        log.put(Prediction("1", "m", 1, 0, 0, {}, [], "", {}, 0.5))
        shutil.rmtree(folder)
        log.put(Prediction("2", "m", 1, 0, 0, {}, [], "", {}, 0.5))
        for _ in range(500):
            await asyncio.sleep(0.01)
            if folder.is_dir() and list(folder.glob("*.jsonl")):
                break
        die(own)

    asyncio.run(scenario())
    assert [msgspec.json.decode(entry, type=Prediction).id for entry in left(folder)] == ["1", "2"]


KILLED = """
import sys
from pathlib import Path
from serving.telemetry.spool import Spool
spool = Spool(Path(sys.argv[1]))
for i in range(10**9):
    spool.put(b"%d" % i)
    print(i, flush=True)
"""


def test_a_process_that_is_killed_loses_nothing_it_had_answered(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert child.stdout is not None
    for _ in range(500):
        child.stdout.readline()
    child.kill()
    answered = 500 + len(child.stdout.read().splitlines())
    child.wait()
    found = left(tmp_path)
    assert found[:answered] == [b"%d" % i for i in range(answered)]


class Stream:
    """A Redis that is away, then there."""

    def __init__(self) -> None:
        self.away = True
        self.entries: list[str] = []

    async def ask(self, commands: list[tuple[bytes, ...]], timeout_s: float) -> list[Any]:
        if self.away:
            raise ConnectionResetError("away")
        self.entries += [msgspec.json.decode(command[-1], type=Prediction).id for command in commands]
        return [b"1-1"] * len(commands)

    async def close(self) -> None:
        return None


def test_the_next_replica_logs_what_a_killed_one_had_answered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prediction_log, "_BACKOFF_S", (0.01, 0.02))
    monkeypatch.setattr(prediction_log, "_ORPHANS_S", 0.01)

    async def scenario() -> None:
        stream, killed = Stream(), Spool(tmp_path)
        first = PredictionLog(stream, "stream", capacity=1000, retention=10, spool=killed)
        for i in range(250):
            first.put(Prediction(str(i), "m", 1, 0, 0, {}, [], "", {}, 0.5))
        die(killed)
        second = PredictionLog(stream, "stream", capacity=1000, retention=10, spool=Spool(tmp_path))
        second.start()
        second.put(Prediction("own", "m", 1, 0, 0, {}, [], "", {}, 0.5))
        await asyncio.sleep(0.1)
        assert stream.entries == []
        stream.away = False
        while len(stream.entries) < 251:
            await asyncio.sleep(0.01)
        assert sorted(stream.entries) == sorted([*map(str, range(250)), "own"])
        await second.close()
        assert list(tmp_path.iterdir()) == []

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_what_closing_could_not_send_is_the_next_ones(tmp_path: Path) -> None:
    async def scenario() -> None:
        log = PredictionLog(Stream(), "stream", capacity=10, retention=10, spool=Spool(tmp_path))
        log.start()
        log.put(Prediction("1", "m", 1, 0, 0, {}, [], "", {}, 0.5))
        await log.close(timeout_s=0.1)
        assert log.dropped == 0

    asyncio.run(scenario())
    assert len(left(tmp_path)) == 1
