"""What a long run needs of training, for whoever stages it (`serving.simulation.year`)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any

from feature_repo.records import release
from feature_repo.spec.model import Span, Split
from feature_repo.spec.use_case import UseCase
from infra.timestamps import moment_at
from streaming.skew.proof import SkewResult, prove, read_log
from training.data.training_set import build
from training.retraining.autopilot import Autopilot
from training.retraining.backtest import Drift, Outcome, live_through
from training.retraining.retrain import Order, train_again
from training.retraining.trainer_process import Trainer

if TYPE_CHECKING:
    from infra.settings import Settings


class Loop:
    """
    Args:
        drift: the watch's judgement, for the policies.
    """

    def __init__(self, settings: Settings, drift: Drift) -> None:
        self.settings, self.drift = settings, drift

    def first(self, case: UseCase, model: str, at_us: int) -> int:
        """The first version, on what was known at a moment."""
        with _Spark(self.settings) as spark:
            return train_again(spark, case, self.settings, case.model(model), Order(f"first@{at_us}", "the first model", at_us))

    def pilot(self, case: UseCase, model: str) -> Autopilot:
        from streaming.online.store import connect

        own = self.settings
        return Autopilot(connect(own.redis()), own, case, model, Trainer(own, model, threading.Event()))

    def skew(self, case: UseCase, model: str, version: int) -> SkewResult:
        """The skew proof over everything that a version answered."""
        from streaming.offline.archive import of
        from streaming.online.store import connect

        made = release.verified(self.settings.model_root, model, version)
        log = read_log(connect(self.settings.redis()), case.project, model, version, of(self.settings, case.project))
        with _Spark(self.settings) as spark:
            return prove(spark, case, self.settings, made, log)

    def policies(
        self, case: UseCase, model: str, first_us: int, last_us: int, progress: Callable[[str], None] = lambda _: None
    ) -> list[Outcome]:
        """Every policy on the same stream: the training set of the whole time, joined once."""
        spec = case.model(model)
        first, last = (_date(us) for us in (first_us, last_us))
        train, rest = Span(start=spec.split.train.start, end=first), Span(start=first, end=max(last, first + timedelta(days=1)))
        whole = spec.model_copy(update={"split": Split(train=train, valid=rest)})
        with _Spark(self.settings) as spark:
            made = build(spark(), case, self.settings, whole)
        return live_through(spec, made, first_us, last_us, self.drift, progress=progress)


class _Spark:
    """Gives a session when it is asked for one, and stops it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.made: Any = None

    def __enter__(self) -> Callable[[], Any]:
        return self._session

    def _session(self) -> Any:
        from streaming.offline.spark import session

        self.made = self.made or session(self.settings)
        return self.made

    def __exit__(self, *_: object) -> None:
        if self.made is not None:
            self.made.stop()


def _date(us: int) -> date:
    return moment_at(us).date()
