"""What is proven of a source, or that it has another unit, in the journal: once when it is found, and once when it is over.

While no window drifts no verdict says it, and nobody would read it but in `headrace status`. It holds nothing: what is held, triage says.
"""

from __future__ import annotations

import logging

from feature_repo.records.decisions import Decision
from feature_repo.records.source_report import read_source_report
from infra import files
from infra.timestamps import minute_text
from streaming import clock
from streaming.schema.feature_view import projections
from training.retraining.loop import Loop

FOUND, OVER = "source", "source over"
log = logging.getLogger("headrace.autopilot")


def note_findings(loop: Loop, now_us: int) -> None:
    """Write down what the last look at the sources has found of those that the model is made of, as far as it is new.

    Args:
        now_us: the step's moment, in the predictions' time.
    """
    try:
        report = read_source_report(loop.settings.state, loop.case.project)
    except files.FileError as error:
        log.warning("what the sources did is not known: %s", error)
        return
    if report is None or report.is_ahead(clock.rehearsal_us(loop.client, loop.case.project)):
        return
    told = _told(loop.journal.read())
    if not report.odd and not told:
        return
    news = report.news({p.view.path for p in projections(loop.case.store, loop.spec.feature_service)})
    for finding, one in news.items():
        if finding not in told:
            text = f"{one.source}: {one.says} since {minute_text(one.since_us)}: {one.kind}: {one.text}"
            loop.say(f"{FOUND}/{finding}@{report.upto_us}", now_us, FOUND, text, facts={"rows": "; ".join(one.rows)} if one.rows else None)
    for finding, upto_us in told.items():
        if finding not in news and report.upto_us > upto_us:
            text = f"{finding} is not found any more, up to {minute_text(report.upto_us)}"
            loop.say(f"{FOUND}/{finding}@{report.upto_us}/over", now_us, OVER, text)


def _told(decisions: list[Decision]) -> dict[str, int]:
    """Findings that are written down and not over, with the moment up to which was looked then."""
    found: dict[str, int] = {}
    for one in decisions:
        finding, _, upto = one.id.removeprefix(f"{FOUND}/").rpartition("@")
        if one.step == FOUND:
            found[finding] = int(upto)
        elif one.step == OVER:
            found.pop(finding, None)
    return found
