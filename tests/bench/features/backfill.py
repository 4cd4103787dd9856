"""A million rows into Redis: ours beside Feast's two engines and a single-process vectorised writer."""

from __future__ import annotations

import time
from collections.abc import Callable

from feature_repo.records.redis_keys import keys_key
from infra.redis_client import for_feast
from infra.settings import Settings
from infra.supervision import redis_server
from streaming.backfill.run import backfill
from streaming.online import feast_layout
from streaming.online.store import connect
from tests.bench.features.data import END_US, latest_view, windowed_view, write_table
from tests.bench.measure import Peer, memory
from tests.bench.report import Measurement, rounds

FEATURES = 10


def run(own: Settings, scale: float, number: int, told: Callable[[str], None]) -> list[Measurement]:
    from streaming.offline.spark import session

    rows, entities = (max(1000, round(n * scale)) for n in (1_000_000, 200_000))
    root, url = own.offline_root, None
    told("writing tables")
    write_table(root, "wide", rows, entities, FEATURES)
    redis_server.up(own)
    url = own.redis()
    server = url.removesuffix("/0")
    client = connect(url)
    spark = session(own)
    table, view = str(root / "wide"), latest_view("wide", FEATURES)
    told("starting the peers")
    peers = {
        "Feast's Spark engine": Peer(own, "feast_materialize", "spark", table, str(FEATURES), for_feast(f"{server}/1")),
        "Feast's local engine": Peer(own, "feast_materialize", "local", table, str(FEATURES), for_feast(f"{server}/2")),
        "vectorised writer": Peer(own, "writer", table, str(FEATURES), f"{server}/3"),
    }
    wrote: dict[str, list[float]] = {"ours": [], "vectorised writer": []}
    keys = 0

    def ours() -> float:
        nonlocal keys
        client.flushdb()
        (done,) = backfill(spark, [view], root, url, END_US)
        if done.error:
            raise RuntimeError(done.error)
        keys = done.entities
        return done.entities / done.seconds

    def again() -> float:
        began = time.monotonic()
        backfill(spark, [view], root, url, END_US)
        return time.monotonic() - began

    def theirs(name: str) -> Callable[[], float]:
        def one() -> float:
            for db in (1, 2, 3):
                connect(f"{server}/{db}").flushdb()
            found = peers[name]()
            if "write" in found:
                wrote[name].append(found["keys"] / found["write"])
            return keys / float(found["seconds"])

        return one

    ours()
    with memory() as used:
        found = rounds(number, {"ours": ours, **{name: theirs(name) for name in peers}}, told)
        repeated = again()
    _check(own, view.project, entities)
    phase = _write_phase(own, view, told)
    told("a windowed view")
    windowed = windowed_view("windows", "wide", 5)
    (first,) = backfill(spark, [windowed], root, url, END_US)
    for peer in peers.values():
        peer.close()
    what = f"{rows:,} rows -> {keys:,} keys x {FEATURES} float64"
    return [
        Measurement(f"backfill, {what}, all in all", "keys/s", found["ours"], {n: found[n] for n in peers}, more=True),
        Measurement(
            "its write phase (one process)", "keys/s", phase, {"vectorised writer": sorted(wrote["vectorised writer"])[0]}, more=True
        ),
        Measurement("the same backfill again, over what is there", "s", repeated),
        Measurement(f"a windowed view of the same rows, {len(windowed.features)} features", "s", first.seconds),
        Measurement("memory, all processes (three peers' among them)", "GiB", used.peak),
    ]


def _write_phase(own: Settings, view: object, told: Callable[[str], None]) -> float:
    """Keys a second from events in memory to Redis, in this process alone."""
    import pyarrow as pa
    import pyarrow.dataset as ds

    from streaming.online.store import OnlineStore
    from streaming.online.writer import overwrite
    from streaming.schema.columns import EVENT, KNOWN, canonical
    from streaming.schema.feature_view import View

    assert isinstance(view, View)
    told("the write phase alone")
    table = ds.dataset(own.offline_root / "wide", format="parquet").to_table()
    table = table.append_column(EVENT, table["event_timestamp"].cast(pa.int64())).append_column(
        KNOWN, table["created_timestamp"].cast(pa.int64())
    )
    table = canonical(table.drop_columns(["event_timestamp", "created_timestamp"]))
    client = connect(own.redis())
    client.flushdb()
    began = time.monotonic()
    keys = overwrite(view, OnlineStore(client), table, (keys_key(view.project, view.name),), END_US)
    return keys / (time.monotonic() - began)


def _check(own: Settings, project: str, entities: int) -> None:
    """What lies there is what the table says, read with nothing of ours but the key's encoding."""
    import pyarrow.compute as pc
    import pyarrow.dataset as ds

    client, encode = connect(own.redis()), feast_layout.key_encoder(project, [("user_id", "int64")])
    table = ds.dataset(own.offline_root / "wide", format="parquet").to_table()
    for user in range(0, entities, max(1, entities // 50)):
        mine = table.filter(pc.equal(table["user_id"], user)).sort_by([("event_timestamp", "descending")])
        stored = client.hget(encode([user]), feast_layout.field("wide", "f0"))  # type: ignore[arg-type]
        want = mine["f0"][0].as_py() if mine.num_rows else None
        if feast_layout.decode_value(stored) != want:  # type: ignore[arg-type]
            raise AssertionError(f"user {user}: {stored!r} is not {want}")
