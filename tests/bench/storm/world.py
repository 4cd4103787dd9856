"""What a storm falls upon: the second use case, made and trained, with everything `headrace up` starts."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from feature_repo.records.contract import Contract
from feature_repo.spec.use_case import UseCase
from infra.settings import ROOT, Settings
from streaming.schema.feature_view import View

MODEL, PROJECT = "turned_away", "bikes"
LEARNING = """
learning:
  triggers: {new_labels: 1000000000}
"""
"""An autopilot that archives and measures. It never trains: a training would be what the recoveries measure."""
WATCH = "watch: {window: 1500, step: 500}"


class UpError(RuntimeError):
    """The platform did not start; says what `headrace up` said."""


@dataclass
class World:
    own: Settings
    case: UseCase
    contract: Contract
    views: dict[str, View]

    def environment(self) -> dict[str, str]:
        environment = os.environ | {"HEADRACE_STATE": str(self.own.state), "HEADRACE_REPO": str(self.own.repo)}
        environment.pop("HEADRACE_REDIS_URL", None)
        return environment

    def command(self, *words: str) -> str:
        """Run a command of ours to its end.

        Raises:
            UpError: it ended with another exit code than 0.
        """
        argv = [sys.executable, str(ROOT / "headrace.py"), *words]
        done = subprocess.run(argv, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            raise UpError(f"`headrace {' '.join(words)}` ended with exit code {done.returncode}: {(done.stdout + done.stderr)[-3000:]}")
        return done.stdout


def make(own: Settings, told: Callable[[str], None]) -> World:
    """The use case with two weeks of data that end last midnight, its store filled, a version trained and live."""
    from infra.supervision import redis_server
    from streaming.offline.spark import session
    from tests.bikes.platform import Bikes

    now = datetime.now(UTC).replace(tzinfo=None)
    start = datetime.combine((now - timedelta(hours=2)).date(), datetime.min.time()) - timedelta(days=14)
    told("Redis and Spark")
    redis_server.up(own)
    spark = session(own)
    told("two weeks of data, the store and a model")
    bikes = Bikes.make(own, spark, own.state / "repo", start, round(now.replace(tzinfo=UTC).timestamp() * 1e6))
    spark.stop()
    _end_gateway()
    return of(own, bikes, own.state / "repo")


def _end_gateway() -> None:
    """Let the JVM go that the session leaves behind: it is not the stream's."""
    from pyspark import SparkContext

    gateway: Any = SparkContext._gateway
    SparkContext._gateway = SparkContext._jvm = None
    gateway.shutdown()
    gateway.proc.stdin.close()
    gateway.proc.wait(30)


def of(own: Settings, bikes: Any, repo: Path) -> World:
    """A world of what was made before, in a folder that is its own."""
    spec = repo / "models" / f"{MODEL}.yaml"
    text = spec.read_text()
    head, _, _ = text.partition("watch:")
    spec.write_text(head + WATCH + LEARNING)
    mine = own.model_copy(update={"repo": repo, "redis_url": ""})
    mine.export()
    return World(mine, UseCase(repo), bikes.contract, bikes.views)
