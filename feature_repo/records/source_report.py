"""What the sources of a use case did lately that they usually do not, or must not: written by whoever looked last."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from infra import files


class OddSource(msgspec.Struct, frozen=True):
    """As `streaming.profiles.violation.Violation`.

    Attributes:
        says: `proof`, `unusual`, or `moved` (told, and no sign of a fault).
        since_us: from when on, microseconds since the epoch (UTC).
        rows: a few that show it.
    """

    source: str
    kind: str
    column: str
    says: str
    since_us: int
    text: str
    rows: list[str] = []

    @property
    def finding(self) -> str:
        """Names it from look to look, whatever its figures become."""
        return "/".join((self.source, self.kind, *([self.column] if self.column else [])))

    @property
    def is_news(self) -> bool:
        """Whether somebody has to be told though nothing drifts: what is proven, and another unit."""
        return self.says == "proof" or (self.kind == "unit" and self.says != "moved")


class SourceReport(msgspec.Struct, frozen=True):
    """
    Attributes:
        upto_us: the newest moment that was looked at, microseconds since the epoch (UTC).
        profiled: sources of which it is known what is usual.
        unreadable: sources of which nothing can be said, and why.
    """

    upto_us: int
    profiled: list[str] = []
    odd: list[OddSource] = []
    unreadable: dict[str, str] = {}

    def can_end(self, finding: str) -> bool:
        """Whether a finding that is not here is over: of a source that cannot be read nobody knows."""
        return not any(finding.startswith(f"{source}/") for source in self.unreadable)

    def is_ahead(self, clock_us: int | None) -> bool:
        """Whether it tells of a time that a rehearsal's clock has not got to (microseconds; None: there is no rehearsal)."""
        return clock_us is not None and self.upto_us > clock_us

    def news(self, sources: Collection[str] | None) -> dict[str, OddSource]:
        """By finding, what somebody who reads these sources has to be told; None: nobody knows which they are, so of all."""
        return {one.finding: one for one in reversed(self.odd) if one.is_news and (sources is None or one.source in sources)}


def report_path(state: Path, project: str) -> Path:
    return state / "sources" / f"{project}.json"


def read_source_report(state: Path, project: str) -> SourceReport | None:
    """What was found last; None where nobody has looked yet. `state`: the checkout's state folder.

    Raises:
        FileError: the file is none.
    """
    try:
        return files.read_json(report_path(state, project), SourceReport)
    except FileNotFoundError:
        return None
