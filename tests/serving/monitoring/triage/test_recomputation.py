"""How much of the watch's time recomputation may take."""

from __future__ import annotations

import time

import pytest

from serving.monitoring.triage.recomputation import BURST, Allowance


def test_a_burst_is_free_and_in_the_long_run_the_rest_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour of verdicts, each of which would take two seconds: the burst, and a twentieth of the hour."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    allowance, spent = Allowance(20.0), []
    while now[0] < 3600:
        if allowance.open:
            allowance.spend(2.0)
            spent.append(now[0])
            now[0] += 2.0
        now[0] += 0.5
    assert spent[int(BURST / 2) - 1] < 3 * BURST
    assert len(spent) * 2 == pytest.approx(BURST + 3600 / 20, rel=0.1)


def test_where_time_stands_still_nothing_rests() -> None:
    allowance = Allowance(0.0)
    allowance.spend(1e6)
    assert allowance.open
