"""The autopilot: one step of the learning loop, safe to take again at any time, and a process that takes it over and over.

A step archives what was served, measures it, and then does the one thing that is next: see whether a trigger fires, train, pass the
gates, or see what the challenger has shown in its stage. Where the loop stands is one small file, replaced as a whole; what answers is the
release file, likewise. Neither is ever half a step: a kill between the two is found at the next step, by comparing them, and the step is
taken again with the same result. A version is never promoted but out of a finished canary, in one write.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from feature_repo.records import release
from feature_repo.records.contract import ContractError
from feature_repo.records.held import Held
from feature_repo.records.release import Release, ReleaseError
from feature_repo.spec.use_case import UseCase
from feature_repo.triggers.base import DAY_US, Alarm
from infra import files, redis_client
from infra.settings import Settings
from infra.timestamps import microseconds
from streaming.offline.parquet import TableError
from training.data.left_out import Interval, interval_text
from training.gates.record import Gates, read_gates
from training.monitoring import live_quality
from training.monitoring.live_quality import Labelled
from training.monitoring.source_findings import new_findings
from training.retraining import trigger_facts, triggers
from training.retraining.alarm import Row, Word, answered, pruned, settled, words_of
from training.retraining.loop import Loop, wall_clock
from training.retraining.loop_state import State
from training.retraining.retrain import find
from training.retraining.staging import Staging
from training.retraining.triggers import Reason

if TYPE_CHECKING:
    import redis

ROUND_S = 60.0
"""A step without a training ends at least so often: one that archives and measures a great deal takes its time."""
log = logging.getLogger("headrace.autopilot")
ATTEMPTS = 3
"""A training that fails is tried so often before its trigger is given up."""


class TrainingStopped(Exception):
    """The training was ended with the autopilot; it is not one that failed."""


Train = Callable[[Reason, int, Sequence[Interval]], Gates | None]
"""Train for a reason as of a moment, without the examples of these spans, register, and ask the gates; None where no version came of it.
Asked again, it gives the same version."""


class Autopilot(Loop):
    """
    Args:
        train: how a training is done; the command starts a process of its own for it.
        clock: the wall's, microseconds since the epoch; what the replicas write is by it.
    """

    def __init__(
        self, client: redis.Redis, settings: Settings, case: UseCase, model: str, train: Train, clock: Callable[[], int] = wall_clock
    ) -> None:
        super().__init__(client, settings, case, model, clock)
        self.train, self.staging = train, Staging(self)

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
            if now_us is None:
                return "nothing to do: there is neither a prediction nor a truth yet"
            if (measured := live_quality.measured(rows, self.spec)) is not None:
                live_quality.publish(self.client, self.case.project, measured)
            for one in new_findings(self.client, own, self.case, self.spec, self.journal.read()):
                self.say(one.id, now_us, one.step, one.text, facts=one.facts)
            row, state.read = trigger_facts.verdicts(own, self.spec.name, state.row, state.read, live.champion)
            self._turn(state, pruned(row, microseconds(self.spec.split.train.bounds()[0])), now_us)
            self._listen(state, now_us)
            held: list[Held] = []
            text = self._next(state, live, rows, now_us, held)
            state = self.state
            self.hold(state, held, now_us)
            self.save(state)
            return text

    def _next(self, state: State, live: Release, rows: Labelled, now_us: int, held: list[Held]) -> str:
        self.save(state)
        if state.phase in ("shadow", "canary", "probation"):
            text = self.staging.look(state, live, rows, now_us)
            if self.state.phase == state.phase:
                patience = getattr(self.spec.learning.stages, state.phase).patience_days
                held.append(Held(state.phase, text, now_us, state.since_us + round(patience * DAY_US)))
            return text
        if state.phase == "training":
            return self._train(state, live, now_us)
        return self._idle(state, live, rows, now_us, held)

    @property
    def answer_path(self) -> Path:
        """Where a person's word on an alarm waits (`training.retraining.alarm.Word`)."""
        return self.home / "answer"

    def _listen(self, state: State, now_us: int) -> None:
        """What a person says of the alarm, if one has. It is moved first: what is said meanwhile is heard at the next step."""
        moved = self.home / "answer.heard"
        if not moved.is_file():  # a kill has left none
            if not self.answer_path.is_file():
                return
            self.answer_path.replace(moved)
        raw = moved.read_bytes()
        try:
            word = files.parse(raw, Word)
        except ValueError as error:
            text = f"a word on an alarm cannot be read, and is dropped ({error}): {raw[:200].decode(errors='replace')!r}"
            self.say(f"answer@{now_us}/unheard", now_us, "unheard", text)
        else:
            self._take(state, word, now_us)
        self.save(state)
        moved.unlink(missing_ok=True)

    def _take(self, state: State, word: Word, now_us: int) -> None:
        alarm, name = state.row.alarm, f"alarm@{word.alarm}/{word.said}/{word.why}"
        if alarm is None or alarm.began != word.alarm:
            text = f"{word.said} ({word.why}) is dropped: the alarm that it is about is over"
            self.say(f"{name}/unheard", now_us, "unheard", text)
            return
        state.row = answered(state.row, word)
        self.say(name, now_us, word.said, f"{word.kind} of {', '.join(word.of) or 'the score'}: {word.why}")
        if not word.covers(alarm):
            self._lapsed(word, now_us, alarm)

    def _turn(self, state: State, row: Row, now_us: int) -> None:
        """Go on with another row, and write down whose word does not count any more."""
        for word in words_of(state.row):
            if word not in words_of(row):
                self._lapsed(word, now_us, None)
            elif row.alarm is not None and row.alarm.began == word.alarm and not word.covers(row.alarm):
                self._lapsed(word, now_us, row.alarm)
        state.row = row

    def _lapsed(self, word: Word, now_us: int, alarm: Alarm | None) -> None:
        """Write down that a word does not count. `alarm`: what it does not count for; None: what it is about is over."""
        why = "the alarm that it is about is over" if alarm is None else f"it does not count for what the alarm is by now ({alarm.text})"
        now = "over" if alarm is None else f"{alarm.kind} of {', '.join(alarm.of)}"  # without figures: they change from step to step
        self.say(f"alarm@{word.alarm}/{word.said}/{word.why}/lapsed/{now}", now_us, "lapsed", f"{word.said} ({word.why}): {why}")

    # triggers

    def _idle(self, state: State, live: Release, rows: Labelled, now_us: int, held: list[Held]) -> str:
        known = trigger_facts.truths_known(self.settings, self.spec, now_us)
        request = self.request_path.read_text(errors="replace").strip() if self.request_path.is_file() else None
        made = release.load(self.root, self.spec.name, live.champion, live)
        found = trigger_facts.facts(self.spec, made, rows, now_us, known)
        more = {"alarm": state.row.alarm, "request": request, "trained_us": state.trained_us, "failed_us": state.failed_us}
        found = msgspec.structs.replace(found, **more)
        reason = triggers.due(self.spec.learning.triggers, found)
        for one in triggers.all_due(self.spec.learning.triggers, found):
            if one.held:
                since = state.row.alarm.since_us if one.kind == "drift" and state.row.alarm is not None else now_us
                held.append(Held(one.kind, f"{one.text}; held: {one.held}", since, one.until_us))
        if reason is None:
            return "nothing to do"
        if reason.held:
            text = f"{reason.text}; held: {reason.held}"
            self.say(f"held/{live.champion}/{reason.kind}/{reason.held}", now_us, "held", text)
            return text
        state.phase, state.reason, state.attempts = "training", reason, 0
        # not later than the day after the newest truth: where the data ends years ago, there is nothing to train on at the end of the splits
        state.as_of_us = min(now_us, int(known.max()) + DAY_US) if len(known) else now_us
        if reason.kind != "request":
            state.trained_us.append(now_us)
        state.left_out = state.row.left_out
        facts = {"left out": ", ".join(map(interval_text, state.left_out))} if state.left_out else None
        self.say(f"{reason.id}/triggered", now_us, "triggered", f"{reason.kind}: {reason.text}", facts=facts)
        self.save(state)
        if self.request_path.is_file():
            self.request_path.unlink(missing_ok=True)
        return self._train(state, live, now_us)

    @property
    def request_path(self) -> Path:
        """Where a person's request waits: its text is the reason."""
        return self.home / "request"

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
                # it has cost no version: it counts for neither cooldown nor budget, and has a rest of its own
                state.failed_us = now_us
                if reason.at_us in state.trained_us:
                    state.trained_us.remove(reason.at_us)
                return self.end(state, now_us, "refused", f"no version came of {ATTEMPTS} trainings (see the log)", version)
            try:
                gates = self.train(reason, state.as_of_us or reason.at_us, state.left_out)
            except TrainingStopped:
                state.attempts -= 1
                self.save(state)
                return "the training was stopped; the next step takes it up again"
            if gates is None:
                return f"training failed, attempt {state.attempts} of {ATTEMPTS}"
        state.failed_us = None
        if reason.kind == "drift":  # what was trained for is done with; another reason's training says nothing of an alarm
            self._turn(state, settled(state.row), now_us)
        checks = {c.name: f"{'passed' if c.passed else 'FAILED'}: {c.text}" for c in gates.checks}
        self.say(f"{reason.id}/trained", now_us, "trained", f"version {gates.version} is made", gates.version, checks)
        if not (gates.passed or gates.forced):
            failed = "; ".join(f"{c.name}: {c.text}" for c in gates.checks if not c.passed)
            return self.end(state, now_us, "refused", f"gates failed: {failed}", gates.version)
        if live.champion == gates.version:
            return self.end(state, now_us, "ended", "a person promoted it meanwhile", gates.version)
        if gates.champion != live.champion and not gates.forced:  # the gates know nothing of the one that is live now
            text = f"a person made version {live.champion} live meanwhile: the gates compared it with {gates.champion or 'none'}"
            return self.end(state, now_us, "ended", text, gates.version)
        why = f"{reason.kind}: {reason.text}"
        if live.shadow != gates.version:
            release.shadow(self.root, self.spec.name, gates.version, why)
        state.challenger, state.other = gates.version, live.champion
        return self.staging.begin(state, "shadow", now_us, why)


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
