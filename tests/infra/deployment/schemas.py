"""The part of others' schemas that we use: RayService (KubeRay 1.6), ServiceMonitor, PrometheusRule, and Compose. Unknown fields are refused."""

from __future__ import annotations

from typing import Any

TEXT, WHOLE, FLAG = {"type": "string"}, {"type": "integer"}, {"type": "boolean"}
ANY: dict[str, Any] = {"type": "object"}
TEXTS = {"type": "object", "additionalProperties": TEXT}


def closed(required: str = "", **properties: Any) -> dict[str, Any]:
    """An object of these members and no others."""
    return {"type": "object", "additionalProperties": False, "required": required.split(), "properties": properties}


def many(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": item}


def top(version: str, kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return closed(
        "apiVersion kind metadata spec",
        apiVersion={"const": version},
        kind={"const": kind},
        metadata=closed("name", name=TEXT, labels=TEXTS),
        spec=spec,
    )


_TEMPLATE = closed("spec", metadata=closed(labels=TEXTS), spec={"type": "object", "required": ["containers"]})
_START = {"type": "object", "additionalProperties": TEXT}
_GROUP = {"rayStartParams": _START, "template": _TEMPLATE}
_CLUSTER = closed(
    "headGroupSpec",
    rayVersion=TEXT,
    authOptions=closed(mode={"enum": ["disabled", "token"]}, secretName=TEXT),
    enableInTreeAutoscaling=FLAG,
    autoscalerOptions=closed(
        version={"enum": ["v1", "v2"]}, idleTimeoutSeconds=WHOLE, resources=ANY, securityContext=ANY, image=TEXT, env=many(ANY)
    ),
    headGroupSpec=closed("template", **_GROUP),
    workerGroupSpecs=many(
        closed("groupName template maxReplicas minReplicas", groupName=TEXT, replicas=WHOLE, minReplicas=WHOLE, maxReplicas=WHOLE, **_GROUP)
    ),
)
CUSTOM = {
    "RayService": top(
        "ray.io/v1",
        "RayService",
        closed(
            "rayClusterConfig",
            excludeHeadPodFromServeSvc=FLAG,
            serveService=ANY,
            serveConfigV2=TEXT,
            rayClusterConfig=_CLUSTER,
        ),
    ),
    "ServiceMonitor": top(
        "monitoring.coreos.com/v1",
        "ServiceMonitor",
        closed(
            "selector endpoints",
            selector=closed(matchLabels=TEXTS),
            endpoints=many(closed(port=TEXT, path=TEXT, interval={"type": "string", "pattern": "^[0-9]+(ms|s|m|h)$"})),
        ),
    ),
    "PrometheusRule": top(
        "monitoring.coreos.com/v1",
        "PrometheusRule",
        closed(
            groups=many(
                closed(
                    "name",
                    name=TEXT,
                    rules=many(
                        closed(
                            "expr",
                            alert=TEXT,
                            expr=TEXT,
                            labels=TEXTS,
                            annotations=TEXTS,
                            **{"for": {"type": "string", "pattern": "^[0-9]+(s|m|h)$"}},
                        )
                    ),
                )
            )
        ),
    ),
}
_WORDS = {"anyOf": [TEXT, many(TEXT)]}
_NEED = closed("condition", condition={"enum": ["service_started", "service_healthy", "service_completed_successfully"]})
_SERVICE = closed(
    "image",
    image=TEXT,
    build=closed("context", context=TEXT, dockerfile=TEXT),
    command=_WORDS,
    environment=TEXTS,
    volumes=many(TEXT),
    tmpfs=many(TEXT),
    read_only=FLAG,
    user=TEXT,
    cap_drop=many(TEXT),
    security_opt=many(TEXT),
    restart={"enum": ["no", "always", "on-failure", "unless-stopped"]},
    depends_on={"type": "object", "additionalProperties": _NEED},
    shm_size=TEXT,
    ports=many({"type": "string", "pattern": r"^127\.0\.0\.1:\d+:\d+$"}),
    healthcheck=closed("test", test=_WORDS, interval=TEXT, timeout=TEXT, retries=WHOLE, start_period=TEXT),
    profiles=many(TEXT),
    configs=many(closed("source target", source=TEXT, target=TEXT)),
)
COMPOSE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "services"],
    "patternProperties": {"^x-": {}},
    "properties": {
        "name": TEXT,
        "services": {"type": "object", "additionalProperties": _SERVICE},
        "configs": {"type": "object", "additionalProperties": closed("content", content=TEXT)},
        "volumes": {"type": "object", "additionalProperties": closed()},
    },
}
_STEP = closed(**{"uses": TEXT, "run": TEXT, "with": TEXTS, "env": TEXTS})
GITHUB = closed(
    "on jobs",
    name=TEXT,
    on=closed(pull_request=ANY, push=closed(branches=many(TEXT)), workflow_dispatch=closed(inputs={"type": "object"})),
    permissions=TEXTS,
    concurrency={"type": "object"},
    env=TEXTS,
    jobs={
        "type": "object",
        "additionalProperties": closed(
            "runs-on steps",
            **{"if": TEXT, "needs": TEXT, "runs-on": TEXT, "environment": TEXT, "permissions": TEXTS, "env": TEXTS},
            steps=many(_STEP),
        ),
    },
)
_RULE = closed("if", when={"enum": ["manual"]}, allow_failure=FLAG, **{"if": TEXT})
GITLAB = {
    "type": "object",
    "required": ["stages"],
    "properties": {"stages": many(TEXT), "default": closed(image=TEXT), "variables": TEXTS},
    "additionalProperties": closed(
        "stage script rules",
        stage=TEXT,
        script=many(TEXT),
        rules=many(_RULE),
        environment=closed(name=TEXT),
        resource_group=TEXT,
        artifacts=closed(paths=many(TEXT)),
    ),
}
