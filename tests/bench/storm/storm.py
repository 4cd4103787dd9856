"""The storm's course: load and events begin, faults come one after the other, and each has to be recovered from before the next."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from tests.bench.storm import recovery
from tests.bench.storm.faults import Fault, Hand, NotDone, everything
from tests.bench.storm.ground import Ground
from tests.bench.storm.monitor import Monitor
from tests.bench.storm.parts import Parts
from tests.bench.storm.traffic.client import CUT
from tests.bench.storm.traffic.ledger import PROMPT_S, Ledger, Outcome
from tests.bench.storm.traffic.load import TIMEOUT_S, Load
from tests.bench.storm.traffic.producer import Producer
from tests.bench.storm.world import World

CALM_S = 15.0
"""Load alone, before the first fault and after the last."""
_PAUSE_S = 2.0
_SETTLES_S = 6.0
"""So long is looked on after a killed process is there again: what it takes over may be interrupted only then."""
_EVERY_S = 10.0


@dataclass(frozen=True)
class Plan:
    """
    Attributes:
        requests, events: a second.
        share: of each hostile.
        faults: in this order, again and again until the time is over.
        slack: times by which every bound on time is stretched, for a busy machine.
        limit_s: how long a recovery is waited for.
        lag_s: by how much a stream may be behind that keeps up.
    """

    minutes: float
    requests: float = 50.0
    events: float = 200.0
    share: float = 0.01
    faults: Sequence[Fault] = field(default_factory=everything)
    repeat: bool = True
    slack: float = 1.0
    limit_s: float = 120.0
    lag_s: float = recovery.LAG_S
    calm_s: float = CALM_S
    seed: int = 5


@dataclass
class Struck:
    """One fault as it went.

    Attributes:
        at: wall seconds at which it began; `over` when it was over.
        serving_s, stream_s, part_s: from then until each worked again; None: not within the limit.
        answers: how often each kind of answer came from its beginning to the next one's.
        why: it was not done, because.
    """

    fault: Fault
    at: float
    over: float = 0.0
    serving_s: float | None = None
    stream_s: float | None = None
    part_s: float | None = None
    answers: dict[str, int] = field(default_factory=dict)
    why: str = ""

    @property
    def recovery_s(self) -> float | None:
        times = (self.serving_s, self.stream_s, self.part_s)
        return None if None in times else max(t for t in times if t is not None)


@dataclass
class Course:
    """A storm that has passed: what the judgement is made of."""

    world: World
    plan: Plan
    parts: Parts
    ledger: Ledger
    load: Load
    producer: Producer
    monitor: Monitor
    began: float
    struck: list[Struck] = field(default_factory=list)
    never: list[str] = field(default_factory=list)

    def faults_at(self, moment: float) -> Struck | None:
        """The fault that was the last to begin by then."""
        return max((s for s in self.struck if s.at <= moment and not s.why), key=lambda s: s.at, default=None)

    def unexpected(self) -> list[Outcome]:
        """Answers that nothing excuses: also connections that were refused while what listens was not what was hit."""

        def excused(outcome: Outcome) -> bool:
            now = self.faults_at(outcome.at)
            if now is None or not (now.fault.cuts_short if outcome.status == CUT else now.fault.cuts_off):
                return False
            if outcome.verdict == "unreached":
                return outcome.at - now.over <= now.fault.bound_s * self.plan.slack
            # while what listens stood still, nobody could be prompt: counted from when it went on
            waited_s = outcome.at - max(outcome.at - outcome.took_s, now.over)
            return waited_s <= self.ledger.prompt_s

        doubtful = ("late", "unreached")
        return [
            o
            for o in self.ledger.outcomes
            if o.verdict == "unexpected" or (o.verdict in doubtful and not (o.hostile and o.verdict == "unreached") and not excused(o))
        ]


def weather(world: World, ground: Ground, plan: Plan, told: Callable[[str], None], running: Callable[[], bool] = lambda: True) -> Course:
    """Let a storm fall upon a platform that is up.

    Args:
        told: a line of progress.
        running: asked often; False ends the storm.
    """
    ledger, parts = Ledger(PROMPT_S * plan.slack), Parts(world.own)
    load = Load(world, ledger, plan.requests, plan.share, plan.seed, TIMEOUT_S * plan.slack)
    producer = Producer(world, ledger, plan.events, plan.share, plan.seed)
    monitor = Monitor(world, parts)
    course = Course(world, plan, parts, ledger, load, producer, monitor, time.time())
    ended = threading.Event()
    teller = threading.Thread(target=_tell, args=(course, told, ended), daemon=True)
    for one in (monitor, producer, load):
        one.start()
    teller.start()
    try:
        _strike_all(course, Hand(parts, ground, producer), told, running)
    finally:
        ended.set()
        load.stop()
        producer.stop()
        _wait(lambda: monitor.lag_s() == 0.0, 60.0, running)
        monitor.stop()
        teller.join()
    for i, struck in enumerate(course.struck):
        struck.answers = ledger.tally(struck.at, course.struck[i + 1].at if i + 1 < len(course.struck) else float("inf"))
    return course


def _strike_all(course: Course, hand: Hand, told: Callable[[str], None], running: Callable[[], bool]) -> None:
    plan = course.plan
    until = time.monotonic() + 60 * plan.minutes
    _sleep(plan.calm_s, running)
    queue = list(plan.faults)
    while queue and running() and time.monotonic() < until - plan.calm_s:
        fault = queue.pop(0)
        if plan.repeat:
            queue.append(fault)
        course.struck.append(_one(course, hand, fault, told, running))
        _sleep(_PAUSE_S, running)
    done = {s.fault for s in course.struck}
    course.never = [fault.name for fault in dict.fromkeys(plan.faults) if fault not in done]
    _sleep(plan.calm_s, running)


def _one(course: Course, hand: Hand, fault: Fault, told: Callable[[str], None], running: Callable[[], bool]) -> Struck:
    struck = Struck(fault, time.time())
    told(f"{fault.name}")
    try:
        hit = hand.strike(fault, running)
    except NotDone as error:
        struck.why, struck.over = str(error), time.time()
        struck.serving_s = struck.stream_s = struck.part_s = 0.0
        told(f"{fault.name}: not done, {error}")
        return struck
    struck.over = struck.at if fault.what == "kill" else time.time()
    _wait(lambda: _is_over(course, struck, hit), course.plan.limit_s, running)
    took = "not recovered" if struck.recovery_s is None else f"recovered in {struck.recovery_s:.1f} s"
    times = ", ".join(
        f"{name} {'never' if t is None else f'{t:.1f} s'}"
        for name, t in (("serving", struck.serving_s), ("stream", struck.stream_s), ("process", struck.part_s))
    )
    told(f"{fault.name}: {took} ({times})")
    return struck


def _is_over(course: Course, struck: Struck, hit: Sequence[psutil.Process]) -> bool:
    plan, since = course.plan, struck.over
    if struck.part_s is None:
        there = [p for p in course.parts.find(struck.fault.part) if p not in hit] if struck.fault.what == "kill" else hit
        if struck.fault.what != "kill" or there:
            struck.part_s = time.time() - since if struck.fault.what == "kill" else 0.0
    # while it lasts answers may be bad: what counts is the time from its end
    recent = [o for o in course.ledger.outcomes[-40 * round(plan.requests * plan.limit_s / 20) :] if o.what == "predict"]
    struck.serving_s = recovery.serving_s(recent, since, plan.requests)
    struck.stream_s = recovery.stream_s(course.monitor.lags, since, plan.lag_s)
    return struck.recovery_s is not None and time.time() - since > (struck.part_s or 0.0) + _SETTLES_S


def _wait(done: Callable[[], bool], limit_s: float, running: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + limit_s
    while running() and time.monotonic() < deadline:
        if done():
            return True
        time.sleep(0.3)
    return False


def _sleep(seconds: float, running: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while running() and (left := until - time.monotonic()) > 0:
        time.sleep(min(0.2, left))


def _tell(course: Course, told: Callable[[str], None], ended: threading.Event) -> None:
    while not ended.wait(_EVERY_S):
        ledger: Any = course.ledger
        lag = course.monitor.lags[-1][1] if course.monitor.lags else None
        behind = "Redis does not say" if lag is None else f"{lag:.1f} s behind"
        bad = sum(o.verdict == "unexpected" for o in ledger.outcomes)
        told(
            f"{len(ledger.answered):,} predictions, {len(ledger.events):,} events, {len(ledger.truths):,} truths; {behind}; {bad} unexpected"
        )
