"""What the sources of a window are asked, and what of their answer is in the verdict."""

from __future__ import annotations

import numpy as np

from serving.monitoring.hours import DAY_US, HOUR_US
from serving.monitoring.triage.seen import Clues
from streaming.profiles.lookup import Looked
from streaming.profiles.violation import Violation
from tests.serving.monitoring.triage.test_explanation import NAMES, VIEWS, Known, said, window, year


def test_the_sources_are_asked_of_the_window_s_days_and_say_since_when() -> None:
    """Also where one client's clock says 1970: all history would be read, and what is usual would be in what is looked at."""
    rows, times = year(300, 0)
    known = Known(rows, NAMES, VIEWS, times, (rows[:, -1] > 0.5).astype(np.float64), "scipy")
    matrix, moments = window()
    matrix[:, 2:4] *= 0.3
    usual = (int(moments[0]), int(moments[-1]))
    since_us, asked = usual[0] + 7 * HOUR_US, []

    def look(from_us: int, upto_us: int) -> Looked:
        asked.append((from_us, upto_us))
        return Looked([Violation("counters", "expectation", "delay", since_us, "it breaks", proof=True)], frozenset({"counters"}))

    for stray_us in (moments[0], 0, -2 * DAY_US):
        moments[0] = stray_us
        found = said(known, matrix, moments, clues=Clues(look=look, sources={"road": ["counters"]}))
        assert found is not None
        assert (found.cause, found.proof) == ("pipeline fault", True)
        (shown,) = [one for one in found.evidence if one.place == "source"]
        assert shown.since_us == since_us
    whole, stray, before = asked
    assert whole == usual
    assert stray == before == (int(moments[1]), usual[1])
