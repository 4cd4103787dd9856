"""What a trigger is: its settings in a model's YAML, and the facts on which it fires. Pure: no clock, no store."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import msgspec
from pydantic import BaseModel, ConfigDict

from feature_repo.metrics.base import Estimate

DAY_US = 86_400_000_000


class Settings(BaseModel):
    """What a trigger reads of `learning.triggers`. Where nothing is said it does not fire."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Asked = TypeVar("Asked", bound=Settings)


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
        drift: what changed, in words, where the watch calls for a training; empty otherwise.
        request: a person's words, None where nobody asked.
        trained_us: moments of earlier trainings that nobody asked for, oldest first.
    """

    now_us: int
    known_upto_us: int | None
    labelled_us: int | None = None
    new_labels: int = 0
    live: Estimate | None = None
    baseline: float | None = None
    drift: str = ""
    request: str | None = None
    trained_us: Sequence[int] = ()


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
