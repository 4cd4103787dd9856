"""The application that a Ray takes as it is: `serve run`, `serve deploy` and KubeRay's RayService name it as an import path.

    serve run serving.deployment.application:app
    serve run serving.deployment.application:app replicas=4

It reads its settings where it runs: `HEADRACE_*` of the process that builds it, and of each replica (a RayService says them as
`runtime_env: env_vars`). `headrace up` brings the very same application into a Ray of its own (`serving.deployment.app`).

A replica is healthy when it can answer. One that is not synced yet - it has read no release, or none of the versions that the releases
name could be loaded - waits: Serve calls it starting, no proxy asks it, and a roll-out keeps the replicas of before.
"""
# Serve looks at the annotation of the builder's argument itself, so annotations are not postponed here

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from infra.settings import Settings, load_settings

if TYPE_CHECKING:
    from ray.serve import Application

    from serving.http.app import Front

NAME = "headrace"
"""Of the application, its deployment, and so of HAProxy's backend."""
MAX_ONGOING, MAX_QUEUED = 256, 512
_LOOK_S = 0.1


class Arguments(BaseModel):
    """What `serve run … key=value` and a Serve configuration's `args` may say; what they do not say, the settings do."""

    model_config = ConfigDict(extra="forbid")

    replicas: int | None = Field(default=None, ge=1, description="as HEADRACE_REPLICAS")
    replicas_max: int | None = Field(default=None, ge=0, description="as HEADRACE_REPLICAS_MAX")
    replica_cpus: float | None = Field(default=None, gt=0, description="as HEADRACE_REPLICA_CPUS")
    spare: bool | None = Field(default=None, description="as HEADRACE_SPARE")
    wait_for_models: bool = Field(default=True, description="whether a replica that no model answers in is still starting")


def app(args: Arguments) -> "Application":
    """The application, bound.

    Raises:
        ValueError: the settings cannot do for a Ray that is not ours.
    """
    said = load_settings()
    own = said.model_copy(update=args.model_dump(exclude_none=True, exclude={"wait_for_models"}))
    if own.profile == "cluster" and not own.redis_url:
        raise ValueError("HEADRACE_REDIS_URL is not set: on a cluster no Redis is started here, so say where yours is (redis://…)")
    return bound(own, args.wait_for_models)


def build() -> "Front":
    """The replica's application; called by Serve in the replica, with the environment of the replica."""
    from serving.handlers.data_plane import DataPlane
    from serving.http.app import Front, build_app

    logging.getLogger("serving").setLevel(logging.INFO)
    own = load_settings()
    own.export()
    plane = DataPlane(own)
    return Front(build_app(plane), plane)


class Replica:
    """What Serve asks of a replica beside answering.

    Args:
        wait: whether it is starting until a model answers; else it is healthy once it has looked at the releases.
    """

    app: Any  # Serve puts what `build` made there

    def __init__(self, wait: bool) -> None:
        self._wait, self._answered = wait, False

    async def check_health(self) -> None:
        """
        Raises:
            Problem: no model answers any more; says why. Serve then replaces the replica by one that waits.
        """
        plane = self.app.plane
        while self._wait and not self._answered and not plane.models.live:
            await asyncio.sleep(_LOOK_S)
        self._answered = True
        if self._wait or not plane.models.loaded:
            plane.check_models()


def bound(settings: Settings, wait_for_models: bool) -> "Application":
    """The bound Serve application: one fused deployment (a second hop would cost more than the prediction)."""
    from ray import serve
    from ray.serve.config import BackpressureConfig

    return serve.deployment(
        name=NAME,
        **_replicas(settings),
        ray_actor_options={"num_cpus": settings.replica_cpus},
        max_ongoing_requests=MAX_ONGOING,
        max_queued_requests=MAX_QUEUED,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        health_check_period_s=5,
        health_check_timeout_s=30,
        graceful_shutdown_wait_loop_s=0.5,
        graceful_shutdown_timeout_s=10,
    )(serve.ingress(build)(Replica)).bind(wait_for_models)


def _replicas(settings: Settings) -> dict[str, Any]:
    """How many replicas: a number, or from the one to the other as the requests that are being answered ask for."""
    spare = int(settings.spare)
    if settings.replicas_max <= settings.replicas:
        return {"num_replicas": settings.replicas + spare}
    return {
        "autoscaling_config": {
            "min_replicas": settings.replicas + spare,
            "initial_replicas": settings.replicas + spare,
            "max_replicas": settings.replicas_max + spare,
            "target_ongoing_requests": settings.max_at_once / 4,
            "upscale_delay_s": 3.0,
            "downscale_delay_s": 60.0,
            "metrics_interval_s": 1.0,
            "look_back_period_s": 3.0,
        }
    }
