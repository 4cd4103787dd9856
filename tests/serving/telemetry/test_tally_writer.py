"""What a replica counted, written where all can read it."""

from __future__ import annotations

import asyncio
import secrets

import msgspec
import redis.asyncio

from feature_repo.records.redis_keys import tallies_key
from feature_repo.records.replica_tally import Tally
from serving.handlers.data_plane import wall_clock
from serving.telemetry.metrics import Metrics
from serving.telemetry.tally_writer import TallyWriter


def test_every_start_has_a_field_of_its_own_and_the_last_word_is_written_at_the_end(redis_url: str) -> None:
    project = f"tally_{secrets.token_hex(4)}"

    async def live() -> dict[bytes, bytes]:
        client = redis.asyncio.from_url(redis_url)
        await client.hset(tallies_key(project), mapping={"junk": b"\xff{", "old": msgspec.json.encode(Tally("gone", 0, 1, [], {}))})
        for served in (3, 5):
            metrics = Metrics()
            writer = TallyWriter(client, project, metrics, wall_clock, every_s=60)
            writer.start()
            await asyncio.sleep(0.3)
            metrics.model("m", 1, []).ok += served
            metrics.failed("m", 1, 503)
            metrics.failed("m", 1, 422)
            await writer.close()
        found = await client.hgetall(tallies_key(project))
        await client.delete(tallies_key(project))
        await client.aclose()
        return dict(found)

    tallies = [msgspec.json.decode(raw, type=Tally) for raw in asyncio.run(live()).values()]
    assert sorted((t.models["m"][1].answered, t.models["m"][1].failed) for t in tallies) == [(3, 1), (5, 1)], "what is no tally is gone"


def test_a_replica_goes_on_where_redis_takes_no_tally() -> None:
    async def live() -> None:
        client = redis.asyncio.from_url("redis://127.0.0.1:1")
        writer = TallyWriter(client, "p", Metrics(), wall_clock, every_s=0.01)
        writer.start()
        await asyncio.sleep(0.1)
        await writer.close()
        await client.aclose()

    asyncio.run(live())
