"""What the watch says: the verdict on one window of predictions, and where all verdicts are kept.

Written by `serving.watch` (Redis string `prediction.drift_key`, and the history file), read by the HTTP API, metrics and the report.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from infra.settings import Settings

Kind = Literal["alibi", "scipy"]


class FeatureVerdict(msgspec.Struct, frozen=True):
    """One column of one window.

    Attributes:
        p_value: the smaller of the two Holm-adjusted p-values (values, nulls).
        effect: Kolmogorov–Smirnov statistic of the non-null values, 0..1.
        null_rate, reference_null_rate: 0..1.
        cause: what drifted; empty where nothing did.
    """

    name: str
    p_value: float
    effect: float
    null_rate: float
    reference_null_rate: float
    drift: bool
    cause: Literal["", "values", "nulls", "values and nulls"] = ""

    @property
    def size(self) -> float:
        """The larger of the two effects (both are gaps between probabilities); what tables are sorted by."""
        return max(self.effect, abs(self.null_rate - self.reference_null_rate))


class OutlierVerdict(msgspec.Struct, frozen=True):
    """
    Attributes:
        share: share of the window's rows beyond the reference's threshold, 0..1.
        nominal: the share expected without drift.
        p_value: probability of at least this share without drift.
    """

    share: float
    nominal: float
    p_value: float
    alarm: bool


class Span(msgspec.Struct, frozen=True):
    """The predictions a verdict is about: how many, and the first and last one's own moment (microseconds since the epoch, UTC)."""

    rows: int
    from_us: int
    to_us: int


class Verdict(msgspec.Struct, frozen=True):
    """What the watch says of one window of one model version.

    Attributes:
        id: `<version>@<stream id of the newest prediction>`: the same window always gets the same id.
        at_us: the newest prediction's own moment, microseconds since the epoch (UTC).
        drift: any input, or the score.
        skipped: log entries that could not be judged so far (malformed, trimmed, or of a version without a readable contract).
    """

    id: str
    model: str
    version: int
    at_us: int
    window: Span
    drift: bool
    features: list[FeatureVerdict]
    score: FeatureVerdict
    outliers: OutlierVerdict
    detector: Kind
    skipped: int = 0


def history_path(settings: Settings, model: str) -> Path:
    """Where every verdict is kept: one JSON object per line, oldest first."""
    return settings.state / "watch" / f"{model}.jsonl"


def history(settings: Settings, model: str) -> list[Verdict]:
    """Every verdict so far, oldest first; a line cut short by a kill is left out."""
    path = history_path(settings, model)
    lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
    return [msgspec.json.decode(line, type=Verdict) for line in lines]
