"""What the sources of a use case did lately that they usually do not, or must not: written by whoever looked last."""

from __future__ import annotations

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
