"""Windows judged against a reference with moments: calibrated, triaged and drawn, and beside them the truths that came in."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from feature_repo.records.redis_keys import labels_key
from feature_repo.records.verdict import history
from infra.settings import Settings
from serving.monitoring import verdict_plot
from serving.monitoring.hours import HOUR_US
from tests.serving.monitoring.pump import MODEL, Log, daily, once, register


def test_a_verdict_is_calibrated_where_the_reference_has_moments(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, *daily(120, 0))
    matrix, _ = daily(4, 3)
    matrix[:, 0] += 6  # as warm as it gets: by itself significant a hundred times over
    log.write(matrix, apart_us=HOUR_US // 4)
    once(settings, project, window=len(matrix), step=100)
    (quiet,) = history(settings, MODEL)
    assert quiet.calibrated is not None
    assert (quiet.calibrated.nominal, quiet.calibrated.hours) == (0.05, 72.0)
    assert not quiet.drift
    assert quiet.features[0].effect > 0.15
    assert quiet.triage is None
    assert quiet.oldest_s == {"v": 5.0}


def test_a_fault_is_triaged_and_drawn(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, *daily(120, 0))
    matrix, _ = daily(4, 3)
    matrix[:, 1] = np.nan
    log.write(matrix, apart_us=HOUR_US // 4, status="fmf")
    once(settings, project, window=len(matrix), step=100)
    (verdict,) = history(settings, MODEL)
    assert verdict.triage is not None
    assert (verdict.triage.cause, verdict.triage.views, verdict.triage.retrain) == ("pipeline fault", ["v"], False)
    assert "pressure is missing in 100%" in verdict.triage.detail
    assert verdict.degraded == {"v": {"missing": 0.3333}}
    assert "pressure" in verdict_plot.effects(verdict)


@pytest.mark.parametrize(("every", "moved"), [(4, False), (2, True)])
def test_truths_that_came_in_are_judged_against_the_references_own(
    settings: Settings, project: str, log: Log, every: int, moved: bool
) -> None:
    register(settings, 1, *daily(120, 0))
    matrix, _ = daily(4, 3)
    log.write(matrix, apart_us=HOUR_US // 4)
    known = len(matrix) - 24  # the newest have none yet
    truths = {str(i): msgspec.json.encode({"label": int(i % every == 0), "at_us": i}) for i in range(known)}
    log.client.hset(labels_key(project, MODEL), mapping=truths)  # type: ignore[arg-type]
    once(settings, project, window=len(matrix), step=100)
    (verdict,) = history(settings, MODEL)
    assert verdict.label is not None
    assert (verdict.label.drift, verdict.drift) == (moved, False), "it calls no drift by itself"
    assert verdict.label.effect == pytest.approx(1 / every - 1 / 4, abs=0.01)


def test_too_few_truths_are_not_judged(settings: Settings, project: str, log: Log) -> None:
    register(settings, 1, *daily(120, 0))
    matrix, _ = daily(4, 3)
    log.write(matrix, apart_us=HOUR_US // 4)
    log.client.hset(labels_key(project, MODEL), "3", b'{"label":1,"at_us":3}')
    once(settings, project, window=len(matrix), step=100)
    assert history(settings, MODEL)[0].label is None
