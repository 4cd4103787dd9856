"""What the challenger has shown in its stage, and what follows: shadow, canary, promotion, probation, or its end."""

from __future__ import annotations

import contextlib
import re

from feature_repo.records import release
from feature_repo.records.release import Release
from training.evaluation.rescoring import scored
from training.gates.record import read_gates
from training.monitoring.live_quality import Labelled
from training.retraining.loop import Loop
from training.retraining.loop_state import State
from training.retraining.rollout import Phase, Ruling, Traffic, evidence, rule
from training.retraining.server_metrics import Counted, Unknown, from_mark, marked, since, summed

_NUMBERS = re.compile(r"[\d,.]+ ?")
"""What changes from step to step in a reason to wait: it is told once."""


class Staging:
    """The stages of one loop. Each method may be called again after a kill, and comes to the same."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop

    def begin(self, state: State, phase: Phase, now_us: int, why: str) -> str:
        """Enter a stage."""
        state.phase, state.since_us = phase, 1 + (now_us if self.loop.settings.allows_request_now else max(now_us, self.loop.clock()))
        with contextlib.suppress(Unknown):
            state.counted, state.counted_us = None, self.loop.clock()
            state.counted, _ = self.loop.counters.read(state.counted_us)
            if phase == "shadow":
                state.marks = []
            if phase != "probation":
                self._mark(state, state.counted)
        assert state.reason is not None
        self.loop.say(f"{state.reason.id}/{phase}", now_us, phase, why, state.challenger)
        self.loop.save(state)
        return f"version {state.challenger} begins its {phase}"

    def look(self, state: State, live: Release, rows: Labelled, now_us: int) -> str:
        """See what the stage has shown by now, and do what follows; in words."""
        assert state.challenger is not None
        assert state.other is not None
        expected = (state.challenger, state.other) if state.phase == "probation" else (state.other, None)
        if live.champion != expected[0] and not (state.phase == "canary" and live.champion == state.challenger):
            self._withdraw(state, live, "the live version was changed by hand")
            if state.phase == "probation" and live.champion == state.other:  # killed between the roll-back and the note of it, or by hand
                return self.loop.end(state, now_us, "rolled back", f"in probation: {live.history[-1].why or 'by hand'}", state.challenger)
            return self.loop.end(state, now_us, "ended", f"a person made version {live.champion} live meanwhile", state.challenger)
        stages = self.loop.spec.learning.stages
        phase: Phase = state.phase  # type: ignore[assignment]
        if phase == "canary" and live.champion == state.challenger:  # killed between the promotion and the note of it
            return self._next(state, live, phase, now_us, "promoted")
        mine, other = (scored(self.loop.root, self.loop.spec.name, v) for v in (state.challenger, state.other))
        gates = read_gates(self.loop.settings, self.loop.spec.name, state.challenger)
        varies = gates.spread if gates is not None else None
        seen = evidence(phase, rows, mine, other, state.since_us, now_us, varies, self._since(state, phase))
        ruling = rule(getattr(stages, phase), stages, seen)
        if ruling.what == "wait":
            if ruling.unknown and state.reason is not None:
                self.loop.say(
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
        name, version = self.loop.spec.name, state.challenger
        assert version is not None
        if phase == "shadow":
            share = self.loop.spec.learning.stages.share
            if (live.canary, live.share) != (version, share):
                release.canary(self.loop.root, name, version, share, why)
            if live.shadow == version:
                release.shadow(self.loop.root, name, None, "it answers now")
            return self.begin(state, "canary", now_us, f"shadow passed: {why}")
        if phase == "canary":
            if live.champion != version:
                release.promote(self.loop.root, name, version, why)
            assert state.reason is not None
            self.loop.say(f"{state.reason.id}/promoted", now_us, "promoted", f"canary passed: {why}", version)
            return self.begin(state, "probation", now_us, "version before stays ready")
        return self.loop.end(state, now_us, "kept", f"probation passed: {why}", version)

    def _stop(self, state: State, live: Release, phase: Phase, now_us: int, ruling: Ruling) -> str:
        self._withdraw(state, live, ruling.text)
        step = "rolled back" if phase == "probation" else "ended"
        return self.loop.end(state, now_us, step, f"in {phase}: {ruling.text}", state.challenger)

    def _withdraw(self, state: State, live: Release, why: str) -> None:
        """The challenger answers nothing any more; nothing else changes."""
        name = self.loop.spec.name
        if state.phase == "probation" and live.champion == state.challenger and live.previous == state.other:
            release.roll_back(self.loop.root, name, why)
        if live.canary == state.challenger:
            release.canary(self.loop.root, name, None, why=why)
        if live.shadow == state.challenger:
            release.shadow(self.loop.root, name, None, why)

    def _since(self, state: State, phase: Phase) -> tuple[Traffic, Traffic] | str:
        """Challenger's and the other version's requests since the stage began, or why they are not known."""
        assert state.challenger is not None
        assert state.other is not None
        try:
            now, bounds = self.loop.counters.read(self.loop.clock())
            if state.counted is None:  # nobody answered when the stage began: it is counted from here
                state.counted, state.counted_us = now, self.loop.clock()
                self.loop.save(state)
            added = since(now, state.counted)
            mine = summed(added.values(), state.challenger, bounds, phase == "shadow")
            if phase != "probation":
                if self._mark(state, now):
                    self.loop.save(state)
                return mine, summed(added.values(), state.other, bounds)
            # the other answers nothing now: it is held to what it did in a time as long, just before
            began_us = state.counted_us - (self.loop.clock() - state.counted_us)
            return mine, summed(from_mark(state.marks, state.counted, state.other, began_us).values(), state.other, bounds)
        except Unknown as error:
            return f"how the replicas fare: {error}"

    def _mark(self, state: State, counted: Counted) -> bool:
        """Keep what the version that answers has counted by now, once an hour; whether it was time."""
        assert state.other is not None
        marks = marked(state.marks, self.loop.clock(), counted, state.other)
        changed, state.marks = marks is not state.marks, marks
        return changed
