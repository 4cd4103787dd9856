"""What the deployment's files say, read as the programs that take them would."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import typer
import yaml

from infra.settings import ROOT, Settings

DEPLOYMENT = ROOT / "infra" / "deployment"
CHART = DEPLOYMENT / "helm" / "headrace"
ENTRYPOINT = {"ray", "serve", "spark-submit", "executor", "sh", "bash", "python"}
"""First words that the image's entrypoint hands to others than us."""


def settings() -> set[str]:
    from infra.redis_client import PASSWORD, USER

    return {f"HEADRACE_{name.upper()}" for name in Settings.model_fields} | {USER, PASSWORD}


def render(**values: Any) -> tuple[dict[str, Any], ...]:
    """The chart's objects, of a release `hr` in a namespace `prod`."""
    return _rendered(json.dumps(values))


@lru_cache
def _rendered(values: str) -> tuple[dict[str, Any], ...]:
    from helm_python.chart import Chart

    with Chart.load(CHART) as chart:
        made = chart.render(values=json.loads(values), name="hr", namespace="prod")
    return tuple(one for name, text in sorted(made.items()) if name.endswith(".yaml") for one in yaml.safe_load_all(text) if one)


def pods(objects: tuple[dict[str, Any], ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every pod that the objects make, by where it stands."""
    for one in objects:
        name, spec = f"{one['kind']}/{one['metadata']['name']}", one.get("spec", {})
        if one["kind"] == "Deployment":
            yield name, spec["template"]
        elif one["kind"] == "CronJob":
            yield name, spec["jobTemplate"]["spec"]["template"]
        elif one["kind"] == "RayService":
            groups = spec["rayClusterConfig"]
            for group in (groups["headGroupSpec"], *groups["workerGroupSpecs"]):
                yield f"{name}/{group.get('groupName', 'head')}", group["template"]
        elif one["kind"] == "ConfigMap" and "pod.yaml" in one["data"]:
            yield name, yaml.safe_load(one["data"]["pod.yaml"])


def refusal(arguments: list[str]) -> str:
    """Why our command line does not take these arguments; empty: it does. Nothing is run."""
    from headrace import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    if arguments[0] not in commands:
        return f"there is no command {arguments[0]}"
    try:
        commands[arguments[0]].make_context(arguments[0], arguments[1:])
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return ""


def ours(arguments: list[str]) -> list[str] | None:
    """The arguments of our own command line in a container's; None where another program is run."""
    if arguments[:1] == ["spark-submit"]:
        script = next(i for i, word in enumerate(arguments) if word.endswith("headrace.py"))
        return arguments[script + 1 :]
    return None if arguments[0] in ENTRYPOINT else arguments


def names(text: str) -> set[str]:
    """The variables of ours that a text names."""
    return set(re.findall(r"\bHEADRACE_[A-Z_]+\b", text))
