"""What is odd about the newest days reaches whoever asks: through `ingest`, the file of `status`, and Redis."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from feature_repo.records.redis_keys import events_key, sources_key
from feature_repo.records.source_report import SourceReport, read_source_report
from feature_repo.registry.apply import apply_definitions
from infra import redis_client
from infra.settings import Settings
from streaming.offline.ingest import make_tables
from streaming.profiles.latest import look_at_latest, publish
from streaming.schema.feature_view import views
from streaming.tables import print_sources
from tests.bikes.generate import generate

PROJECT_TABLES = {"rides", "docks"}
DECLARED = """
import pandera.pandas as pa

EXPECTATIONS = {"rides": pa.DataFrameSchema({"kilometres": pa.Column(float, pa.Check.le(50), nullable=True)})}
"""


@pytest.fixture
def made(tmp_path: Path, redis_url: str, spark: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes the tables of 24 days from raw files in which rides of the last two days are changed, and looks at the newest days."""

    def make(change: Callable[[str], str] = str) -> tuple[Settings, Any, Any]:
        case = generate(tmp_path / "repo", days=24)
        (case.folder / "expectations.py").write_text(DECLARED)
        own = Settings(repo=case.folder, state=tmp_path / "state", redis_url=redis_url, shuffle_partitions=2)
        for name in list(os.environ):
            if name.startswith("HEADRACE_"):
                monkeypatch.setenv(name, os.environ[name])  # given back when the test ends
        own.export()
        with redis_client.client(redis_url) as client:  # events that another test of this use case has left are of other days
            client.delete(events_key("bikes"))
        raw = case.folder / "raw" / "rides.csv"
        lines = raw.read_text().splitlines()
        raw.write_text("\n".join(change(line) if line.split(";")[3] >= "2021-03-23" and n else line for n, line in enumerate(lines)) + "\n")
        make_tables(case, own, spark)
        apply_definitions(case)
        return own, case, look_at_latest(case, list(views(case.store).values()), own)

    yield make
    shutil.rmtree(tmp_path / "state", ignore_errors=True)


def test_what_ingest_brought_is_as_usual_and_that_is_told(made: Any) -> None:
    own, case, found = made()
    assert found.newest.keys() == found.looked.profiled == PROJECT_TABLES
    assert found.looked.violations == []
    publish(own, case.project, found)
    assert read_source_report(own.state, case.project) == SourceReport(max(found.newest.values()), sorted(PROJECT_TABLES))


def metres(line: str) -> str:
    *others, kilometres = line.split(";")
    return ";".join([*others, str(float(kilometres) * 1000) if kilometres else ""])


def test_a_fault_of_the_raw_file_is_told_with_rows_of_it_everywhere(made: Any) -> None:
    own, case, found = made(metres)
    kinds = {(one.source, one.kind, one.column): one for one in found.looked.violations}
    proof = kinds["rides", "expectation", "kilometres"]
    assert proof.proof
    assert all("station " in row and float(row.partition("kilometres = ")[2]) > 50 for row in proof.rows)
    assert kinds["rides", "unit", "kilometres"].rows
    publish(own, case.project, found)
    kept = read_source_report(own.state, case.project)
    assert kept is not None
    assert ("rides", "expectation", "proof") in {(one.source, one.kind, one.says) for one in kept.odd}
    with redis_client.client(own.redis()) as client:
        assert msgspec.json.decode(client.get(sources_key(case.project)), type=SourceReport) == kept
        client.delete(sources_key(case.project))
    out = StringIO()
    print_sources(Console(file=out, width=200), found, only_odd=True)
    assert "proof" in out.getvalue()
    assert proof.rows[0] in out.getvalue()
    assert "docks" not in out.getvalue()
