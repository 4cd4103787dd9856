"""Where the learning loop stands with one model: `<state>/autopilot/<model>/state.json`, replaced as a whole."""

from __future__ import annotations

from pathlib import Path

import msgspec

from feature_repo.records.held import Held
from infra import files
from training.data.left_out import Interval
from training.retraining.alarm import Row
from training.retraining.server_metrics import Counted, Mark
from training.retraining.triggers import Reason


class State(msgspec.Struct):
    """Where the loop stands with one model.

    Attributes:
        phase: `idle`, `training`, or the stage of the challenger.
        other: the version that the challenger is compared with: the champion, in probation the one before.
        since_us: the stage's beginning, in the predictions' time.
        trained_us: moments of the trainings that nobody asked for.
        counted: what each replica had counted when the stage began, by its start and version; None: it was not known then.
        counted_us: when that was, by the wall's clock.
        marks: what the version that answers had counted by the hour, since the shadow began.
        as_of_us: what the training may know of; 0: all up to its reason's moment.
        left_out: spans whose examples the training leaves out.
        row: what the watch's verdicts on the live version have come to.
        read: how far the file of verdicts has been read, bytes.
        held: what the step held back, and since when.
        failed_us: when a training last came to nothing; None: the last one did not.
    """

    phase: str = "idle"
    reason: Reason | None = None
    attempts: int = 0
    challenger: int | None = None
    other: int | None = None
    since_us: int = 0
    trained_us: list[int] = []
    counted: Counted | None = None
    counted_us: int = 0
    marks: list[Mark] = []
    as_of_us: int = 0
    left_out: list[Interval] = []
    row: Row = Row()
    read: int = 0
    held: list[Held] = []
    failed_us: int | None = None


def read(home: Path) -> State:
    """
    Args:
        home: the model's folder of the loop.

    Raises:
        FileError: the file is none.
    """
    try:
        return files.read_json(home / "state.json", State)
    except FileNotFoundError:
        return State()


def write(home: Path, state: State) -> None:
    home.mkdir(parents=True, exist_ok=True)
    files.replace(home / "state.json", msgspec.json.format(msgspec.json.encode(state), indent=1))
