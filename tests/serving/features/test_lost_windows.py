"""Windows that hold live events only, because the store has lost their past, are not passed off as whole."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from feature_repo.records import release
from feature_repo.records.redis_keys import view_key
from serving.features import lost_windows
from serving.features.lost_windows import LostWindows
from serving.features.reader import FeatureRows, OnlineReader
from streaming.schema.feature_view import Projection, View
from tests.serving.features.test_stored_bytes import LATEST, NOW, WINDOWED, Stored, good, of_view
from tests.serving.shop import INSTANCE
from tests.serving.shop_server import PREDICT, Server

LIVE = replace(WINDOWED, stream="events")


class Live(Stored):
    """The same entity, whose windows a stream keeps live."""

    def __init__(self, fields: dict[bytes, bytes]) -> None:
        plan = [Projection(v, v.name, tuple(f.name for f in v.features), ()) for v in (LATEST, LIVE)]
        OnlineReader.__init__(self, plan, "redis://nowhere", 1)
        self.fields = fields


def served(rows: FeatureRows) -> tuple[Any, ...]:
    return rows.values.tolist(), rows.statuses.tolist(), rows.ages.tolist(), rows.marks, rows.extras


def test_windows_whose_past_is_lost_are_served_as_of_an_entity_that_nothing_is_known_of() -> None:
    """So the proof finds no wrong cell in them: with no mark it computes empty windows, too."""
    reader, whole = Live(good()), served(Live(good()).now())
    assert reader.windows == [LIVE], "nobody writes live events into the others"
    reader.lose(["w"])
    unheard = Live({name: value for name, value in good().items() if name not in reader._entities[0].parts[1].fields}).now()
    lost = reader.now()
    np.testing.assert_equal(served(lost), served(unheard))
    assert set(of_view(lost, WINDOWED)[0]) == {"m"}
    assert lost.marks[0]["w"].known_us is None
    assert of_view(lost, LATEST)[0] == "fnf", "the newest row is the newest row"
    reader.lose([])
    np.testing.assert_equal(served(reader.now()), whole)
    assert NOW


@pytest.fixture
def view(redis_url: str, tmp_path: Path) -> Iterator[View]:
    made = replace(LIVE, project=f"lost_{uuid.uuid4().hex[:8]}", path=str(tmp_path / "table"))
    yield made
    redis.Redis.from_url(redis_url).delete(view_key(made.project, made.name))


class Told:
    """A reader that notes down what it is told."""

    def __init__(self, view: View) -> None:
        self.windows, self.told = [view], [["never"]]

    def lose(self, names: Any) -> None:
        self.told.append(list(names))


def test_readers_are_told_what_is_lost_and_when_it_is_back(redis_url: str, view: View, tmp_path: Path) -> None:
    client, reader, key = redis.Redis.from_url(redis_url), Told(view), view_key(view.project, view.name)
    lost = LostWindows(redis_url, tmp_path, lambda: [reader])

    async def looks() -> None:
        await lost.look()
        assert (reader.told[-1], lost.trouble) == ([], ""), "there is no table: live events are all there ever was"
        (tmp_path / "table").mkdir()
        (tmp_path / "table" / "part-0.parquet").touch()
        await lost.look()
        assert reader.told[-1] == [view.name]
        assert lost.trouble == (
            f"no backfill of {view.name} is in the store, or it has lost it: their windows count as missing; run `headrace backfill`"
        )
        client.hset(key, "seam_us", 1)
        await lost.look()
        assert (reader.told[-1], lost.trouble) == ([], "")
        client.delete(key)
        await lost.look()
        assert reader.told[-1] == [view.name]
        lost._client.close()
        lost._client = redis.Redis(port=1)
        await lost.look()
        assert reader.told[-1] == [view.name], "a store that does not answer has lost no more and got nothing back"

    asyncio.run(looks())


def test_a_version_that_is_loaded_now_is_told_before_it_answers(
    redis_url: str, view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_windows, "EVERY_S", 1000)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "part-0.parquet").touch()
    server = Server(tmp_path, redis_url)
    server.version(1)
    server.version(2, promote=False)
    reader: Any = server.reader
    reader.windows, reader.told = [view], []
    reader.lose = lambda names: reader.told.append(list(names))
    store = redis.Redis.from_url(redis_url)
    store.hset(view_key(view.project, view.name), "seam_us", 1)

    async def promote(client: httpx.AsyncClient) -> None:
        assert reader.told[-1] == []
        store.delete(view_key(view.project, view.name))
        release.promote(server.settings.model_root, "sells_out", 2)
        while (await client.post(PREDICT, json={"instances": [INSTANCE]})).json()["model_version"] == 1:
            await asyncio.sleep(0.02)
        assert reader.told[-1] == [view.name]

    server.run(promote)


def test_a_replica_looks_by_itself_and_says_it(redis_url: str, view: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lost_windows, "EVERY_S", 0.05)
    (tmp_path / "table").mkdir()
    (tmp_path / "table" / "part-0.parquet").touch()
    server = Server(tmp_path, redis_url)
    server.version()
    reader: Any = server.reader
    reader.windows, reader.told = [view], []
    reader.lose = lambda names: reader.told.append(list(names))
    redis.Redis.from_url(redis_url).hset(view_key(view.project, view.name), "seam_us", 1)

    async def becomes(client: httpx.AsyncClient, degraded: bool) -> str:
        for _ in range(400):
            await server.plane._tally.write()
            said = (await client.get("/readyz")).json()["degraded"]
            if bool(said) == degraded:
                return str(said)
            await asyncio.sleep(0.02)
        raise AssertionError(said)

    async def scenario(client: httpx.AsyncClient) -> None:
        assert reader.told[0] == [], "looked at before the first request"
        await becomes(client, False)
        await asyncio.to_thread(redis.Redis.from_url(redis_url).delete, view_key(view.project, view.name))
        assert "count as missing" in await becomes(client, True)
        assert reader.told[-1] == [view.name]

    server.run(scenario)
