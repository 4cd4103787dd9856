"""Load on loopback: `wrk` as fast as so many connections allow, or requests at a fixed rate with the waiting counted."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local bodies, at = {}, 0
for line in io.lines("%s") do bodies[#bodies + 1] = line end
request = function() at = at %% #bodies + 1; return wrk.format(nil, nil, nil, bodies[at]) end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('RESULT{"p50":%%f,"p99":%%f,"p999":%%f,"requests":%%d,"us":%%d,"errors":%%d}\\n', latency:percentile(50) / 1000,
    latency:percentile(99) / 1000, latency:percentile(99.9) / 1000, summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout))
end
"""


class LoadError(RuntimeError):
    """The load generator is missing or failed; says what to do."""


@dataclass(frozen=True)
class Load:
    """Milliseconds, and requests a second."""

    p50: float
    p99: float
    p999: float
    rate: float
    requests: int
    errors: int


def wrk(url: str, bodies: Path, connections: int, seconds: float) -> Load:
    """Closed loop.

    Args:
        bodies: a file with one JSON body per line, sent in turn.
    """
    if shutil.which("wrk") is None:
        raise LoadError("wrk is needed to make load: install the package `wrk` (Debian, Homebrew)")
    script = bodies.with_suffix(".lua")
    script.write_text(_LUA % bodies)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "--timeout", "10s", "-s", str(script), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    line = next((line for line in done.stdout.splitlines() if line.startswith("RESULT")), None)
    if line is None:
        raise LoadError(f"wrk failed: {done.stderr or done.stdout}")
    found = json.loads(line[6:])
    rate = found["requests"] / (found["us"] / 1e6)
    return Load(found["p50"], found["p99"], found["p999"], rate, found["requests"], found["errors"])


@dataclass
class Paced:
    """What came of requests sent at a fixed rate; latencies in milliseconds from the moment each was due."""

    accepted: list[float]
    refused: list[float]
    failed: int
    seconds: float


def paced(url: str, bodies: list[bytes], rate: float, seconds: float, connections: int = 64) -> Paced:
    """Open loop: request i is due at i / rate, whether or not the others were answered."""
    return asyncio.run(_paced(url, bodies, rate, seconds, connections))


async def _paced(url: str, bodies: list[bytes], rate: float, seconds: float, connections: int) -> Paced:
    parts = urlsplit(url)
    head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\nContent-Length: "
    packed = [head.encode() + b"%d\r\n\r\n" % len(b) + b for b in bodies]
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    found = Paced([], [], 0, seconds)
    began = time.perf_counter()

    async def one(i: int, due: float) -> None:
        try:
            reader, writer = idle.pop() if idle else await asyncio.open_connection(parts.hostname, parts.port, limit=2**22)
            writer.write(packed[i % len(packed)])
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
            lines = answer.lower().split(b"\r\n")
            status = int(lines[0].split()[1])
            length = next(int(x.split(b":")[1]) for x in lines if x.startswith(b"content-length:"))
            await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError, TimeoutError, StopIteration):
            found.failed += 1
            return
        took = (time.perf_counter() - due) * 1e3
        if status == 200:
            found.accepted.append(took)
        elif status in (429, 503):
            found.refused.append(took)
        else:
            found.failed += 1
        if any(x.startswith(b"connection: close") for x in lines):
            writer.close()
        else:
            idle.append((reader, writer))

    tasks = []
    for i in range(round(rate * seconds)):
        due = began + i / rate
        wait = due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(i, due)))
    await asyncio.gather(*tasks)
    found.seconds = time.perf_counter() - began
    for _, writer in idle:
        writer.close()
    return found
