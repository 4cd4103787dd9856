"""A person's word on an alarm, from when it is given until the learning loop has heard it: `<state>/autopilot/<model>/answer`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec


@dataclass(frozen=True)
class Given:
    """
    Attributes:
        said: `confirmed` or `dismissed`.
        why: the person's words.
    """

    said: str
    why: str

    def __str__(self) -> str:
        return f"{self.said}: {self.why}" if self.why else self.said


def read_given(state: Path, model: str) -> Given | None:
    """The word that waits to be heard; None where none does. `state`: the checkout's state folder."""
    try:
        text = (state / "autopilot" / model / "answer").read_text(errors="replace").strip()
    except OSError:
        return None
    if text.startswith("{"):
        try:
            found: dict[str, Any] = msgspec.json.decode(text, type=dict[str, Any])
        except msgspec.DecodeError:
            return Given("something that cannot be read", text)
        return Given(str(found.get("said", found.get("answer", ""))), str(found.get("why", "")))
    said, _, why = text.partition(" ")
    return Given(said, why.strip()) if said else None
