"""The Helm chart, as far as it can be checked without a cluster: rendered, linted, and held against schemas and our own code."""

from __future__ import annotations

import re
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.infra.deployment.artefacts import CHART, ours, pods, refusal, render, settings
from tests.infra.deployment.schemas import CUSTOM

KUBERNETES = "1.37"


def test_helm_finds_nothing_wrong_with_it() -> None:
    from helm_python.chart import lint

    found = lint(CHART)
    assert found["errors"] == []
    assert [m for m in found["messages"] if m["error"] != "icon is recommended"] == []


@pytest.mark.parametrize("claim", ["", "shared"])
def test_every_object_is_one_by_its_schema(claim: str) -> None:
    objects = render(state={"claim": claim, "size": "1Gi"}) if claim else render()
    assert {one["kind"] for one in objects} >= {
        *("RayService", "Deployment", "CronJob", "ServiceMonitor", "PrometheusRule", "NetworkPolicy", "PodDisruptionBudget", "ConfigMap")
    }
    for one in objects:
        if one["kind"] in CUSTOM:
            jsonschema.validate(one, CUSTOM[one["kind"]])
        else:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)
    for _, pod in pods(objects):
        kubernetes_validate.validate({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **_spec(pod)}, KUBERNETES, strict=True)


def _spec(pod: dict[str, Any]) -> dict[str, Any]:
    return {"spec": pod["spec"]}


def test_values_that_are_none_are_refused() -> None:
    for wrong in ({"setings": {}}, {"settings": {"REDIS": "x"}}, {"secret": {"name": ""}}, {"jobs": [{"name": "x"}]}):
        with pytest.raises(Exception, match=r"(?i)schema"):
            render(**wrong)


def test_every_pod_is_confined_and_knows_its_secrets_by_reference() -> None:
    found = dict(pods(render()))
    assert len(found) >= 12
    for name, pod in found.items():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True, name
        for container in pod["spec"]["containers"]:
            said = container["securityContext"]
            assert said["readOnlyRootFilesystem"] is True, name
            assert said["allowPrivilegeEscalation"] is False, name
            assert said["capabilities"] == {"drop": ["ALL"]}, name
            assert {m["mountPath"] for m in container["volumeMounts"]} >= {"/tmp", "/state"}, name
            assert {"limits", "requests"} <= set(container["resources"]), name
            assert {"secretRef": {"name": "headrace"}} in container["envFrom"], name
            mounted = {m["name"] for m in container["volumeMounts"]}
            assert mounted == {v["name"] for v in pod["spec"]["volumes"]}, name
    assert not [one for one in render() if one["kind"] == "Secret"]


def test_every_command_is_one_of_ours_with_these_options() -> None:
    checked = 0
    for name, pod in pods(render()):
        for container in pod["spec"]["containers"]:
            arguments = ours(container["args"]) if "args" in container else None
            if arguments is not None:
                assert refusal(arguments) == "", name
                checked += 1
    assert checked >= 9
    assert "no command" in refusal(["ingst"])
    assert "No such option" in refusal(["skew", "--nothing"])


def test_every_variable_is_a_setting() -> None:
    text = "\n".join(path.read_text() for path in sorted(CHART.rglob("*")) if path.is_file())
    said = set(re.findall(r"^\s*-?\s*\{?(?:name: )?(HEADRACE_[A-Z_]+)\b[:,]", text, re.MULTILINE))
    assert len(said) > 8
    assert said <= settings(), said - settings()
    (config,) = [one for one in render() if one["metadata"]["name"] == "hr-settings"]
    assert set(config["data"]) <= settings()


def test_the_ray_is_ours_and_the_ports_are_those_that_are_served() -> None:
    import ray

    (service,) = [one for one in render() if one["kind"] == "RayService"]
    assert service["spec"]["rayClusterConfig"]["rayVersion"] == ray.__version__
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    ports = {p["name"]: p["port"] for p in service["spec"]["serveService"]["spec"]["ports"]}
    (settings_map,) = [one for one in render() if one["metadata"]["name"] == "hr-settings"]
    assert ports == {"serve": config["http_options"]["port"], "grpc": int(settings_map["data"]["HEADRACE_GRPC_PORT"])}
    (monitor,) = [one for one in render() if one["kind"] == "ServiceMonitor"]
    assert [(e["port"], e["path"]) for e in monitor["spec"]["endpoints"]] == [("serve", "/metrics")]
    labels = service["spec"]["serveService"]["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()


def test_what_selects_pods_selects_some() -> None:
    objects = render()
    labelled = [pod["metadata"]["labels"] for _, pod in pods(objects)]
    selectors = {
        "NetworkPolicy": lambda one: one["spec"]["podSelector"]["matchLabels"],
        "PodDisruptionBudget": lambda one: one["spec"]["selector"]["matchLabels"],
        "Service": lambda one: one["spec"]["selector"],
    }
    for one in objects:
        if one["kind"] in selectors:
            asked = selectors[one["kind"]](one)
            assert any(asked.items() <= labels.items() for labels in labelled), one["metadata"]["name"]
