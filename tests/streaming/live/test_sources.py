"""Every event source, as a member of its kind: what all of them promise, run over each that is in the table."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from feature_repo.records.redis_keys import events_key
from infra.settings import Settings
from streaming.live import connectors
from streaming.live.sources.base import Source
from streaming.live.sources.files import Files
from streaming.live.sources.table import SOURCES, asked
from streaming.online.store import connect

each = pytest.mark.parametrize("kind", SOURCES, ids=lambda kind: kind.name)
SAID: dict[type[Source], dict[str, Any]] = {
    Files: {"event_files": "in"},
}
"""By kind, the settings that ask for it."""
LINES = [b'{"key": 1, "x": 2.5}', b"\xff\xfe no text", b'{"key": 1, "x": 2.5}', b"\x00", b"{", "ü".encode()]


def of_files(folder: Path) -> tuple[Source, Callable[[list[bytes]], None]]:
    """A source, and what puts events into it."""
    number = iter(range(100))

    def put(lines: list[bytes]) -> None:
        made = folder / "new"
        made.write_bytes(b"\n".join(lines))
        (folder / "in" / "things").mkdir(parents=True, exist_ok=True)
        made.rename(folder / "in" / "things" / f"{next(number)}.jsonl")

    return Files(folder / "in", ["things"]), put


FEEDERS: dict[type[Source], Callable[[Path], tuple[Source, Callable[[list[bytes]], None]]]] = {Files: of_files}


@each
def test_a_source_is_one_class_in_one_file(kind: type[Source]) -> None:
    module = sys.modules[kind.__module__]
    own = [one for one in vars(module).values() if isinstance(one, type) and issubclass(one, Source) and one is not Source]
    assert own == [kind]
    assert [one for one in SOURCES if one.name == kind.name] == [kind]


@each
def test_it_is_read_only_where_the_settings_ask_for_it(kind: type[Source], tmp_path: Path) -> None:
    assert asked(Settings(state=tmp_path), ["things"]) == []
    assert [type(one) for one in asked(Settings(state=tmp_path, **SAID[kind]), ["things"])] == [kind]


@each
@pytest.mark.integration
def test_every_event_comes_once_as_it_is_and_again_after_the_checkpoint_is_lost(
    kind: type[Source], spark: Any, redis_url: str, tmp_path: Path
) -> None:
    source, put = FEEDERS[kind](tmp_path)
    project, client = f"s{uuid.uuid4().hex[:10]}", connect(redis_url)
    key = events_key(project)

    def reads(checkpoint: str, upto: int) -> None:
        query = connectors.start(source, spark, redis_url, project, str(tmp_path / checkpoint))
        deadline = time.monotonic() + 90
        while client.xlen(key) < upto and time.monotonic() < deadline and query.isActive:
            time.sleep(0.1)
        query.processAllAvailable()
        query.stop()

    put(LINES)
    reads("one", len(LINES))
    put(LINES[:2])
    reads("one", len(LINES) + 2)
    reads("two", len(LINES) + 2)  # everything is handed over again
    found: Any = client.xrange(key)
    assert [fields[b"data"] for _, fields in found] == [*LINES, *LINES[:2]]
    assert {fields[b"source"] for _, fields in found} == {b"things"}
