"""The autopilot: one step of the learning loop, safe to take again at any time, and a process that takes it over and over.

A step archives what was served, measures it, and then does the one thing that is next: see whether a trigger fires, train, pass the
gates, or see what the challenger has shown in its stage. Where the loop stands is one small file, replaced as a whole; what answers is the
release file, likewise. Neither is ever half a step: a kill between the two is found at the next step, by comparing them, and the step is
taken again with the same result. A version is never promoted but out of a finished canary, in one write.
"""

from __future__ import annotations

import contextlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from feature_repo.records import release
from feature_repo.records.contract import ContractError
from feature_repo.records.decisions import Decision, Journal
from feature_repo.records.release import Release, ReleaseError
from feature_repo.spec.use_case import UseCase
from feature_repo.triggers.base import DAY_US
from infra import files, redis_client
from infra.settings import Settings
from streaming.offline.archive import of
from streaming.offline.parquet import TableError
from training.evaluation.rescoring import scored
from training.gates.record import Gates, read_gates
from training.monitoring import live_quality
from training.monitoring.live_quality import Labelled
from training.retraining import loop_state, trigger_facts, triggers
from training.retraining.loop_state import State
from training.retraining.retrain import find
from training.retraining.rollout import Phase, Ruling, Traffic, evidence, rule
from training.retraining.server_metrics import Counted, Counters, Unknown, from_mark, marked, since, summed
from training.retraining.triggers import Reason

if TYPE_CHECKING:
    import redis

ROUND_S = 60.0
"""A step without a training ends at least so often: one that archives and measures a great deal takes its time."""
log = logging.getLogger("headrace.autopilot")
_NUMBERS = re.compile(r"[\d,.]+ ?")
"""What changes from step to step in a reason to wait: it is told once."""
ATTEMPTS = 3
"""A training that fails is tried so often before its trigger is given up."""


class AutopilotError(RuntimeError):
    """The autopilot cannot do its work; the message says why and what to do."""


class TrainingStopped(Exception):
    """The training was ended with the autopilot; it is not one that failed."""


def wall_clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


Train = Callable[[Reason, int], Gates | None]
"""Train for a reason as of a moment, register, and ask the gates; None where no version came of it. Asked again, it gives the same version."""


class Autopilot:
    """
    Args:
        train: how a training is done; the command starts a process of its own for it.
        clock: the wall's, microseconds since the epoch; what the replicas write is by it.
    """

    def __init__(
        self, client: redis.Redis, settings: Settings, case: UseCase, model: str, train: Train, clock: Callable[[], int] = wall_clock
    ) -> None:
        self.client, self.settings, self.case, self.spec = client, settings, case, case.model(model)
        self.train, self.clock = train, clock
        self.counters = Counters(client, case.project, model)
        self.home = settings.state / "autopilot" / model
        self.archive = of(settings, case.project)
        self.root = settings.model_root

    @cached_property
    def journal(self) -> Journal:
        return Journal(self.settings.state, self.spec.name)

    @property
    def state(self) -> State:
        """
        Raises:
            AutopilotError: the file is none.
        """
        try:
            return loop_state.read(self.home)
        except files.FileError as error:
            raise AutopilotError(f"{error}: remove it; what answers stays as it is") from None

    def save(self, state: State) -> None:
        loop_state.write(self.home, state)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """One autopilot per model and checkout."""
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(files.alone(self.home / "lock", wait=False))
            except files.HeldError:
                raise AutopilotError(f"an autopilot is at work on {self.spec.name} already ({self.home / 'lock'} is held)") from None
            yield

    def step(self) -> str:
        """Take one step; returns what was done or seen, in words.

        Raises:
            AutopilotError: another one is at work, or the state cannot be read.
            redis.RedisError: Redis does not answer; nothing is lost, take the step again.
        """
        with self.alone():
            own = self.settings
            self.archive.run(self.client, keep_days=own.archive_days, most=own.delete_share, tolerance_s=own.clock_tolerance_s)
            live = release.read(self.root, self.spec.name)
            if live is None:
                return f"no version of {self.spec.name} is live: train and promote one first"
            state = self.state
            newest = self.archive.newest_us(self.spec.name)
            from_us = None if newest is None else newest - live_quality.DAYS * DAY_US
            rows = live_quality.labelled(self.archive, self.spec, from_us=from_us, inputs=state.phase in ("canary", "probation"))
            now_us = trigger_facts.moment(self.settings, self.spec, rows, self.clock())
            if (measured := live_quality.measured(rows, self.spec)) is not None:
                live_quality.publish(self.client, self.case.project, measured)
            if state.phase in ("shadow", "canary", "probation"):
                return self._stage(state, live, rows, now_us)
            if state.phase == "training":
                return self._train(state, live, now_us)
            return self._idle(state, live, rows, now_us)

    # triggers

    def _idle(self, state: State, live: Release, rows: Labelled, now_us: int) -> str:
        drift = self._drift(state)
        known = trigger_facts.truths_known(self.settings, self.spec, now_us)
        request = self.request_path.read_text(errors="replace").strip() if self.request_path.is_file() else None
        made = release.load(self.root, self.spec.name, live.champion, live)
        found = trigger_facts.facts(self.spec, made, rows, now_us, known)
        found = msgspec.structs.replace(found, drift=drift, request=request, trained_us=state.trained_us)
        reason = triggers.due(self.spec.learning.triggers, found)
        if reason is None:
            return "nothing to do"
        if reason.held:
            text = f"{reason.text}; held: {reason.held}"
            self._say(f"held/{live.champion}/{reason.kind}/{reason.held}", now_us, "held", text)
            return text
        state.phase, state.reason, state.attempts = "training", reason, 0
        # not later than the day after the newest truth: where the data ends years ago, there is nothing to train on at the end of the splits
        state.as_of_us = min(now_us, int(known.max()) + DAY_US) if len(known) else now_us
        if reason.kind != "request":
            state.trained_us.append(now_us)
        state.calls = 0
        self._say(f"{reason.id}/triggered", now_us, "triggered", f"{reason.kind}: {reason.text}")
        self.save(state)
        if self.request_path.is_file():
            self.request_path.unlink(missing_ok=True)
        return self._train(state, live, now_us)

    @property
    def request_path(self) -> Path:
        """Where a person's request waits: its text is the reason."""
        return self.home / "request"

    def _drift(self, state: State) -> str:
        """What changed, where so many verdicts in a row called for a training; a single one is too often the beginning of a fault."""
        identity, text = trigger_facts.verdict(self.client, self.case.project, self.spec.name)
        if identity != state.verdict:
            state.verdict, state.calls = identity, state.calls + 1 if text else 0
            self.save(state)
        return text if state.calls >= self.spec.learning.triggers.drift_verdicts else ""

    # training

    def _train(self, state: State, live: Release, now_us: int) -> str:
        reason = state.reason
        assert reason is not None  # a training has one
        version = find(self.settings, self.spec.name, reason.id)
        gates = read_gates(self.settings, self.spec.name, version) if version is not None else None
        if gates is None:
            state.attempts += 1
            self.save(state)
            if state.attempts > ATTEMPTS:
                return self._end(state, now_us, "refused", f"no version came of {ATTEMPTS} trainings (see the log)", version)
            try:
                gates = self.train(reason, state.as_of_us or reason.at_us)
            except TrainingStopped:
                state.attempts -= 1
                self.save(state)
                return "the training was stopped; the next step takes it up again"
            if gates is None:
                return f"training failed, attempt {state.attempts} of {ATTEMPTS}"
        checks = {c.name: f"{'passed' if c.passed else 'FAILED'}: {c.text}" for c in gates.checks}
        self._say(f"{reason.id}/trained", now_us, "trained", f"version {gates.version} is made", gates.version, checks)
        if not (gates.passed or gates.forced):
            failed = "; ".join(f"{c.name}: {c.text}" for c in gates.checks if not c.passed)
            return self._end(state, now_us, "refused", f"gates failed: {failed}", gates.version)
        if live.champion == gates.version:
            return self._end(state, now_us, "ended", "a person promoted it meanwhile", gates.version)
        if gates.champion != live.champion and not gates.forced:  # the gates know nothing of the one that is live now
            text = f"a person made version {live.champion} live meanwhile: the gates compared it with {gates.champion or 'none'}"
            return self._end(state, now_us, "ended", text, gates.version)
        why = f"{reason.kind}: {reason.text}"
        if live.shadow != gates.version:
            release.shadow(self.root, self.spec.name, gates.version, why)
        state.challenger, state.other = gates.version, live.champion
        return self._begin(state, "shadow", now_us, why)

    # stages

    def _begin(self, state: State, phase: Phase, now_us: int, why: str) -> str:
        state.phase, state.since_us = phase, 1 + (now_us if self.settings.allows_request_now else max(now_us, self.clock()))
        with contextlib.suppress(Unknown):
            state.counted, state.counted_us = None, self.clock()
            state.counted, _ = self.counters.read(state.counted_us)
            if phase == "shadow":
                state.marks = []
            if phase != "probation":
                self._mark(state, state.counted)
        assert state.reason is not None
        self._say(f"{state.reason.id}/{phase}", now_us, phase, why, state.challenger)
        self.save(state)
        return f"version {state.challenger} begins its {phase}"

    def _stage(self, state: State, live: Release, rows: Labelled, now_us: int) -> str:
        assert state.challenger is not None
        assert state.other is not None
        expected = (state.challenger, state.other) if state.phase == "probation" else (state.other, None)
        if live.champion != expected[0] and not (state.phase == "canary" and live.champion == state.challenger):
            self._withdraw(state, live, "the live version was changed by hand")
            if state.phase == "probation" and live.champion == state.other:  # killed between the roll-back and the note of it, or by hand
                return self._end(state, now_us, "rolled back", f"in probation: {live.history[-1].why or 'by hand'}", state.challenger)
            return self._end(state, now_us, "ended", f"a person made version {live.champion} live meanwhile", state.challenger)
        stages = self.spec.learning.stages
        phase: Phase = state.phase  # type: ignore[assignment]
        if phase == "canary" and live.champion == state.challenger:  # killed between the promotion and the note of it
            return self._next(state, live, phase, now_us, "promoted")
        mine, other = (scored(self.root, self.spec.name, v) for v in (state.challenger, state.other))
        gates = read_gates(self.settings, self.spec.name, state.challenger)
        varies = gates.spread if gates is not None else None
        seen = evidence(phase, rows, mine, other, state.since_us, now_us, varies, self._since(state, phase))
        ruling = rule(getattr(stages, phase), stages, seen)
        if ruling.what == "wait":
            if ruling.unknown and state.reason is not None:
                self._say(
                    f"{state.reason.id}/{phase}/waits/{_NUMBERS.sub('', ruling.unknown)}",
                    now_us,
                    "waits",
                    f"in {phase}: {ruling.text}",
                    state.challenger,
                )
            return f"version {state.challenger} in {phase}: {ruling.text}"
        if ruling.what == "stop":
            return self._stop(state, live, phase, now_us, ruling)
        return self._next(state, live, phase, now_us, ruling.text)

    def _next(self, state: State, live: Release, phase: Phase, now_us: int, why: str) -> str:
        name, version = self.spec.name, state.challenger
        assert version is not None
        if phase == "shadow":
            share = self.spec.learning.stages.share
            if (live.canary, live.share) != (version, share):
                release.canary(self.root, name, version, share, why)
            if live.shadow == version:
                release.shadow(self.root, name, None, "it answers now")
            return self._begin(state, "canary", now_us, f"shadow passed: {why}")
        if phase == "canary":
            if live.champion != version:
                release.promote(self.root, name, version, why)
            assert state.reason is not None
            self._say(f"{state.reason.id}/promoted", now_us, "promoted", f"canary passed: {why}", version)
            return self._begin(state, "probation", now_us, "version before stays ready")
        return self._end(state, now_us, "kept", f"probation passed: {why}", version)

    def _stop(self, state: State, live: Release, phase: Phase, now_us: int, ruling: Ruling) -> str:
        self._withdraw(state, live, ruling.text)
        step = "rolled back" if phase == "probation" else "ended"
        return self._end(state, now_us, step, f"in {phase}: {ruling.text}", state.challenger)

    def _withdraw(self, state: State, live: Release, why: str) -> None:
        """The challenger answers nothing any more; nothing else changes."""
        name = self.spec.name
        if state.phase == "probation" and live.champion == state.challenger and live.previous == state.other:
            release.roll_back(self.root, name, why)
        if live.canary == state.challenger:
            release.canary(self.root, name, None, why=why)
        if live.shadow == state.challenger:
            release.shadow(self.root, name, None, why)

    def _end(self, state: State, now_us: int, step: str, text: str, version: int | None) -> str:
        assert state.reason is not None
        self._say(f"{state.reason.id}/{step}", now_us, step, text, version)
        self.save(State(trained_us=state.trained_us, verdict=state.verdict))
        return f"{step}: {text}"

    def _since(self, state: State, phase: Phase) -> tuple[Traffic, Traffic] | str:
        """Challenger's and the other version's requests since the stage began, or why they are not known."""
        assert state.challenger is not None
        assert state.other is not None
        try:
            now, bounds = self.counters.read(self.clock())
            if state.counted is None:  # nobody answered when the stage began: it is counted from here
                state.counted, state.counted_us = now, self.clock()
                self.save(state)
            added = since(now, state.counted)
            mine = summed(added.values(), state.challenger, bounds, phase == "shadow")
            if phase != "probation":
                if self._mark(state, now):
                    self.save(state)
                return mine, summed(added.values(), state.other, bounds)
            # the other answers nothing now: it is held to what it did in a time as long, just before
            began_us = state.counted_us - (self.clock() - state.counted_us)
            return mine, summed(from_mark(state.marks, state.counted, state.other, began_us).values(), state.other, bounds)
        except Unknown as error:
            return f"how the replicas fare: {error}"

    def _mark(self, state: State, counted: Counted) -> bool:
        """Keep what the version that answers has counted by now, once an hour; whether it was time."""
        assert state.other is not None
        marks = marked(state.marks, self.clock(), counted, state.other)
        changed, state.marks = marks is not state.marks, marks
        return changed

    def _say(
        self, identity: str, at_us: int, step: str, text: str, version: int | None = None, facts: dict[str, str] | None = None
    ) -> None:
        if self.journal.write(Decision(identity, at_us, time.time_ns() // 1000, step, text, version, facts or {})):
            log.info("%s", msgspec.json.encode({"event": step, "version": version, "text": text}).decode())


def run(autopilot: Autopilot, every_s: float, stop: threading.Event, beat: Callable[[str], None] = lambda _: None) -> None:
    """Take steps until told to stop; where Redis is away, go on when it is back.

    Args:
        beat: told after each step why it did not do its work; empty: it did.
    """
    import redis

    said = ""
    while not stop.is_set():
        try:
            text = autopilot.step()
            state = autopilot.state
            beat(text if state.phase == "training" and state.attempts else "")
        except (redis.RedisError, OSError) as error:
            local = isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError)
            said_by_redis = redis_client.says(error)
            what = "a file is in the way" if local else "Redis does not answer"
            text = f"Redis {said_by_redis}" if said_by_redis.startswith("refuses") else f"{what}: {error}"
            text = f"{text}; nothing is lost, the next step follows"
            beat(text)
        except (ContractError, ReleaseError, TableError) as error:  # what answers stays as it is, until a person has put it right
            text = f"not known, so it waits: {error}"
            beat(text)
        if text != said:
            log.info("%s", msgspec.json.encode({"event": "step", "text": text}).decode())
        said = text
        stop.wait(every_s)
