"""The sources are looked at while the stream runs, by a process of its own, again and again."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from feature_repo.records.source_report import read_source_report, report_path
from infra.settings import Settings
from streaming.profiles.lookout import LOG, Lookout


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "lookout"]


@pytest.mark.slow
def test_it_looks_again_and_again_until_it_is_stopped(bikes: Any) -> None:
    own = bikes.settings.model_copy(update={"source_check_s": 0.2})
    path = report_path(own.state, bikes.case.project)
    path.unlink(missing_ok=True)
    lookout = Lookout(own)
    lookout.start()
    try:
        seen: set[int] = set()
        ends = time.monotonic() + 120
        while len(seen) < 2 and time.monotonic() < ends:
            time.sleep(0.1)
            if path.exists():
                seen.add(path.stat().st_mtime_ns)
        assert len(seen) == 2, (own.log_dir / LOG).read_text()
        found = read_source_report(own.state, bikes.case.project)
        assert found is not None
        assert found.upto_us
    finally:
        began = time.monotonic()
        lookout.stop()
        assert time.monotonic() - began < 10
        path.unlink(missing_ok=True)
    assert not threads()


def test_nought_means_never(tmp_path: Path) -> None:
    lookout = Lookout(Settings(state=tmp_path, source_check_s=0))
    lookout.start()
    assert not threads()
    lookout.stop()


def test_a_log_that_cannot_be_written_costs_the_look_and_not_the_stream(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text("a file where the folder should be")
    lookout = Lookout(Settings(state=tmp_path, source_check_s=0.05))
    lookout.start()
    time.sleep(0.3)
    assert threads()
    lookout.stop()
    assert "the sources were not looked at" in capfd.readouterr().err
