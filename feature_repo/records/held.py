"""What the learning loop holds back, why, and until when: one list per model, written at every step."""

from __future__ import annotations

from pathlib import Path

import msgspec

from infra import files


class Held(msgspec.Struct, frozen=True):
    """
    Attributes:
        what: the trigger or the stage that waits: `drift`, `schedule`, `shadow`, ...
        text: what it would do, and why it does not.
        since_us: since when it is known to be held, in the predictions' time, microseconds since the epoch.
        until_us: until when at the latest; None: until something happens that nobody can date.
    """

    what: str
    text: str
    since_us: int
    until_us: int | None = None


class HeldList(msgspec.Struct, frozen=True):
    """
    Attributes:
        at_us: the step's moment, in the predictions' time.
    """

    model: str
    at_us: int
    held: list[Held] = []


def read_held(state: Path, model: str) -> HeldList | None:
    """What the loop held at its last step; None where it took none. `state`: the checkout's state folder.

    Raises:
        FileError: the file is none.
    """
    try:
        return files.read_json(state / "autopilot" / model / "held.json", HeldList)
    except FileNotFoundError:
        return None
