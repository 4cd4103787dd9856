"""Servers under the load of the benchmark: ours and its peers, started, measured and ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import httpx
import msgspec
import psutil

from infra.ports import port
from infra.settings import ROOT, Settings
from tests.bench.http import scalars
from tests.bench.http.load import wrk

NOOP, OURS, WINDOWED = "no-op, same ingress", "ours", "windowed"
WINDOWS_AT = "2013-12-20T18:00:00Z"
START_S = 180


@dataclass
class Target:
    """A server under load."""

    name: str
    url: str
    bodies: Path
    process: psutil.Process
    memory: float = 0.0
    p50: dict[int, list[float]] = field(default_factory=dict)
    p99: dict[int, list[float]] = field(default_factory=dict)
    p999: dict[int, list[float]] = field(default_factory=dict)
    rate: dict[int, list[float]] = field(default_factory=dict)
    cpu_us: list[dict[str, float]] = field(default_factory=list)
    errors: int = 0

    def load(self, connections: int, seconds: float, redis: psutil.Process) -> None:
        before = _cpu(self.process, redis)
        found = wrk(self.url, self.bodies, connections, seconds)
        after = _cpu(self.process, redis)
        for kept, value in ((self.p50, found.p50), (self.p99, found.p99), (self.p999, found.p999), (self.rate, found.rate)):
            kept.setdefault(connections, []).append(value)
        self.errors += found.errors
        if connections == 32:
            self.cpu_us.append({k: 1e6 * (v - before.get(k, 0.0)) / max(found.requests, 1) for k, v in after.items()})

    def of(self, kept: dict[int, list[float]], connections: int) -> float:
        return median(kept[connections])


def _family(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return [process, *process.children(recursive=True)]
    return []


def _cpu(process: psutil.Process, redis: psutil.Process) -> dict[str, float]:
    """CPU seconds by kind of process."""
    found: dict[str, float] = {}
    for one in (*_family(process), redis):
        with contextlib.suppress(psutil.Error):
            name, line = one.name(), " ".join(one.cmdline())
            replica = "ServeReplica" in line or "ServeReplica" in name
            kind = "redis" if one == redis else "haproxy" if name == "haproxy" else "replica" if replica else "other"
            times = one.cpu_times()
            found[kind] = found.get(kind, 0.0) + times.user + times.system
    return found


def memory(process: psutil.Process) -> float:
    total = 0
    for one in _family(process):
        with contextlib.suppress(psutil.Error):
            total += one.memory_full_info().pss
    return total / 2**30


def start(
    own: Settings, plain: Path, model: Path, bodies: dict[str, Path], stack: contextlib.ExitStack, told: Callable[[str], None]
) -> dict[str, Target]:
    peers = ROOT / "tests" / "bench" / "peers"
    noop_state = own.state / "n"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HEADRACE_REPO": str(own.state / "repo"), "HEADRACE_REDIS_URL": own.redis()}
    python, noop = sys.executable, str(peers / "noop.py")
    targets: dict[str, Target] = {}

    def add(names: dict[str, str], bodies_of: str, command: list[str], base: str, ready: str, more: dict[str, str] | None = None) -> None:
        told(f"starting {' and '.join(names)}")
        process = stack.enter_context(running(own, command, environment | (more or {}), next(iter(names)), f"{base}{ready}"))
        for name, path in names.items():
            targets[name] = Target(name, base + path, bodies[bodies_of], process)

    http = f"http://127.0.0.1:{port(own.state, 'http')}"
    predict = f"/v1/models/{scalars.MODEL}/predict"
    add({OURS: predict}, "predict", [python, "-m", "serving.deployment.app"], http, "/readyz")
    other = Settings(repo=own.state / "repo", state=noop_state, redis_url=own.redis())
    same = f"http://127.0.0.1:{port(other.state, 'http')}"
    more = {"HEADRACE_STATE": str(noop_state)}
    add(
        {NOOP: "/noop", "Feast SDK, same ingress": "/sdk"},
        "predict",
        [python, noop, "haproxy", str(plain), str(model), "0"],
        same,
        "/readyz",
        more,
    )
    number = port(own.state, "peer-uvicorn")
    command = [python, noop, "uvicorn", str(plain), str(model), str(number)]
    add({"no-op, uvicorn": "/noop", "FastAPI + Feast SDK": "/sdk"}, "predict", command, f"http://127.0.0.1:{number}", "/readyz")
    number = port(own.state, "peer-ray")
    command = [python, noop, "ray", str(plain), str(model), str(number)]
    add({"Ray Serve default + Feast SDK": "/sdk"}, "predict", command, f"http://127.0.0.1:{number}", "/readyz")
    number = port(own.state, "peer-feast")
    feast = [str(Path(python).with_name("feast")), "-c", str(plain), "serve", "-h", "127.0.0.1", "-p", str(number), "--no-access-log"]
    add({"feast serve (features only)": "/get-online-features"}, "feast", feast, f"http://127.0.0.1:{number}", "/health")
    bento = _bento(own, told)
    if bento is not None:
        number = port(own.state, "peer-bento")
        command = [str(bento), "serve", "bento:Scores", "--working-dir", str(peers), "--port", str(number), "--host", "127.0.0.1"]
        more = {
            "BENCH_REPO": str(plain),
            "BENCH_MODEL": str(model),
            "BENTOML_HOME": str(own.state / "bento"),
            "BENTOML_DO_NOT_TRACK": "True",
            "PYTHONPATH": "",
        }
        add({"BentoML + Feast SDK": "/sdk"}, "predict", command, f"http://127.0.0.1:{number}", "/readyz", more)
    return targets


def _bento(own: Settings, told: Callable[[str], None]) -> Path | None:
    """BentoML's pins are not ours: an environment of its own. None where it cannot be installed."""
    told("installing BentoML")
    folder = own.state / "bento-env"
    uv = [sys.executable, "-m", "uv"]
    made = subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], capture_output=True, check=False)
    command = [*uv, "pip", "install", "-q", "--python", str(folder / "bin" / "python"), "bentoml", "feast[redis]==0.67.*", "onnxruntime"]
    done = subprocess.run(command, capture_output=True, check=False, timeout=600) if made.returncode == 0 else made
    return folder / "bin" / "bentoml" if done.returncode == 0 else None


@contextlib.contextmanager
def running(own: Settings, command: list[str], environment: dict[str, str], name: str, ready: str) -> Iterator[psutil.Process]:
    log = own.state / f"bench-{''.join(c for c in name if c.isalnum())}.log"
    with open(log, "wb") as out:
        process = subprocess.Popen(command, env=environment, cwd=own.state, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        deadline = time.monotonic() + START_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(ready, timeout=2).status_code == 200 and (
                    "serving.deployment.app" not in command or b"ready http" in log.read_bytes()
                ):
                    break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{name} did not start: {log.read_text()[-2000:]}")
            time.sleep(0.3)
        if "noop.py" in " ".join(command) and "haproxy" in command:
            while b"ready http" not in log.read_bytes() and time.monotonic() < deadline:
                time.sleep(0.3)
        yield psutil.Process(process.pid)
    finally:
        family = _family(psutil.Process(process.pid)) if process.poll() is None else []
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(60)
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()


def start_windowed(
    own: Settings, environment: dict[str, str], stack: contextlib.ExitStack, told: Callable[[str], None]
) -> dict[str, Target]:
    from feature_repo.records import contract, release
    from feature_repo.spec.use_case import UseCase
    from serving.simulation.replay import requests_of

    told("starting the flights")
    other = Settings(
        repo=Path(environment["HEADRACE_REPO"]), state=Path(environment["HEADRACE_STATE"]), redis_url=environment["HEADRACE_REDIS_URL"]
    )
    base = f"http://127.0.0.1:{port(other.state, 'http')}"
    process = stack.enter_context(running(own, [sys.executable, "-m", "serving.deployment.app"], environment, WINDOWED, f"{base}/readyz"))
    spec = UseCase(other.repo).model("arrival_delay")
    number = release.champion(other.model_root, spec.name)
    made = contract.load(other.model_root / spec.name / str(number))
    end = datetime.fromisoformat(WINDOWS_AT)
    span = [round((end + timedelta(hours=h)).timestamp() * 1e6) for h in (-12, 0)]
    asked = requests_of(spec, made, other.offline_root, *span)
    bodies = [msgspec.json.encode({"instances": [instance], "now": WINDOWS_AT}) for instance, _, _ in asked.items[:500]]
    path = scalars.write_bodies(own.state / "windowed.jsonl", bodies)
    return {WINDOWED: Target(WINDOWED, f"{base}/v1/models/{spec.name}/predict", path, process)}
