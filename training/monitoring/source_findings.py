"""What is proven of a source, or that it has another unit, for the journal: once when it is found, and once when it is over.

While no window drifts no verdict says it, and nobody would read it but in `headrace status`. It holds nothing: what is held, triage says.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from feature_repo.records.decisions import Decision
from feature_repo.records.source_report import SourceReport, read_source_report
from feature_repo.registry.definitions import DefinitionError
from infra import files
from infra.timestamps import minute_text
from streaming import clock
from streaming.schema.feature_view import projections

if TYPE_CHECKING:
    import redis

    from feature_repo.spec.model import ModelSpec
    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings

FOUND, OVER = "source", "source over"
log = logging.getLogger("headrace.autopilot")


@dataclass(frozen=True)
class Finding:
    """A line for the journal: see `Decision`."""

    id: str
    step: str
    text: str
    facts: dict[str, str] = field(default_factory=dict)


def new_findings(client: redis.Redis, own: Settings, case: UseCase, spec: ModelSpec, decisions: Sequence[Decision]) -> list[Finding]:
    """What the last look at the sources has found of those that a model is made of, as far as the journal does not have it."""
    try:
        report = read_source_report(own.state, case.project)
    except files.FileError as error:
        log.warning("what the sources did is not known: %s", error)
        return []
    told = _told(decisions)
    if report is None or not (report.odd or told) or report.is_ahead(clock.rehearsal_us(client, case.project)):
        return []
    try:
        sources = {p.view.path for p in projections(case.store, spec.feature_service)}
    except DefinitionError as error:
        log.warning("which sources %s is made of is not known: %s", spec.name, error)
        return []
    return _new(report, sources, told)


def _new(report: SourceReport, sources: set[str], told: dict[str, int]) -> list[Finding]:
    news, found = report.news(sources), []
    for finding, one in news.items():
        if finding not in told:
            text = f"{one.source}: {one.says} since {minute_text(one.since_us)}: {one.kind}: {one.text}"
            facts = {"rows": "; ".join(one.rows)} if one.rows else {}
            found.append(Finding(f"{FOUND}/{finding}@{report.upto_us}", FOUND, text, facts))
    for finding, upto_us in told.items():
        if finding not in news and report.upto_us > upto_us and report.can_end(finding):
            text = f"{finding} is not found any more, up to {minute_text(report.upto_us)}"
            found.append(Finding(f"{FOUND}/{finding}@{report.upto_us}/over", OVER, text))
    return found


def _told(decisions: Sequence[Decision]) -> dict[str, int]:
    """Findings that are written down and not over, with the moment up to which was looked then."""
    found: dict[str, int] = {}
    for one in decisions:
        finding, _, upto = one.id.removeprefix(f"{FOUND}/").rpartition("@")
        if one.step == FOUND and upto.isdigit():
            found[finding] = int(upto)
        elif one.step == OVER:
            found.pop(finding, None)
    return found
