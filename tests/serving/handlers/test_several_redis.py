"""What is served, logged and told lies in a cluster, or behind Sentinels, as it does in one Redis."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from feature_repo.records.redis_keys import label_log_key, labels_key, prediction_log_key
from infra import redis_client
from infra.settings import Settings
from infra.supervision import redis_server
from serving.features.redis_connection import client
from streaming.clock import wall_us
from tests.serving.shop import INSTANCE
from tests.serving.shop_server import FEEDBACK, PREDICT, Server
from tests.several_redis import cluster_of_three, sentinels_of_three, until

pytestmark = pytest.mark.integration


async def predict(http: httpx.AsyncClient) -> str:
    answer = await http.post(PREDICT, json={"instances": [INSTANCE]})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["predictions"][0]["prediction_id"])


async def tell(http: httpx.AsyncClient, number: str) -> httpx.Response:
    return await http.post(FEEDBACK, json={"items": [{"prediction_id": number, "label": 1}]})


async def in_time(ask: Any, timeout_s: float = 20) -> float:
    """Ask until it is answered with 200; the seconds that took."""
    began = time.monotonic()
    while time.monotonic() - began < timeout_s:
        answer = await ask()
        if answer.status_code == 200:
            return time.monotonic() - began
        assert answer.status_code in (404, 503), answer.text
        await asyncio.sleep(0.1)
    raise AssertionError(f"not in {timeout_s} s: {answer.text}")


def test_a_prediction_is_logged_found_and_told_its_truth_on_a_cluster(tmp_path: Path) -> None:
    with cluster_of_three(tmp_path) as made:
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in made.ports)
        server = Server(tmp_path, url, redis_timeout_s=5)
        server.version()
        server.clock = wall_us

        async def scenario(http: httpx.AsyncClient) -> None:
            number = await predict(http)
            await in_time(lambda: http.get(f"/v1/predictions/{number}"))
            assert (await in_time(lambda: tell(http, number))) < 5
            assert "headrace_predictions_total" in (await http.get("/metrics")).text
            ready = await http.get("/readyz")
            assert ready.status_code == 200, ready.text

        server.run(scenario)
        seen: Any = redis_client.connect(url)
        assert seen.xlen(prediction_log_key(server.project)) == 1
        assert seen.xlen(label_log_key(server.project)) == seen.hlen(labels_key(server.project, "sells_out")) == 1


def test_after_a_fail_over_the_new_master_is_asked(tmp_path: Path) -> None:
    """The master is killed: what was answered stays, and within seconds everything works as before."""
    with sentinels_of_three(tmp_path) as made:
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in made.sentinels) + "/shelves/0"
        server = Server(tmp_path, url, redis_timeout_s=1)
        server.version()
        server.clock = wall_us
        store: Any = redis_client.connect(url)
        hot = client(url, 1.0)

        async def scenario(http: httpx.AsyncClient) -> None:
            first = await predict(http)
            await in_time(lambda: http.get(f"/v1/predictions/{first}"))
            assert (await hot.ask([(b"SET", b"k", b"1"), (b"GET", b"k")], 1.0)) == [b"OK", b"1"]
            until(lambda: store.execute_command("WAIT", 1, 1000) == 1)
            made.kill(made.ports[0])
            second = await predict(http)  # is answered meanwhile, and its log entry waits
            assert await in_time(lambda: http.get(f"/v1/predictions/{second}")) < 15
            await in_time(lambda: tell(http, first))
            for number in (first, second):
                assert (await http.get(f"/v1/predictions/{number}")).status_code == 200
            assert (await hot.ask([(b"GET", b"k"), (b"SET", b"k", b"2")], 5.0)) == [b"1", b"OK"]
            await hot.close()

        server.run(scenario)
        assert store.get("k") == b"2"
        assert store.xlen(prediction_log_key(server.project)) == 2


def test_a_master_that_is_one_no_longer_is_left(tmp_path: Path) -> None:
    """A fail-over that nobody died of: the one that was the master refuses writes, and the next one goes to the one that is."""
    with sentinels_of_three(tmp_path) as made:
        url = "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in made.sentinels) + "/shelves"
        store: Any = redis_client.connect(url)
        assert store.set("k", "1")

        async def write() -> bytes | None:
            hot = client(url, 1.0)
            assert (await hot.ask([(b"SET", b"k", b"2")], 1.0)) == [b"OK"]
            asked = redis_client.client(f"redis://:{'correct-horse-battery-watch'}@127.0.0.1:{made.sentinels[0]}")
            asked.execute_command("SENTINEL", "FAILOVER", "shelves")
            deadline = time.monotonic() + 30
            before = made.ports[0]
            while time.monotonic() < deadline and (await redis_client.master(url))[1] == before:
                await asyncio.sleep(0.1)
            replies: list[Any] = []
            while time.monotonic() < deadline and replies != [b"OK"]:
                try:
                    replies = await hot.ask([(b"SET", b"k", b"3")], 1.0)
                except OSError:
                    await asyncio.sleep(0.1)
            await hot.close()
            return bytes(replies[0])

        assert asyncio.run(write()) == b"OK"
        until(lambda: store.get("k") == b"3", 20)


def test_a_cluster_that_is_called_one_server_is_told_what_to_write(tmp_path: Path) -> None:
    with cluster_of_three(tmp_path) as made:
        settings = Settings(state=tmp_path / "state", redis_url=f"redis://127.0.0.1:{made.ports[0]}")
        assert "write redis+cluster://" in (redis_server.unreachable(settings) or "")
        assert redis_server.unreachable(settings.model_copy(update={"redis_url": f"redis+cluster://127.0.0.1:{made.ports[1]}"})) is None
