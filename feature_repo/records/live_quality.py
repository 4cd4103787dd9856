"""How good the live answers are, by the truths that came in: what training measures, and serving and the terminal show."""

from __future__ import annotations

import msgspec

from feature_repo.metrics.base import Estimate


class Measured(msgspec.Struct, frozen=True):
    """
    Attributes:
        predictions: made, in the window or day.
        labelled: of them, those whose truth is known.
        metrics: by name (`auc`, `log_loss`, `brier`, `calibration_error`, `base_rate`); empty below SMALLEST labelled rows.
    """

    version: int
    role: str
    predictions: int
    labelled: int
    metrics: dict[str, Estimate]


class Day(msgspec.Struct, frozen=True):
    day: str
    measured: Measured


class Quality(msgspec.Struct, frozen=True):
    """
    Attributes:
        at_us: the newest prediction's own moment, microseconds since the epoch (UTC).
        versions: each version's last WINDOW labelled predictions, newest version first.
        days: by UTC day of the prediction, what was answered, oldest first.
        slices: column -> value -> what was answered by the live version.
        delay_s: from a prediction's moment to its truth, `p50` and `p99`; None without truths.
        unlabelled: answered predictions without a truth so far.
    """

    model: str
    at_us: int
    versions: list[Measured]
    days: list[Day]
    slices: dict[str, dict[str, Measured]]
    delay_s: dict[str, float] | None
    unlabelled: int
