"""Two versions, compared on what was asked of them."""

from __future__ import annotations

import pytest

from tests.training.retraining.world import MODEL, World


def test_two_versions_are_compared_on_what_was_asked(world: World) -> None:
    from feature_repo.metrics.table import COMPARED
    from training.evaluation.comparison import ComparisonError
    from training.retraining.version_comparison import head_to_head

    pilot = world.pilot()
    with pytest.raises(ComparisonError, match="no request"):
        head_to_head(pilot.archive, world.settings.model_root, world.case.model(MODEL), 1, 2)
    world.serve()
    world.drift()
    world.bad = lambda role, version: role == "canary"
    world.until("canary")
    for _ in range(6):
        world.serve(100)
    pilot.archive.run(world.client)
    found = head_to_head(pilot.archive, world.settings.model_root, world.case.model(MODEL), 2, 1)
    assert found.answered[1] > 0
    assert found.answered[2] > 200
    assert {m.metric: m.difference < 0 for m in found.metrics} == dict.fromkeys(COMPARED, True)
    assert all(m.high < 0 for m in found.metrics if m.metric in ("auc", "log_loss", "brier"))
    assert "version 2 is worse" in found.verdict
