"""Doctor: every finding that is not well names its fix."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from feature_repo.spec.use_case_check import use_case
from infra import doctor
from infra.ports import port
from infra.settings import Settings


def _findings(own: Settings) -> dict[str, doctor.Finding]:
    return {f.name: f for f in doctor.examine(own, use_case)}


def test_a_machine_that_runs_these_tests_has_what_the_platform_needs(tmp_path: Path) -> None:
    found = _findings(Settings(state=tmp_path))
    for name in ("Python", "Packages", "Java", "Redis", "HAProxy", "Use case", "Ports"):
        assert found[name].ok, found[name]


def test_every_check_says_how_to_mend_what_it_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    own = Settings(state=tmp_path / "file" / "state", repo=tmp_path, redis_url="redis://127.0.0.1:1/0")
    monkeypatch.setattr(doctor, "MEMORY_GB", 1e6)
    monkeypatch.setattr(doctor, "CORES", 1000)
    found = _findings(own)
    for name in ("Cores", "Memory", "State folder", "Use case", "Redis"):
        assert not found[name].ok, found[name]
        assert found[name].fix
    assert "feature_store.yaml" in found["Use case"].fix


def test_a_port_that_another_program_took_is_found(tmp_path: Path) -> None:
    own = Settings(state=tmp_path)
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port(own.state, "redis")))
        stranger.listen()
        finding = _findings(own)["Ports"]
    assert not finding.ok
    assert f"redis {port(own.state, 'redis')}" in finding.found
    assert "ports.json" in finding.fix


def test_a_package_of_another_version_than_locked_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "requirements.lock").write_text("typer==0.0.1 \\\n    --hash=sha256:0\nno-such-package==1.0 ; python_version >= '3'\n")
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    finding = _findings(Settings(state=tmp_path))["Packages"]
    assert not finding.ok
    assert "typer" in finding.found
    assert "no-such-package" in finding.found


def test_looking_writes_no_ports(tmp_path: Path) -> None:
    own = Settings(state=tmp_path)
    doctor.examine(own, use_case)
    path = own.state / "ports.json"
    assert not path.exists() or json.loads(path.read_text()) == {}


def test_settings_in_force_are_shown_and_what_may_hold_a_password_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_MAX_ROWS", "7")
    monkeypatch.setenv("HEADRACE_REDIS_PASSWORD", "secret")
    found = _findings(Settings(state=tmp_path))["Settings"]
    assert found.ok
    assert "HEADRACE_MAX_ROWS=7" in found.found
    assert "HEADRACE_REDIS_PASSWORD (not shown)" in found.found
    assert "secret" not in found.found


def test_a_setting_that_is_none_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_DETECTR", "scipy")
    found = _findings(Settings(state=tmp_path))["Settings"]
    assert not found.ok
    assert "HEADRACE_DETECTR" in found.found
    assert "did you mean HEADRACE_DETECTOR?" in found.fix
