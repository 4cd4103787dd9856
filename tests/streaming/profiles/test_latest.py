"""What is odd about the newest days reaches whoever asks: through `ingest`, the file of `status`, and Redis."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from feature_repo.records.redis_keys import clock_key, events_key, sources_key
from feature_repo.records.source_report import SourceReport, read_source_report, report_path
from feature_repo.registry.apply import apply_definitions
from infra import redis_client
from infra.settings import ROOT, Settings
from streaming import cli, clock
from streaming.offline.ingest import make_tables
from streaming.profiles.facts import DAY_US
from streaming.profiles.latest import Latest, look_at_latest, publish
from streaming.profiles.lookup import Looked
from streaming.schema.feature_view import views
from streaming.tables import print_sources
from tests.bikes.generate import generate

PROJECT_TABLES = {"rides", "docks"}
DECLARED = """
import pandera.pandas as pa

EXPECTATIONS = {"rides": pa.DataFrameSchema({"kilometres": pa.Column(float, pa.Check.le(50), nullable=True)})}
"""


@pytest.fixture
def no_rehearsal(redis_url: str) -> Iterator[None]:
    """The clock that the session's platform of this use case was rewound to is not these tables': it is taken away, and given back."""
    with redis_client.client(redis_url) as client:
        before = client.getdel(clock_key("bikes"))
        yield
        client.delete(clock_key("bikes"))
        if before is not None:
            client.set(clock_key("bikes"), before)


@pytest.fixture
def made(tmp_path: Path, redis_url: str, spark: Any, monkeypatch: pytest.MonkeyPatch, no_rehearsal: None) -> Any:
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


def test_a_rehearsals_clock_counts_here_too(made: Any) -> None:
    """Of a year of tables that a replay has brought to a day of spring, what comes later has not happened yet."""
    own, case, found = made()
    moment_us = max(found.newest.values()) - 3 * DAY_US
    with redis_client.client(own.redis()) as client:
        clock.set_rehearsal(client, case.project, moment_us)
        try:
            rehearsed = look_at_latest(case, list(views(case.store).values()), own)
        finally:
            clock.end_rehearsal(client, case.project)
    assert (rehearsed.upto_us, rehearsed.rehearsed, rehearsed.report.upto_us) == (moment_us, True, moment_us)
    assert rehearsed.looked.violations == [], "and nothing is dead that goes on later"
    assert not found.rehearsed
    out = StringIO()
    print_sources(Console(file=out, width=80), rehearsed)
    assert "where the rehearsal's clock" in out.getvalue()


def test_a_look_of_ones_own_keeps_nothing_and_one_of_an_ingest_does(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    own, case, found = made(metres)
    publish(own, case.project, found)
    before = read_source_report(own.state, case.project)
    assert before is not None
    assert before.odd
    environment = {**os.environ, **own.environment(), "COLUMNS": "80"}
    for days in ("1", "7"):
        argv = [sys.executable, str(ROOT / "headrace.py"), "sources", "--days", days]
        said = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False)
        assert said.returncode == 1, said.stderr
        assert "unit: kilometres" in said.stdout
        assert max(map(len, said.stdout.splitlines())) <= 80
        assert read_source_report(own.state, case.project) == before
    report_path(own.state, case.project).unlink()
    cli._look(own, case)
    assert read_source_report(own.state, case.project) is not None
    with redis_client.client(own.redis()) as client:
        client.delete(sources_key(case.project))


def test_the_first_ingest_looks_and_says_of_what_nothing_can_be_said(
    tmp_path: Path,
    redis_url: str,
    spark: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    no_rehearsal: None,
) -> None:
    for days, said in ((6, "no past yet to compare with (two weeks of rows): docks, rides"), (24, "nothing is odd")):
        case = generate(tmp_path / f"repo{days}", days=days)
        own = Settings(repo=case.folder, state=tmp_path / f"state{days}", redis_url=redis_url, shuffle_partitions=2)
        for name in list(os.environ):
            if name.startswith("HEADRACE_"):
                monkeypatch.setenv(name, os.environ[name])
        own.export()
        with redis_client.client(redis_url) as client:
            client.delete(events_key("bikes"), sources_key("bikes"))
        make_tables(case, own, spark)
        assert not case.applied
        cli._look(own, case)
        assert said in " ".join(capsys.readouterr().out.split())
        assert not case.applied, "a look applies nothing"


def test_a_table_that_cannot_be_read_has_a_line_of_its_own_whole_at_80_columns() -> None:
    why = "a list is no key of a view: " + "it holds [1, 2, 3] where a number is; " * 3
    found = Latest({"rides": 5, "docks": 7}, Looked([], frozenset({"docks"}), {"rides": why.strip(), "gone": "no [table]"}), 3)
    for only_odd in (False, True):
        out = StringIO()
        print_sources(Console(file=out, width=80), found, only_odd)
        said = " ".join(out.getvalue().split())
        assert f"rides: unreadable: {why.strip()}" in said
        assert "gone: unreadable: no [table]" in said
        assert "2 unreadable" in said
        assert "rides, newest row" not in said
        assert "no past yet" not in said
        assert ("docks, newest row 1970-01-01 00:00: as usual" in said) is not only_odd
        assert max(map(len, out.getvalue().splitlines())) <= 80


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
