"""A broken file costs what is in it and nothing else, and is named."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.records import contract, release
from feature_repo.records.contract import Contract, ContractError
from feature_repo.records.decisions import Decision, Journal
from feature_repo.records.release import Release, ReleaseError
from feature_repo.records.verdict import Verdict
from feature_repo.spec.use_case import UseCase
from feature_repo.spec.yaml_file import UseCaseError
from infra import files, ports
from infra.settings import Settings
from infra.supervision import launch, process, services
from serving.batch.offline_predictor import open_predictor
from serving.monitoring.reference import Reference
from streaming.offline.archive import Archive, Cursor
from tests.fuzz import fuzzed
from tests.serving.hostile import bodies
from tests.serving.shop import make_contract, write_version
from training.data.manifest import Manifest
from training.evaluation.rescoring import scored
from training.gates.record import Gates, gates_path, read_gates
from training.retraining.loop_state import State

BREAKS: dict[str, Callable[[Path], Any]] = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-5]),
    "no UTF-8": lambda path: path.write_bytes(b'{"champion": "\xff"}'),
    "nested deep": lambda path: path.write_bytes(b"[" * 100_000),
    "another type": lambda path: path.write_bytes(b'"x"'),
    "empty": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(100)),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
}
broken = pytest.mark.parametrize("how", BREAKS)


@fuzzed
@given(
    st.sampled_from([Release, Contract, Decision, Verdict, Gates, State, Manifest, Cursor, dict[str, int]]),
    bodies(msgspec.to_builtins(make_contract()), {"champion": 1, "history": [{"at": "", "what": "", "why": ""}], "contracts": {"1": "x"}}),
)
def test_fuzz_any_bytes_of_a_file_are_read_or_refused_by_its_name(tmp_path_factory: pytest.TempPathFactory, kind: Any, raw: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.json"
    path.write_bytes(raw)
    with contextlib.suppress(files.FileError):  # the only way in which it may not be read
        files.read_json(path, kind)


@broken
def test_a_broken_release_costs_its_own_model_and_is_mended_by_a_promotion(tmp_path: Path, how: str) -> None:
    write_version(tmp_path, 1)
    release.promote(tmp_path, "sells_out", 1)
    path = tmp_path / "sells_out" / release.RELEASE
    BREAKS[how](path)
    with pytest.raises(ReleaseError, match=r"release\.json cannot be read: .*promote a version again"):
        release.read(tmp_path, "sells_out")
    with pytest.raises(ReleaseError):
        release.roll_back(tmp_path, "sells_out")
    assert release.champion_if_any(tmp_path, "sells_out") is None
    assert release.promote(tmp_path, "sells_out", 1).champion == 1
    assert path.with_name("release.json.broken").exists()


@broken
def test_a_broken_contract_is_refused_by_name(tmp_path: Path, how: str) -> None:
    folder = write_version(tmp_path, 1)
    BREAKS[how](folder / contract.CONTRACT)
    with pytest.raises(ContractError, match=str(folder)):
        contract.load(folder)


@broken
def test_a_broken_model_file_is_refused_by_name(tmp_path: Path, how: str) -> None:
    folder = write_version(tmp_path, 1)
    BREAKS[how](folder / contract.MODEL)
    with pytest.raises(ContractError, match=r"model\.onnx"):
        contract.load(folder)


def test_a_contract_exchanged_together_with_its_model_is_not_what_was_released(tmp_path: Path) -> None:
    first, second = write_version(tmp_path, 1), write_version(tmp_path, 2)
    now = release.promote(tmp_path, "sells_out", 1)
    now = release.shadow(tmp_path, "sells_out", 2)
    assert now.contracts == {1: contract.sha256(first / contract.CONTRACT), 2: contract.sha256(second / contract.CONTRACT)}
    (second / contract.MODEL).write_bytes((first / contract.MODEL).read_bytes())
    exchanged = {p.name: contract.sha256(p) for p in second.iterdir() if p.name != contract.CONTRACT}
    contract.write(second, make_contract(2, files=exchanged))
    assert contract.load(second).version == 2, "the folder agrees with itself"
    with pytest.raises(ContractError, match="not the contract that was released"):
        release.load(tmp_path, "sells_out", 2, now)
    for step in (release.promote, release.shadow):
        with pytest.raises(ContractError, match="not the contract that was released"):
            step(tmp_path, "sells_out", 2)
    assert release.load(tmp_path, "sells_out", 1, now).version == 1
    assert release.promote(tmp_path, "sells_out", 1) == now


READERS: dict[str, Callable[[Path], Any]] = {
    "training": lambda root: scored(root, "sells_out", 1),
    "the watch": lambda root: Reference(root, "sells_out", 1, "scipy"),
    "batch scoring": lambda root: open_predictor(None, root, "sells_out", 1),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("reader", READERS)
def test_everyone_who_reads_a_version_asks_the_release_which_contract_it_is(tmp_path: Path, reader: str) -> None:
    folder = write_version(tmp_path, 1)
    release.promote(tmp_path, "sells_out", 1)
    files_of = contract.load(folder).files
    contract.write(folder, make_contract(1, files=files_of, deadline_ms=77))
    assert contract.load(folder).deadline_ms == 77, "the folder agrees with itself"
    with pytest.raises(ContractError, match="not the contract that was released"):
        READERS[reader](tmp_path)
    (tmp_path / "sells_out" / release.RELEASE).write_bytes(b"{")
    with pytest.raises(ContractError, match=r"cannot be verified: .*release\.json"):
        READERS[reader](tmp_path)


def test_a_release_of_before_hashes_were_kept_goes_on_and_takes_them_with_its_next_step(tmp_path: Path) -> None:
    folder = write_version(tmp_path, 1)
    write_version(tmp_path, 2)
    (tmp_path / "sells_out" / release.RELEASE).write_bytes(b'{"champion":1,"history":[{"at":"2026-01-01T00:00:00+00:00","what":"x"}]}')
    old = release.read(tmp_path, "sells_out")
    assert old is not None
    assert (old.contracts, release.load(tmp_path, "sells_out", 1, old).version) == ({}, 1)
    assert set(release.shadow(tmp_path, "sells_out", 2).contracts) == {1, 2}
    assert contract.load(folder, contract.sha256(folder / contract.CONTRACT)).version == 1


def test_a_broken_line_of_a_journal_costs_that_line_and_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    journal = Journal(tmp_path, "m")
    for number in range(4):
        journal.write(Decision(str(number), 0, 0, "held", "because"))
    lines = journal.path.read_bytes().split(b"\n")
    lines[1], lines[2] = b'{"id": "\xff"}', b"[" * 100_000
    journal.path.write_bytes(b"\n".join(lines))
    with caplog.at_level(logging.WARNING):
        assert [d.id for d in journal.read()] == ["0", "3"]
    assert f"{journal.path}, line 2 cannot be read" in caplog.text
    assert Journal(tmp_path, "m").write(Decision("4", 0, 0, "held", "because"))


@broken
def test_broken_ports_are_chosen_anew_and_the_file_is_kept(tmp_path: Path, how: str, caplog: pytest.LogCaptureFixture) -> None:
    own = Settings(state=tmp_path / "state")
    ports.port(own.state, "redis")
    BREAKS[how](own.state / "ports.json")
    with caplog.at_level(logging.WARNING):
        assert ports.port(own.state, "redis") == ports.port(own.state, "redis")
    assert "ports.json cannot be read" in caplog.text
    assert "headrace down" in caplog.text
    assert (own.state / "ports.json.broken").exists()


@broken
def test_broken_claims_cost_no_command(tmp_path: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "claims_folder", lambda: tmp_path)
    ports.port(tmp_path / "one", "redis")
    BREAKS[how](tmp_path / "claims.json")
    assert ports.port(tmp_path / "two", "redis") > 0


@broken
def test_gates_that_cannot_be_read_are_asked_again(tmp_path: Path, how: str) -> None:
    own = Settings(state=tmp_path)
    path = gates_path(own, "m", 1)
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"version": 1}')
    BREAKS[how](path)
    assert read_gates(own, "m", 1) is None
    assert not path.exists()


RECORDS = BREAKS | {
    "numbers of another type": lambda path: path.write_bytes(b'{"pid": 1e999, "created": "x", "argv": 5}'),
    "no such process": lambda path: path.write_bytes(b'{"pid": 99999999999999999999, "created": 1, "argv": []}'),
    "a list": lambda path: path.write_bytes(b"[]"),
}
SLEEP = "import time; print('up', flush=True); time.sleep(600)"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Two services that run."""
    own = Settings(state=tmp_path_factory.mktemp("services") / "state")
    for name in ("one", "two"):
        log = process.log_path(own, name)
        process.start(own, name, [sys.executable, "-c", SLEEP], lambda log=log: log.exists() and b"up" in log.read_bytes(), 30)  # type: ignore[misc]
    yield own
    for name in ("one", "two"):
        process.stop(own, name, grace_s=5)


@pytest.mark.parametrize("how", RECORDS)
def test_a_broken_record_of_a_service_is_named_and_written_anew_from_the_process(
    running: Settings, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    before = [process.alive(running, name) for name in ("one", "two")]
    assert None not in before
    path = running.run_dir / "one.json"
    RECORDS[how](path)
    if how == "no such process":  # a record as good as any, of a process that is gone
        assert process.alive(running, "one") is None
        path.write_bytes(b"{")
    with caplog.at_level(logging.WARNING):
        rows = {row["name"]: row for row in services.status(running)}
    assert (rows["one"]["running"], rows["two"]["running"]) == (True, True)
    assert f"{path} cannot be read" in caplog.text
    after = [process.alive(running, name) for name in ("one", "two")]
    assert [one and (one.name, one.pid) for one in after] == [one and (one.name, one.pid) for one in before]
    assert process.start(running, "one", ["false"], lambda: True, 5).pid == before[0].pid, "it is not started twice"  # type: ignore[union-attr]


@broken
def test_a_broken_record_of_a_service_that_does_not_run_is_out_of_its_way(tmp_path: Path, how: str) -> None:
    own = Settings(state=tmp_path / "state")
    own.run_dir.mkdir(parents=True)
    path = own.run_dir / "sleeper.json"
    path.write_bytes(b'{"pid": 1}')
    BREAKS[how](path)
    assert process.alive(own, "sleeper") is None
    assert not path.exists()
    path.write_bytes(b"{}")
    BREAKS[how](path)
    launch.write(path, {"pid": 1, "created": 2.0, "argv": []})  # as the service itself does it
    assert launch.read_record(path) is not None
    assert not process.stop(own, "sleeper")


@broken
def test_what_a_service_is_to_be_started_with_is_named_where_it_is_broken(tmp_path: Path, how: str) -> None:
    (tmp_path / "supervisor").mkdir()
    path = tmp_path / "supervisor" / "one.service"
    path.write_bytes(b'{"argv": ["true"], "cwd": "/"}')
    BREAKS[how](path)
    with pytest.raises(SystemExit, match=r"one\.service cannot be read .*headrace up"):
        launch.main(str(tmp_path), "one")


def test_a_broken_model_spec_costs_its_own_model(bikes_case: Path, caplog: pytest.LogCaptureFixture) -> None:
    for how, content in (("no UTF-8", b"name: \xff"), ("no YAML", b"a: [1"), ("another type", b"[]"), ("deep", b"[" * 10_000)):
        (bikes_case / "models" / "broken.yaml").write_bytes(content)
        case = UseCase(bikes_case)
        assert list(case.models) == ["turned_away"], how
        assert "broken.yaml" in caplog.text
        with pytest.raises(UseCaseError, match=r"broken\.yaml"):
            case.model("broken")
        caplog.clear()


@pytest.mark.parametrize("content", [b"\xff", b"[1", b"- a", b"project: [1]", b"", b"[" * 10_000, b"project: 2021-02-30"])
@pytest.mark.parametrize("name", ["feature_store.yaml", "ingest.yaml"])
def test_a_broken_file_of_a_use_case_is_refused_by_its_name(bikes_case: Path, name: str, content: bytes) -> None:
    (bikes_case / name).write_bytes(content)
    with pytest.raises(UseCaseError, match=name):
        _ = (UseCase(bikes_case).project, UseCase(bikes_case).ingest)


@pytest.fixture(scope="module")
def bikes_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.bikes.generate import generate

    return generate(tmp_path_factory.mktemp("bikes") / "repo").folder


@pytest.fixture
def bikes_case(bikes_files: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bikes_files, tmp_path / "repo"))


def test_a_truncated_hour_of_the_archive_costs_that_hour(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    from feature_repo.records.prediction import Prediction
    from streaming.offline.archive import Archived

    archive = Archive(tmp_path / "offline", tmp_path / "models", tmp_path / "home", "p")
    hour = 3_600_000_000

    def put(number: int) -> None:
        prediction = Prediction(f"id{number}", "m", 1, number * hour, number * hour, {}, [1.0], "f", {}, 0.5)
        archive._predictions([(b"1-0", {b"p": msgspec.json.encode(prediction)})], Archived())

    for number in range(3):
        put(number)
    paths = sorted((tmp_path / "offline").rglob("*.parquet"))
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    with caplog.at_level(logging.WARNING):
        assert archive.predictions("m")["prediction_id"].to_pylist() == ["id0", "id2"]
        assert str(paths[1]) in caplog.text
        put(1)
        assert archive.predictions("m")["prediction_id"].to_pylist() == ["id0", "id1", "id2"]
        paths[2].write_bytes(b"")
        assert archive.newest_us("m") == hour
    assert paths[1].with_name(f".{paths[1].name}.broken").exists()
