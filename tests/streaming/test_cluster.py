"""The same engines on a 3-shard Redis Cluster with a password, and on Spark with two workers in processes of their own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from feature_repo.records.redis_keys import keys_key
from infra.settings import ROOT
from serving.features.decoder import FRESH
from serving.features.reader import OnlineReader
from streaming.aggregation.windows import DAY, HOUR
from streaming.live.event_log import SCHEMA
from streaming.live.sink import apply_batch
from streaming.online import entity_index
from streaming.online.removal import remove
from streaming.online.store import OnlineStore, connect
from streaming.status import view_states
from tests.oracle.nasty import whole
from tests.several_redis import PASSWORD, cluster_of_three, until
from tests.streaming.world import START, World, produce, views, wait_applied

pytestmark = pytest.mark.integration

SEAM = START + 2 * DAY
END = START + 3 * DAY + 2 * HOUR


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Three masters, every slot covered; the URL of one of them, without the password."""
    with cluster_of_three(tmp_path_factory.mktemp("nodes")) as made:
        yield f"redis://127.0.0.1:{made.ports[0]}/0"


def child(what: str, url: str, root: Path, state: Path, project: str, **settings: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "HEADRACE_STATE": str(state),
        "HEADRACE_REDIS_URL": url,
        "HEADRACE_SPARK_MEMORY": "600m",
        "PYTHONPATH": str(ROOT),
    }
    environment |= {f"HEADRACE_{name.upper()}": value for name, value in settings.items()}
    state.mkdir(exist_ok=True)
    argv = [sys.executable, "-m", "tests.streaming.world", what, url, str(root), project, str(SEAM)]
    with open(state / f"{what}.log", "wb") as log:
        return subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[World, Path]:
    made, root = World(rows=9_000, users=200, seed=9), tmp_path_factory.mktemp("world")
    made.write(root, SEAM)
    return made, root


def read(url: str, project: str, users: list[int], t_us: int) -> Any:
    async def go() -> Any:
        reader = OnlineReader([whole(v) for v in views(project)], url, 5.0)
        try:
            return await reader.read([{"user": u, "kind": "a"} for u in users], t_us)
        finally:
            await reader.close()

    return asyncio.run(go())


def test_backfill_stream_read_and_removal_on_a_redis_cluster_from_a_spark_cluster(
    cluster: str, world: tuple[World, Path], tmp_path: Path
) -> None:
    made, root = world
    project, client, state = "clustered", connect(cluster), tmp_path / "state"
    settings = {"spark_master": "local-cluster[2,1,900]", "spark_executor_memory": "500m", "shuffle_partitions": "2"}
    backfill = child("backfill", cluster, root, state, project, **settings)
    assert backfill.wait(240) == 0, (state / "backfill.log").read_text()[-3000:]
    said = (state / "backfill.log").read_text()
    assert said.count("error=None") == 2, said
    for view in views(project):
        made.check(client, view, SEAM, SEAM + HOUR)
    per_node = [len([k for k in node.keys("*") if b"clustered" in k]) for node in _nodes(client)]
    assert min(per_node) > 20, per_node  # every shard holds its part

    streaming = child("stream", cluster, root, state, project, stream_tasks="2", **settings)
    try:
        until(lambda: b"ready" in (state / "stream.log").read_bytes(), 120)
        produce(client, project, made.rows_known(SEAM, END))
        wait_applied(client, project)
    finally:
        streaming.terminate()
        assert streaming.wait(120) == 0, (state / "stream.log").read_text()[-3000:]
    for view in views(project):
        made.check(client, view, END, END)

    rows = read(cluster, project, list(range(30)), END)
    assert (rows.statuses[:, 0] == FRESH).any()
    states = {s.view: s for s in view_states(client, views(project))}
    assert states["latest"].entities > 150
    assert states["latest"].bytes > 0
    done = remove(client, views(project)[0])
    assert done.entities == states["latest"].entities
    assert not entity_index.count(client, keys_key(project, "latest"))[0]
    made.check(client, views(project)[1], END, END)  # the other view lies on other keys, untouched

    for path in state.rglob("*"):  # a secret is in no log, no plan, no closure that was written down
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def _nodes(client: Any) -> list[Any]:
    return [client.get_redis_connection(node) for node in client.get_primaries()]


def test_a_batch_on_the_cluster_is_applied_once(cluster: str) -> None:
    import pyarrow as pa

    client, compiled = connect(cluster), views("once")
    rows = [b'{"user": %d, "kind": "a", "at": "2020-09-13T00:00:00Z", "x": 1.5, "label": "l"}' % (i % 50) for i in range(500)]
    batch = pa.table([list(range(1, 501)), [0] * 500, ["things"] * 500, rows, [""] * 500], schema=SCHEMA)
    for _ in range(2):
        apply_batch(compiled, OnlineStore(client), batch)
    found = read(cluster, "once", list(range(50)), 1_599_955_200_000_000 + 60_000_000)
    assert (found.values[:, 2] == 10).all()  # windows: count of x over an hour


def test_a_cluster_that_moves_a_slot_loses_nothing(cluster: str) -> None:
    """A client with an old map of the slots is told so by MOVED, and goes where they are."""
    import pyarrow as pa

    client, compiled = connect(cluster), views("moved")
    store = OnlineStore(client)
    rows = [b'{"user": %d, "kind": "a", "at": "2020-09-13T00:00:00Z", "x": 1.5, "label": "l"}' % i for i in range(200)]
    batch = pa.table([list(range(1, 201)), [0] * 200, ["things"] * 200, rows, [""] * 200], schema=SCHEMA)
    cache = client.nodes_manager.slots_cache  # type: ignore[attr-defined]
    first = cache[0]
    for slot in range(0, 16384, 2):  # half of what it believes is wrong
        cache[slot] = first
    apply_batch(compiled, store, batch)
    assert entity_index.count(client, keys_key("moved", "latest"))[0] == 200
