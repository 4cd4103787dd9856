"""Compose, the image and what Prometheus and Grafana ask for, held against schemas and our own code. No container engine is needed."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import jsonschema
import pytest
import yaml

from infra.settings import ROOT
from tests.infra.deployment.artefacts import CHART, DEPLOYMENT, names, ours, refusal, settings
from tests.infra.deployment.schemas import COMPOSE

OURS = {"ray", "deploy", "stream", "watch", "autopilot", "jobs"}


def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((DEPLOYMENT / "compose.yaml").read_text())
    return read


def test_compose_is_one_by_the_part_of_its_schema_that_we_use() -> None:
    said = compose()
    jsonschema.validate(said, COMPOSE)
    assert set(said["services"]) > OURS
    for name, service in said["services"].items():
        assert set(service.get("depends_on", {})) <= set(said["services"]), name
        assert {one["source"] for one in service.get("configs", [])} <= set(said["configs"]), name
        for mount in service.get("volumes", []):
            place = mount.partition(":")[0]
            assert (DEPLOYMENT / place).exists() if place.startswith(".") else place in said["volumes"], mount
        for need, how in service.get("depends_on", {}).items():
            assert how["condition"] != "service_healthy" or "healthcheck" in said["services"][need], (name, need)


def test_ours_are_confined_and_each_secret_has_to_be_given() -> None:
    for name in OURS:
        service = compose()["services"][name]
        assert (service["read_only"], service["user"], service["cap_drop"]) == (True, "10001:0", ["ALL"]), name
    text = (DEPLOYMENT / "compose.yaml").read_text()
    required = set(re.findall(r"\$\{(\w+):\?\}", text))
    given = set(re.findall(r"(?m)^#?(\w+)=", (DEPLOYMENT / "compose.env.example").read_text()))
    assert required | {"HEADRACE_REPO", "HEADRACE_DETECTOR"} == given


def test_every_command_and_variable_of_compose_is_ours() -> None:
    checked = 0
    for name in OURS:
        service = compose()["services"][name]
        variables = {one for one in service["environment"] if one.startswith("HEADRACE_")}
        assert variables <= settings(), variables - settings()
        arguments = ours(service["command"]) if "command" in service else None
        if arguments is not None:
            assert refusal(arguments) == "", name
            checked += 1
    assert checked == 3


def test_files_that_containers_are_told_are_in_the_checkout() -> None:
    texts = [(DEPLOYMENT / name).read_text() for name in ("compose.yaml", "Containerfile")]
    told = {one for text in texts for one in re.findall(r"/opt/headrace/((?:infra|feature_repo)/[\w./-]+)", text)}
    assert told
    assert [one for one in sorted(told) if not (ROOT / one).exists()] == []


def test_the_image_runs_as_nobody_in_particular_and_names_no_index() -> None:
    text = (DEPLOYMENT / "Containerfile").read_text()
    assert re.findall(r"(?m)^USER (.*)$", text) == ["10001:0"]
    assert len(re.findall(r"(?m)^FROM ", text)) == 2
    assert "://" not in text
    assert names(text) <= settings()
    for source in re.findall(r"(?m)^COPY (?!--from)(\S+) ", text):
        assert (ROOT / source).exists(), source


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(DEPLOYMENT / "entrypoint"), *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.integration
def test_the_entrypoint_takes_roles_by_command() -> None:
    assert run("version").stdout.startswith("headrace ")
    assert run("python", "-c", "import serving; print('in')").stdout == "in\n"
    executor = run("executor")  # Spark's own class answers: it lacks a driver
    assert executor.returncode != 0
    assert "KubernetesExecutorBackend" in executor.stderr, executor.stderr[-2000:]


def test_every_metric_and_label_that_alerts_and_dashboard_name_exists() -> None:
    known = set(re.findall(r"`(headrace_\w+)` \| (\w+)", (ROOT / "docs" / "reference" / "metrics.md").read_text()))
    samples = {name for name, kind in known if kind != "histogram"}
    samples |= {f"{name}_{part}" for name, kind in known for part in ("bucket", "count", "sum") if kind == "histogram"}
    rules = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"][0]["rules"]
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    asked = [rule["expr"] for rule in rules] + [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(asked) > 20
    code = "".join(p.read_text() for p in (ROOT / "serving" / "telemetry").glob("*.py"))
    for one in asked:
        named = set(re.findall(r"headrace_\w+", one))
        assert named, one
        assert named <= samples, named - samples
        labels = {x.strip() for group in re.findall(r"by \(([^)]*)\)", one) for x in group.split(",")}
        labels |= set(re.findall(r"[{,]\s*(\w+)(?==)", one))
        assert {x for x in labels - {"le"} if f'"{x}"' not in code} == set(), one
        assert one.count("(") == one.count(")")
