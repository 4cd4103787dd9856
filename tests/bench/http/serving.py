"""Predictions over HTTP: ours beside the no-op of its own ingress, and beside the usual ways to serve Feast features to a model."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import msgspec
import psutil

from feature_repo.records.redis_keys import keys_key
from infra.settings import ROOT, Settings
from infra.supervision import redis_server
from streaming.online import entity_index
from streaming.online.store import connect
from tests.bench.http import scalars
from tests.bench.http.load import paced, wrk
from tests.bench.http.targets import NOOP, OURS, WINDOWED, WINDOWS_AT, Target, memory, start, start_windowed
from tests.bench.report import Measurement


def run(own: Settings, scale: float, rounds: int, told: Callable[[str], None]) -> list[Measurement]:
    told("features and a model")
    redis_server.up(own)
    redis = psutil.Process(connect(own.redis()).info("server")["process_id"])  # type: ignore[index]
    case = scalars.make(own, own.state / "repo")
    plain = scalars.write_repo(own.state / "feast", own, "dask")
    model = own.model_root / scalars.MODEL / "1" / "model.onnx"
    bodies = {
        "predict": scalars.write_bodies(own.state / "predict.jsonl", scalars.predict_bodies()),
        "feast": scalars.write_bodies(own.state / "feast.jsonl", scalars.feast_bodies()),
    }
    seconds = max(1.0, 5 * scale)
    windows = _windows(own, told)
    with contextlib.ExitStack() as stack:
        targets = start(own, plain, model, bodies, stack, told)
        targets |= start_windowed(own, windows, stack, told)
        _same_scores(targets)
        for target in targets.values():
            wrk(target.url, target.bodies, 8, 2)  # everything imported, every branch taken once
        for i in range(rounds):
            for connections in (1, 8, 32):
                for target in targets.values():
                    told(f"round {i + 1} of {rounds}: {target.name}, {connections} connections")
                    target.load(connections, seconds, redis)
        told("at a fixed rate")
        calm = _calm(targets, seconds)
        told("beside a shadow")
        shadowed = _shadowed(own, targets[OURS], rounds, seconds)
        for target in targets.values():
            target.memory = memory(target.process)
        measurements = [*_measurements(targets, calm), *shadowed]
    told("the reader, and what bounds it")
    return [*measurements, *_limits(own, case, model), *_finishing(windows)]


def _same_scores(targets: dict[str, Target]) -> None:
    """Every peer that scores gives what ours gives."""
    body = targets[OURS].bodies.read_bytes().splitlines()[0]
    ours = httpx.post(targets[OURS].url, content=body).json()["predictions"][0]["score"]
    for name, target in targets.items():
        if target.url.endswith("/sdk"):
            answer = httpx.post(target.url, content=body, headers={"Content-Type": "application/json"}, timeout=20)
            theirs = answer.json()["scores"][0]
            if abs(theirs - ours) > 1e-12:
                raise AssertionError(f"{name} scores {theirs}, ours {ours}")


def _windows(own: Settings, told: Callable[[str], None]) -> dict[str, str]:
    """The flights, ingested, backfilled to a moment and trained, in a state folder of their own; the environment to serve them with."""
    environment = os.environ | {
        "HEADRACE_STATE": str(own.state / "w"),
        "HEADRACE_REPO": str(ROOT / "feature_repo" / "flights"),
        "HEADRACE_REDIS_URL": own.redis().removesuffix("/0") + "/1",
        "PYTHONPATH": str(ROOT),
    }
    for command in (["ingest"], ["apply"], ["backfill", "--to", WINDOWS_AT], ["train", "--promote"]):
        told(f"the flights: {command[0]}")
        done = subprocess.run(
            [sys.executable, str(ROOT / "headrace.py"), *command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")
    return environment


def _finishing(environment: dict[str, str]) -> list[Measurement]:
    """One row with all windows: finished anew each time, and remembered where nothing has changed."""
    import asyncio

    from feature_repo.spec.use_case import UseCase
    from serving.features.reader import OnlineReader

    own = Settings(
        repo=Path(environment["HEADRACE_REPO"]), state=Path(environment["HEADRACE_STATE"]), redis_url=environment["HEADRACE_REDIS_URL"]
    )
    own.export()
    case = UseCase(own.repo)
    spec = case.model("arrival_delay")
    asked = [msgspec.json.decode(line)["instances"][0] for line in (own.state.parent / "windowed.jsonl").read_bytes().splitlines()]
    at_us = round(datetime.fromisoformat(WINDOWS_AT).timestamp() * 1e6)

    async def read(cache: int) -> float:
        reader = OnlineReader.open(case.store, spec.feature_service, own.redis(), 5.0, cache)
        took = []
        for i in range(3000):
            began = time.perf_counter()
            await reader.read([asked[i % len(asked)]], at_us)
            took.append((time.perf_counter() - began) * 1e6)
        await reader.close()
        return median(took[1000:])

    computed, remembered = asyncio.run(read(0)), asyncio.run(read(64 * 2**20))
    return [Measurement("reader: one row, all windows of the flights", "us", remembered, {"every window finished anew": computed})]


def _shadowed(own: Settings, target: Target, rounds: int, seconds: float) -> list[Measurement]:
    """The champion's latency at a quarter of capacity, with a challenger in its shadow and without, in turns."""
    from feature_repo.records import release

    scalars.challenger(own)
    rate = median(target.rate[32]) / 4
    bodies = target.bodies.read_bytes().splitlines()
    took: dict[bool, list[list[float]]] = {False: [], True: []}
    for _ in range(rounds):
        for shadow in (False, True):
            release.shadow(own.model_root, scalars.MODEL, 2 if shadow else None)
            time.sleep(3)
            took[shadow].append(sorted(paced(target.url, bodies, rate, seconds).accepted))
    release.shadow(own.model_root, scalars.MODEL, None)
    found = []
    for q, label in ((0.5, "p50"), (0.99, "p99")):
        alone, beside = (median(t[int(len(t) * q)] for t in took[shadow]) for shadow in (False, True))
        found.append(Measurement(f"with a challenger in shadow, a quarter of capacity: {label}", "ms", beside, {"without": alone}))
    return found


def _calm(targets: dict[str, Target], seconds: float) -> dict[str, tuple[float, float, float]]:
    """p50, p99, p99.9 at half of our capacity, from the moment each request was due."""
    rate = median(targets[OURS].rate[32]) / 2
    found = {}
    for name in (OURS, NOOP):
        target = targets[name]
        took = sorted(paced(target.url, target.bodies.read_bytes().splitlines(), rate, 2 * seconds).accepted)
        found[name] = tuple(took[min(len(took) - 1, int(len(took) * q))] for q in (0.5, 0.99, 0.999))
    return found  # type: ignore[return-value]


def _measurements(targets: dict[str, Target], calm: dict[str, tuple[float, float, float]]) -> list[Measurement]:
    ours, peers = targets[OURS], {n: t for n, t in targets.items() if n not in (OURS, WINDOWED)}
    windowed = targets[WINDOWED]
    found = []
    for connections in (1, 8, 32):
        for label, attribute in (("p50", "p50"), ("p99", "p99"), ("p99.9", "p999")):
            values = {n: t.of(getattr(t, attribute), connections) for n, t in peers.items()}
            what = f"one prediction, {connections} connection{'s' * (connections > 1)}: {label}"
            found.append(Measurement(what, "ms", ours.of(getattr(ours, attribute), connections), values))
        rates = {n: t.of(t.rate, connections) for n, t in peers.items()}
        found.append(
            Measurement(
                f"predictions, {connections} connection{'s' * (connections > 1)}", "1/s", ours.of(ours.rate, connections), rates, more=True
            )
        )
    for connections in (1, 32):
        what = f"all windows of the flights, {connections} connection{'s' * (connections > 1)}: p50"
        found.append(Measurement(what, "ms", windowed.of(windowed.p50, connections), {"20 scalars": ours.of(ours.p50, connections)}))
    for i, label in enumerate(("p50", "p99", "p99.9")):
        found.append(Measurement(f"at a fixed rate, half of capacity: {label}", "ms", calm[OURS][i], {NOOP: calm[NOOP][i]}))

    def spent(target: Target) -> float:
        return median(sum(one.values()) for one in target.cpu_us)

    by_kind = ", ".join(f"{k} {median(one.get(k, 0.0) for one in ours.cpu_us):.0f}" for k in ("replica", "haproxy", "redis", "other"))
    found.append(Measurement("CPU per prediction, all processes", "us", spent(ours), {n: spent(t) for n, t in peers.items()}, note=by_kind))
    found.append(Measurement("CPU per prediction with all windows, all processes", "us", spent(windowed), {"20 scalars": spent(ours)}))
    found.append(Measurement("errors, of all requests", "", ours.errors, {n: float(t.errors) for n, t in peers.items()}))
    started = next(
        x for x in httpx.get(ours.url.split("/v1/")[0] + "/metrics").text.splitlines() if x.startswith("headrace_start_seconds ")
    )
    found.append(Measurement("a replica's start, from its first line to every model loaded", "s", float(started.split()[1])))
    found.append(Measurement("memory of the server, all processes", "GiB", ours.memory, {n: t.memory for n, t in peers.items()}))
    return found


def _limits(own: Settings, case: Any, model: Path) -> list[Measurement]:
    import asyncio

    import numpy as np

    from serving.features.reader import OnlineReader
    from serving.inference.scorer import Scorer
    from streaming.online.resp import bulk, commands, send

    store, rounds = case.store, 30
    service = store.get_feature_service("wide")
    rows = [{"user_id": i} for i in range(100)]

    async def read() -> list[float]:
        reader = OnlineReader.open(store, "wide", own.redis(), 5.0)
        took = []
        for _ in range(rounds * 3):
            began = time.perf_counter()
            await reader.read(rows, time.time_ns() // 1000)
            took.append((time.perf_counter() - began) * 1e3)
        await reader.close()
        return took

    ours = median(asyncio.run(read()))
    feast, whole = [], []
    for _ in range(rounds):
        began = time.perf_counter()
        answer = store.get_online_features(features=service, entity_rows=rows)
        feast.append((time.perf_counter() - began) * 1e3)
        answer.to_dict()
        whole.append((time.perf_counter() - began) * 1e3)
    scorer = Scorer(model, 20)
    matrix = np.zeros((1, 20))
    began = time.perf_counter()
    for _ in range(2000):
        scorer.score(matrix)
    onnx = (time.perf_counter() - began) / 2000 * 1e6
    client = connect(own.redis())
    some = entity_index.sample(client, keys_key("bench", "by_user"), 4)
    packed = commands([b"HMGET"], [[bulk(k) for k in some], [bulk(b"_hr:by_user")] * 4, [bulk(b"_ts:by_user")] * 4])
    began = time.perf_counter()
    for _ in range(1000):
        send(client, packed)
    redis = time.perf_counter() - began
    return [
        Measurement("reader: 100 rows x 5 views x 10 features", "ms", ours, {"Feast": median(feast), "Feast, to_dict": median(whole)}),
        Measurement("one ONNX run, one row, 200 trees", "us", onnx),
        Measurement("one pipelined read of four entities", "us", redis * 1e3),
    ]
