"""Settings of one Headrace checkout: from `HEADRACE_*` environment variables, over the defaults of the embedded profile."""

from __future__ import annotations

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra import ports, redis_client
from infra.storage.place import is_url

ROOT = Path(__file__).resolve().parent.parent
"""The checkout."""


def first_use_case() -> Path:
    """The use case of a fresh checkout: the first folder of `feature_repo/` that is one."""
    found = sorted(p.parent for p in (ROOT / "feature_repo").glob("*/feature_store.yaml"))
    return found[0] if found else ROOT / "feature_repo"


class Settings(BaseSettings):
    """Where this checkout keeps its state and how its services are reached.

    Every field can be set by the environment variable `HEADRACE_<FIELD>`.
    """

    model_config = SettingsConfigDict(env_prefix="HEADRACE_", extra="ignore")

    profile: Literal["embedded", "cluster"] = Field(
        default="embedded", description="embedded: all on this machine; cluster: services of yours, and stricter defaults"
    )
    repo: Path = Field(default_factory=first_use_case, description="the use case: a Feast repository folder")
    state: Path = Field(default=ROOT / ".headrace", description="everything this checkout writes")
    host: str = Field(default="127.0.0.1", description="address the servers bind")
    hosts: str = Field(default="", description="names that clients ask for (Host), comma-separated, beside loopback's and `host`")
    grpc: bool = Field(default=False, description="answer the Open Inference Protocol over gRPC as well, on `host`")
    grpc_port: int = Field(default=0, ge=0, le=65535, description="where gRPC is answered; 0: a free port is chosen once, and kept")
    redis_url: str = Field(default="", description="see infra/redis_client.py; empty: the embedded server")
    registry: str = Field(default="", description="SQLAlchemy URL of Feast's registry; empty: SQLite in the state folder")
    tracking: str = Field(default="", description="MLflow tracking URI; empty: SQLite in the state folder")
    spark_master: str = Field(default="local[*]", description="where Spark runs: in this process, or the URL of a cluster")
    spark_memory: str = Field(default="1500m", description="driver memory (local mode: the only Spark process)")
    spark_executor_memory: str = Field(default="1g", description="memory of each executor, where there are any (not in local mode)")
    spark_packages: str = Field(default="", description="Maven packages of Spark's, comma-separated")
    event_files: Path | None = Field(default=None, description="folder of live events, <push source>/*.jsonl; empty: none")
    kafka: dict[str, str] = Field(
        default_factory=dict,
        repr=False,
        description='options of librdkafka, as JSON, such as {"bootstrap.servers": "host:9092"}; topics are push sources',
    )
    kafka_topics: dict[str, str] = Field(
        default_factory=dict,
        description="push sources that are read from Kafka and their topics, as JSON; empty: all, from topics of their names",
    )
    schema_registry: str = Field(default="", repr=False, description="URL of Kafka's schema registry; values may be Avro then")
    event_retention_h: float = Field(default=48, gt=0, description="hours for which applied events stay on the event stream")
    source_check_s: float = Field(
        default=3600, ge=0, description="the stream has the sources looked at every so many seconds (`headrace sources`); 0: never"
    )
    stream_tasks: int = Field(
        default=0, ge=0, description="tasks of Spark that share the entities of the stream; 0: half the cores, from one to four"
    )
    clock_tolerance_s: float = Field(
        default=300, ge=0, description="how far ahead of the clock a moment that comes in may lie, seconds; beyond, it is refused"
    )
    delete_share: float = Field(
        default=0.5, ge=0, le=1, description="nothing deletes more than this share of a view or table at once unless told to (--allow-most)"
    )
    keep_versions_days: float = Field(
        default=30, ge=0, description="days for which an older version of a table stays readable; `headrace vacuum` removes what is older"
    )
    join_in_process_rows: int = Field(
        default=4_000_000, ge=0, description="joins of up to this many examples, and rows per table, are done without Spark; 0: none"
    )
    shuffle_partitions: int = Field(default=4, ge=1, description="parts into which Spark splits what it groups or joins")
    request_now: bool | None = Field(
        default=None, description="whether a request may set its own clock; default: only in the embedded profile"
    )
    replicas: int = Field(default=1, ge=1, description="processes that answer requests, beside the spare one")
    spare: bool = Field(default=True, description="one replica more than asked for, so that one may die without anybody waiting")
    replicas_max: int = Field(default=0, ge=0, description="replicas are added up to so many under load; 0: none are")
    max_at_once: int = Field(default=64, ge=1, description="predictions a replica works on at once; beyond that the ingress answers 503")
    replica_cpus: float = Field(default=0.5, gt=0, description="processors that Ray reserves for a replica; it may use more")
    max_body_mb: float = Field(default=4, gt=0, description="megabytes of a request's body, also after it was unpacked")
    max_rows: int = Field(default=1000, ge=1, description="instances, entities or events in one request")
    max_text: int = Field(default=4096, ge=1, description="characters of one key or text in a request")
    log_capacity: int = Field(default=10_000, ge=1, description="predictions buffered in a replica before the log drops")
    log_buffer_mb: float = Field(default=64, gt=0, description="megabytes a replica buffers before the log drops")
    log_retention: int = Field(default=1_000_000, ge=1, description="predictions kept in the Redis Stream (approximate)")
    archive_days: int = Field(default=0, ge=0, description="days of predictions and truths kept in the offline store; 0: all")
    redis_timeout_s: float = Field(default=0.5, gt=0, description="deadline of one online read")
    window_cache_mb: int = Field(default=64, ge=0, description="tiles a replica remembers per model, so as not to finish the same twice")
    equality_every_s: float = Field(default=1.0, ge=0, description="the watch reads one prediction in so many seconds again through Feast")
    detector: Literal["alibi", "scipy"] | None = Field(
        default=None, description="who judges drift; default: alibi in the embedded profile. Elsewhere it has to be chosen: alibi's licence"
    )

    @field_validator("repo", "state", "event_files", mode="before")
    @classmethod
    def _on_this_machine(cls, said: Any) -> Any:
        if is_url(str(said)):
            raise ValueError(f"{said} is a URL; this must be a folder on this machine")
        return said

    @field_validator("repo", "state")
    @classmethod
    def _absolute(cls, path: Path) -> Path:
        return path.expanduser().resolve()

    @property
    def allows_request_now(self) -> bool:
        return self.profile == "embedded" if self.request_now is None else self.request_now

    @property
    def drift_detector(self) -> Literal["alibi", "scipy"]:
        """Who judges drift and outliers.

        Raises:
            ValueError: none was chosen, outside the embedded profile.
        """
        if self.detector is None and self.profile != "embedded":
            raise ValueError(
                "choose who judges drift: HEADRACE_DETECTOR=scipy is free for every use; HEADRACE_DETECTOR=alibi is Alibi Detect, whose "
                "Business Source Licence does not allow production without a licence from Seldon"
            )
        return self.detector or "alibi"

    @property
    def tasks_of_stream(self) -> int:
        """How many tasks share the stream's entities. On one machine half the cores are left to what else runs there."""
        return self.stream_tasks or max(1, min(4, (os.cpu_count() or 1) // 2))

    @property
    def offline_root(self) -> Path:
        """The offline store: one folder per table, below it `day=YYYY-MM-DD/*.parquet`."""
        return self.state / "offline"

    @property
    def model_root(self) -> Path:
        """`<model>/<version>/` contract folders and `<model>/release.json`, which says what answers."""
        return self.state / "models"

    @property
    def run_dir(self) -> Path:
        return self.state / "run"

    @property
    def log_dir(self) -> Path:
        return self.state / "log"

    @property
    def registry_url(self) -> str:
        return self.registry or f"sqlite:///{self.state / 'registry.db'}"

    @property
    def tracking_uri(self) -> str:
        return self.tracking or f"sqlite:///{self.state / 'mlflow.db'}"

    def redis(self) -> str:
        """URL of the online store.

        Embedded: the port that `infra.ports` gave this checkout's own server, and its password. Not for logs.
        """
        if self.redis_url:
            return self.redis_url
        return f"redis://default:{redis_client.embedded_password(self.state)}@127.0.0.1:{ports.port(self.state, 'redis')}/0"

    def environment(self) -> dict[str, str]:
        """The `HEADRACE_*` variables with which another process has these very settings."""
        said = self.model_dump(mode="json", exclude_none=True)
        return {f"HEADRACE_{n.upper()}": v if isinstance(v, str) else json.dumps(v) for n, v in said.items()}

    def export(self) -> None:
        """Put what `feature_store.yaml` files refer to (`${HEADRACE_…}`) and child processes need into the environment."""
        url = self.redis()
        password = redis_client.address(url).password
        if password:  # also where the URL holds it: Spark's workers are told a URL without
            os.environ[redis_client.PASSWORD] = password
        os.environ.update(
            HEADRACE_STATE=str(self.state),
            HEADRACE_REPO=str(self.repo),
            HEADRACE_REGISTRY_URL=self.registry_url,
            HEADRACE_REDIS_CONNECTION=redis_client.for_feast(url),
            HEADRACE_OFFLINE_ROOT=str(self.offline_root),
            FEAST_USAGE="False",
            TZ="UTC",
        )


@lru_cache(maxsize=1)
def load_settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        pydantic.ValidationError: a `HEADRACE_*` variable has a value its field does not take.
    """
    return Settings()
