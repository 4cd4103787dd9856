"""How every part of the platform fares: by its own word in Redis, and by what the supervisor notes in this checkout's files."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from infra.settings import Settings
from infra.supervision import process, redis_server, services
from infra.supervision.beat import Beat, Part, judge
from infra.supervision.supervisor import Supervisor
from infra.timestamps import span_text

STARTING_S = 180.0
"""So long a part that was started may go without a word."""
SUPERVISOR = "supervisor"


@dataclass(frozen=True)
class Kept:
    """What this checkout's supervisor notes.

    Attributes:
        up_s: by service that was started here, for how long its process runs; None: it does not.
        restarts: by service, how often it was started again since somebody asked for it.
        supervised: whether the supervisor runs; None: nobody has started one.
    """

    up_s: dict[str, float | None] = field(default_factory=dict)
    restarts: dict[str, int] = field(default_factory=dict)
    supervised: bool | None = None


def kept(settings: Settings) -> Kept:
    """Read the files of this checkout; blocks as files do."""
    found, restarts = dict[str, float | None](), dict[str, int]()
    supervisor = Supervisor(settings)
    for name in services.names(settings):
        running = process.alive(settings, name)
        found[name] = None if running is None else time.time() - running.started
        restarts[name] = process.restarts(settings, name)
    with suppress(OSError):
        return Kept(found, restarts, True if supervisor.record else False if supervisor.killed else None)
    return Kept(found, restarts)


def parts(now_us: int, beats: dict[str, Beat], noted: Kept) -> list[Part]:
    """Every part: those that speak for themselves, and those that ought to, by the supervisor's notes. Redis is not among them: it answered.

    A part that was told to stop, or was never started, is absent.
    """
    found = {part.name: part for part in judge(now_us, beats)}
    for name, up_s in noted.up_s.items():
        if name in found or name == redis_server.NAME:
            continue
        if up_s is None:
            found[name] = Part(name, "silent", "it does not run")
        elif up_s < STARTING_S:
            found[name] = Part(name, "starting")
        else:
            found[name] = Part(name, "silent", f"no word since its start {span_text(up_s)} ago")
    if noted.supervised is not None:
        missing = "it does not run: what ends now stays down; `headrace up` brings it back"
        found[SUPERVISOR] = Part(SUPERVISOR, *(("well", "") if noted.supervised else ("silent", missing)))
    return [found[name] for name in sorted(found)]


def degraded(found: Sequence[Part]) -> list[dict[str, str]]:
    """What is wrong, and why, for people."""
    return [{"part": part.name, "detail": part.detail} for part in found if part.degraded]


def part_metrics(found: Sequence[Part], restarts: dict[str, int]) -> Iterable[Metric]:
    """Gauges of the parts; one that is starting is neither up nor down."""
    up = GaugeMetricFamily("headrace_part_up", "1 where a part does its work, 0 where it fails or is silent.", labels=["part"])
    text = "Since the part's last round ended."
    age = GaugeMetricFamily("headrace_part_beat_age_seconds", text, labels=["part"])
    for part in found:
        if part.state != "starting":
            up.add_metric([part.name], float(not part.degraded))
        if part.age_s is not None:
            age.add_metric([part.name], part.age_s)
    text = "How often the supervisor of this machine has started the part again since somebody asked for it."
    again = CounterMetricFamily("headrace_part_restarts", text, labels=["part"])
    for name, count in restarts.items():
        again.add_metric([name], count)
    yield from (up, age, again)
