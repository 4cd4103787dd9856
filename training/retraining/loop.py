"""What every step of the learning loop works with: where it stands, what it writes down, and the lock on it."""

from __future__ import annotations

import contextlib
import logging
import re
import time
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from feature_repo.records.decisions import Decision, Journal
from feature_repo.records.held import Held, HeldList
from feature_repo.records.redis_keys import held_key
from feature_repo.spec.use_case import UseCase
from infra import files
from infra.settings import Settings
from streaming.offline.archive import of
from training.retraining import loop_state
from training.retraining.loop_state import State
from training.retraining.server_metrics import Counters

if TYPE_CHECKING:
    import redis

log = logging.getLogger("headrace.autopilot")
_FIGURES = re.compile(r"[\d,.]+ ?")


class AutopilotError(RuntimeError):
    """The autopilot cannot do its work; the message says why and what to do."""


def wall_clock() -> int:
    """Microseconds since the epoch."""
    return time.time_ns() // 1000


def _named(text: str) -> str:
    """A reason without its figures: these change from step to step."""
    return _FIGURES.sub("", text)


class Loop:
    """The learning loop of one model.

    Args:
        clock: the wall's, microseconds since the epoch; what the replicas write is by it.
    """

    def __init__(self, client: redis.Redis, settings: Settings, case: UseCase, model: str, clock: Callable[[], int] = wall_clock) -> None:
        self.client, self.settings, self.case, self.spec = client, settings, case, case.model(model)
        self.clock = clock
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

    def alone(self) -> contextlib.AbstractContextManager[None]:
        """One autopilot per model and checkout."""
        refusal = AutopilotError(f"an autopilot is at work on {self.spec.name} already ({self.home / 'lock'} is held)")
        return files.alone(self.home / "lock", refusal=refusal)

    def end(self, state: State, now_us: int, step: str, text: str, version: int | None) -> str:
        """Write down how it ended, and begin anew."""
        assert state.reason is not None
        self.say(f"{state.reason.id}/{step}", now_us, step, text, version)
        self.save(State(trained_us=state.trained_us, row=state.row, read=state.read, held=state.held, failed_us=state.failed_us))
        return f"{step}: {text}"

    def hold(self, state: State, held: list[Held], now_us: int) -> None:
        """Publish what is held back now; what was held before keeps its beginning."""
        since = {(one.what, _named(one.text)): one.since_us for one in state.held}
        state.held = [msgspec.structs.replace(one, since_us=since.get((one.what, _named(one.text)), one.since_us)) for one in held]
        listed = HeldList(self.spec.name, now_us, state.held)
        self.client.set(held_key(self.case.project, self.spec.name), msgspec.json.encode(listed))
        files.replace(self.home / "held.json", msgspec.json.format(msgspec.json.encode(listed), indent=1))

    def say(self, identity: str, at_us: int, step: str, text: str, version: int | None = None, facts: dict[str, str] | None = None) -> None:
        """Write a decision into the journal; one that is there already is written once."""
        if self.journal.write(Decision(identity, at_us, time.time_ns() // 1000, step, text, version, facts or {})):
            log.info("%s", msgspec.json.encode({"event": step, "version": version, "text": text}).decode())
