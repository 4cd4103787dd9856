"""Settings, ports, Java, Redis and the doctor: what a checkout finds and keeps to itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from feature_repo.spec.use_case_check import use_case
from infra import java, redis_client
from infra.doctor import Finding, examine
from infra.ports import port
from infra.settings import ROOT, Settings, first_use_case
from infra.supervision import redis_server
from infra.supervision.process import ServiceError


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
        monkeypatch.setenv(name, os.environ[name])  # so that `export` is undone
    for name in (redis_client.USER, redis_client.PASSWORD):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def test_two_checkouts_never_share_a_port_and_keep_their_own(tmp_path: Path) -> None:
    a, b = Settings(state=tmp_path / "a"), Settings(state=tmp_path / "b")
    names = [f"service-{i}" for i in range(20)]
    first = [port(a.state, n) for n in names]
    assert len(set(first)) == len(first)
    assert [port(a.state, n) for n in names] == first
    assert not set(first) & {port(b.state, n) for n in names}


def _detector(own: Settings) -> Finding:
    return next(f for f in examine(own) if f.name == "Drift detector")


@pytest.mark.usefixtures("kept")
def test_feast_gets_the_address_in_its_own_form(tmp_path: Path) -> None:
    Settings(state=tmp_path, redis_url="rediss://:se:cret@example.org:6380/2").export()
    assert os.environ["HEADRACE_REDIS_CONNECTION"] == "example.org:6380,db=2,password=se:cret,ssl=true"


def test_outside_the_embedded_profile_the_drift_detector_has_to_be_chosen(tmp_path: Path) -> None:
    assert Settings(state=tmp_path).drift_detector == "alibi"
    for kind in ("alibi", "scipy"):
        assert Settings(state=tmp_path, profile="cluster", detector=kind).drift_detector == kind
    with pytest.raises(ValueError, match=r"HEADRACE_DETECTOR=scipy.*licence"):
        _ = Settings(state=tmp_path, profile="cluster").drift_detector


def test_the_doctor_says_who_judges_drift_and_what_its_licence_means(tmp_path: Path) -> None:
    found = {kind: _detector(Settings(state=tmp_path, detector=kind)) for kind in ("alibi", "scipy")}
    assert "not for production" in found["alibi"].found
    assert "free for every use" in found["scipy"].found
    unchosen = _detector(Settings(state=tmp_path, profile="cluster"))
    assert not unchosen.ok
    assert "HEADRACE_DETECTOR" in unchosen.fix


@given(
    kafka=st.dictionaries(
        st.text(st.characters(codec="ascii", exclude_characters="\x00")), st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
    ),
    packages=st.text(st.characters(codec="ascii", categories=["L", "N", "P"])),
    now=st.none() | st.booleans(),
    detector=st.sampled_from([None, "alibi", "scipy"]),
    files=st.none() | st.just(Path("/events")),
    seconds=st.floats(1e-9, 1e9),
)
def test_another_process_gets_the_very_same_settings(
    kafka: dict[str, str], packages: str, now: bool | None, detector: Any, files: Path | None, seconds: float
) -> None:
    """What a replica, a service or a training process is told is what this process has: also what is no text (HEADRACE_KAFKA)."""
    own = Settings(
        kafka=kafka,
        spark_packages=packages,
        request_now=now,
        detector=detector,
        event_files=files,
        redis_timeout_s=seconds,
        profile="cluster",
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in [n for n in os.environ if n.startswith("HEADRACE_")]:
            patch.delenv(name)
        for name, value in own.environment().items():
            patch.setenv(name, value)
        assert Settings() == own


@pytest.mark.usefixtures("kept")
def test_a_replica_starts_with_kafka_configured(tmp_path: Path) -> None:
    code = (
        "from infra.settings import Settings; from serving.deployment.app import configure; configure(Settings()); "
        "import os; print(Settings().kafka, os.environ['HEADRACE_REDIS_URL'])"
    )
    options = '{"bootstrap.servers": "broker:9092", "security.protocol": "SASL_SSL"}'
    environment = os.environ | {"HEADRACE_KAFKA": options, "HEADRACE_STATE": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr
    assert "'security.protocol': 'SASL_SSL'" in said.stdout


def test_only_the_embedded_profile_lets_a_request_set_its_clock() -> None:
    assert Settings().allows_request_now
    assert not Settings(profile="cluster").allows_request_now
    assert Settings(profile="cluster", request_now=True).allows_request_now


def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_REPLICAS", "many")
    with pytest.raises(ValidationError, match="replicas"):
        Settings()


def test_the_bundled_java_runs_without_the_module_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "_installed", lambda: None)
    home = java.java_home(Settings(state=tmp_path))
    assert home.is_relative_to(tmp_path)
    assert (java.version(home / "bin" / "java") or 0) >= java.MINIMUM
    done = subprocess.run([home / "bin" / "java", "--add-modules=jdk.incubator.vector", "-version"], capture_output=True, check=False)
    assert done.returncode == 0


def test_the_doctor_finds_nothing_wrong_here_and_names_a_broken_use_case(tmp_path: Path) -> None:
    findings = {f.name: f for f in examine(Settings(state=tmp_path, repo=first_use_case()), use_case)}
    assert all(findings[n].ok for n in ("Python", "Packages", "Java", "Redis", "HAProxy", "Use case"))
    broken = {f.name: f for f in examine(Settings(state=tmp_path, repo=tmp_path), use_case)}["Use case"]
    assert not broken.ok
    assert "feature_store.yaml" in broken.fix


def test_an_external_redis_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="HEADRACE_REDIS_URL"):
        redis_server.up(Settings(state=tmp_path, redis_url="redis://127.0.0.1:1/0"))


def test_redis_is_up_once(state: Settings, redis_url: str) -> None:
    redis_server.up(state)
    assert redis_server.ping(state)
    assert redis_url == state.redis()


@pytest.mark.parametrize("said", ["s3://bucket/a", "s3:/bucket/a", "gs://b"])
@pytest.mark.parametrize("name", ["STATE", "REPO", "EVENT_FILES"])
def test_a_folder_on_this_machine_cannot_be_a_url(monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setenv(f"HEADRACE_{name}", said)
    with pytest.raises(ValueError, match="is a URL; this must be a folder on this machine"):
        Settings()
