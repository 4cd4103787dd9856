"""The learning loop's journal: every decision about a model's versions, one JSON object per line, oldest first.

`<state>/autopilot/<model>/journal.jsonl`. A decision's id is made of what led to it. If the loop is killed and takes the same decision
again, it has the same id, and is not written twice. Written by the loop, read by `headrace why`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from infra import files


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Attributes:
        id: `<trigger>/<step>`: the same decision always has the same.
        at_us: in the predictions' time, microseconds since the epoch (UTC).
        wall_us: when it was taken.
        step: triggered, held, trained, forced, refused, shadow, canary, probation, waits, promoted, rolled back, kept, ended; of a person's
            word on an alarm confirmed, dismissed, lapsed (it does not count any more), unheard (it cannot be read, or its alarm is over); of
            a source source, source over (docs/learning.md says what each is).
        version: that it is about, if there is one yet.
        facts: the numbers behind it, in words.
    """

    id: str
    at_us: int
    wall_us: int
    step: str
    text: str
    version: int | None = None
    facts: dict[str, str] = {}


class Journal:
    """
    Args:
        state: the checkout's state folder.
    """

    def __init__(self, state: Path, model: str) -> None:
        self.path = state / "autopilot" / model / "journal.jsonl"
        self._known: set[str] | None = None

    def read(self) -> list[Decision]:
        """Every decision; a line that a kill cut short is left out, one that is broken as well, and is named.

        Raises:
            FileError: the file itself cannot be read.
        """
        return files.read_lines(self.path, Decision)

    def write(self, decision: Decision) -> bool:
        """Append a decision; False where it is there already."""
        if self._known is None:
            self._mend()
            self._known = {d.id for d in self.read()}
        if decision.id in self._known:
            return False
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(msgspec.json.encode(decision) + b"\n")
        self._known.add(decision.id)
        return True

    def _mend(self) -> None:
        """Cut off a line that a kill left unfinished."""
        content = self.path.read_bytes() if self.path.is_file() else b""
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self.path.open("r+b") as file:
                file.truncate(whole)
