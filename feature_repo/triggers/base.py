"""What a trigger is: its settings in a model's YAML, and the facts on which it fires. Pure: no clock, no store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, Literal, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict

from feature_repo.metrics.base import Estimate

DAY_US = 86_400_000_000
LONGEST_DAYS = 36_525
"""No setting is longer than a century: calendars end in the year 9999."""


class Settings(BaseModel):
    """What a trigger reads of `learning.triggers`. Where nothing is said it does not fire."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Asked = TypeVar("Asked", bound=Settings)


class Alarm(msgspec.Struct, frozen=True):
    """What the watch's verdicts on the live version say, as a row: from the first that raised an alarm to the newest.

    Attributes:
        text: what the newest says, in words.
        kind: `change`, a new model may help; `suspicion`, it may be a fault, and that is not proven; `proof`, it is one.
        since_us: of the first verdict of the row, in the predictions' time.
        changes: how many of the newest verdicts, one after the other, called for a training.
        answer: what a person said of what it is taken for: `dismissed`, `confirmed`; empty: nothing.
        why: the person's words.
        began: id of the first verdict of the row.
        of: sources and views that the newest is about.
    """

    text: str
    kind: Literal["change", "suspicion", "proof"]
    since_us: int
    changes: int = 1
    answer: Literal["", "dismissed", "confirmed"] = ""
    why: str = ""
    began: str = ""
    of: list[str] = []


class Hold(msgspec.Struct, frozen=True):
    """What keeps a training from happening now, and until when (microseconds, in the predictions' time; None: nobody can say)."""

    text: str
    until_us: int | None = None


class Facts(msgspec.Struct, frozen=True):
    """What the triggers look at.

    Attributes:
        now_us: microseconds since the epoch, in the data's own time.
        known_upto_us: the champion's knowledge cut-off; None: its contract does not say.
        labelled_us: when the newest truth there is, by now, became known; None: nothing is labelled yet.
        new_labels: examples whose truth became known after that cut-off, and by now.
        live: the champion's live estimate of the quality trigger's metric, on its newest labelled predictions;
            None: too few of them.
        baseline: the champion's held-out value of the same metric.
        alarm: what the watch says; None: nothing is odd.
        request: a person's words, None where nobody asked.
        trained_us: moments of earlier trainings that nobody asked for, oldest first.
        failed_us: when a training last came to nothing; None: the last one did not.
    """

    now_us: int
    known_upto_us: int | None
    labelled_us: int | None = None
    new_labels: int = 0
    live: Estimate | None = None
    baseline: float | None = None
    alarm: Alarm | None = None
    request: str | None = None
    trained_us: Sequence[int] = ()
    failed_us: int | None = None


class Trigger(ABC, Generic[Asked]):
    """
    Attributes:
        kind: its name in the journal.
        holds: whether cooldown and budget hold it.
        example: settings as in YAML, and facts on which it fires with them: what the contract suite runs.
    """

    kind: ClassVar[str]
    holds: ClassVar[bool] = True
    example: ClassVar[tuple[dict[str, Any], Facts]]

    @abstractmethod
    def wanted(self, asked: Asked) -> bool:
        """Whether the settings ask for it at all."""

    @abstractmethod
    def fires(self, asked: Asked, facts: Facts) -> str | None:
        """Why a training is due, in words; None: it is not."""

    def hold(self, asked: Asked, facts: Facts) -> Hold | None:
        """What holds this trigger although it fires, beside what holds all of them; None: nothing does."""
        return None
