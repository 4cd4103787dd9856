"""A person's word on an alarm, from when it is given until the learning loop has heard it: `<state>/autopilot/<model>/answer`."""

from __future__ import annotations

from pathlib import Path

import msgspec

from infra import files


class Given(msgspec.Struct, frozen=True):
    """What a person is shown of a `training.retraining.alarm.Word`.

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
        raw = (state / "autopilot" / model / "answer").read_bytes()
    except OSError:
        return None
    try:
        return files.parse(raw, Given)
    except ValueError:  # the loop drops it, and says so in the journal
        return Given("something that cannot be read", raw[:200].decode(errors="replace"))
