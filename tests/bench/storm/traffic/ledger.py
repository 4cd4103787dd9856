"""What was sent and what came back, kept outside the platform: the judgement rests on nothing else."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.bench.storm.traffic.client import CUT, REFUSED, RESET, Answer

PROMPT_S = 2.0
DOCUMENTED = frozenset({400, 401, 403, 404, 405, 408, 409, 411, 413, 414, 415, 421, 422, 426, 429, 431})
"""What a hostile request may be answered with."""
_SHOWN = 3
"""Examples of one kind of unexpected answer."""
Expect = Literal["applied", "rejected", "either"]
Verdict = Literal["ok", "refused", "busy", "late", "unreached", "unexpected"]
"""`late`: a 503 or 504 as it should be, but not prompt."""


@dataclass(frozen=True)
class Sent:
    """An event that Redis has taken.

    Attributes:
        kind: "" for an honest one.
        expect: what must become of it.
        row: what it says; None where it says nothing that could be applied.
    """

    source: str
    data: bytes
    kind: str
    expect: Expect
    row: dict[str, Any] | None


@dataclass(frozen=True)
class Outcome:
    """One request and what it ended in, with the wall moment at which it did."""

    at: float
    what: str
    verdict: Verdict
    hostile: bool
    status: str
    took_s: float


@dataclass
class Ledger:
    """
    Attributes:
        prompt_s: a refusal that takes longer than this is not prompt.
        answered: prediction id -> when.
        unknown: predictions asked for whose answer never came: they may be in the log, or not.
        truths: prediction id -> label, of feedback that was accepted.
        events: by data, which is different for each.
        examples: what unexpected answers said.
    """

    prompt_s: float = PROMPT_S
    outcomes: list[Outcome] = field(default_factory=list)
    answered: dict[str, float] = field(default_factory=dict)
    twice: int = 0
    unknown: int = 0
    truths: dict[str, int] = field(default_factory=dict)
    events: dict[bytes, Sent] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    _shown: Counter[tuple[str, str]] = field(default_factory=Counter)

    def note(self, what: str, answer: Answer, hostile: bool = False, may_pass: bool = False) -> Outcome:
        """Judge one answer.

        Args:
            hostile: it must be refused.
            may_pass: it is odd, and may be answered or refused.
        """
        verdict = self._verdict(answer, hostile, may_pass)
        status = str(answer.status) if answer.status is not None else answer.error
        outcome = Outcome(time.time(), what, verdict, hostile or may_pass, status, answer.took_s)
        self.outcomes.append(outcome)
        if verdict in ("unexpected", "late") and self._shown[what, status] < _SHOWN:
            self._shown[what, status] += 1
            said = answer.body[:300].decode(errors="replace")
            self.examples.append(f"{time.strftime('%H:%M:%S')} {what}: {status} after {answer.took_s:.1f} s {said}")
        return outcome

    def _verdict(self, answer: Answer, hostile: bool, may_pass: bool) -> Verdict:
        if answer.status is None:
            return "unreached" if answer.error in (REFUSED, RESET, CUT) else "unexpected"
        if answer.status in (503, 504):
            if "retry-after" not in answer.headers:
                return "unexpected"
            return "busy" if answer.took_s <= self.prompt_s else "late"
        if answer.status == 200:
            return "unexpected" if hostile and not may_pass else "ok"
        return "refused" if (hostile or may_pass) and answer.status in DOCUMENTED else "unexpected"

    def predicted(self, number: str) -> None:
        """An answer carried this id."""
        self.twice += number in self.answered
        self.answered[number] = time.time()

    def between(self, since: float, until: float) -> Iterator[Outcome]:
        """Outcomes in a span of time."""
        return (o for o in self.outcomes if since <= o.at < until)

    def tally(self, since: float = 0.0, until: float = float("inf")) -> dict[str, int]:
        """How often each kind of answer came."""
        return dict(Counter(f"{o.verdict} {o.status}" for o in self.between(since, until)).most_common())
