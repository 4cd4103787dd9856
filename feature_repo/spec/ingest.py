"""`ingest.yaml`: raw files, and the SQL that makes the offline store's tables of them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from feature_repo.spec.yaml_file import Strict


class RawFile(Strict):
    """One raw input, made visible to the SQL under its name in `ingest.yaml`."""

    path: str = Field(description="relative to the use case folder, or to the package's folder when `package` is given")
    package: str | None = Field(default=None, description="a Python package that carries the file (found, never imported)")
    format: Literal["csv", "json", "parquet"] = Field(default="csv", description="of the file")
    options: dict[str, str] = Field(default_factory=dict, description="options of Spark's reader")


class Table(Strict):
    """One table of the offline store: an SQL file over the raw inputs and the tables above it."""

    sql: str = Field(description="SQL file, relative to the use case folder")
    timestamp: str = Field(default="event_timestamp", description="column that partitions the table by day (UTC)")
    known: str | None = Field(
        default=None,
        description="column with the moment a row became known, for `headrace check`; default: created_timestamp, if there is one",
    )


class Ingest(Strict):
    raw: dict[str, RawFile] = Field(description="raw inputs by name")
    tables: dict[str, Table] = Field(description="tables by name, in the order in which they are made")

    @field_validator("tables")
    @classmethod
    def _not_ours(cls, tables: dict[str, Table]) -> dict[str, Table]:
        clash = [name for name in tables if name.startswith(("predictions_", "labels_"))]
        if clash:
            raise ValueError(f"tables named predictions_… and labels_… are the archive's: {', '.join(clash)}")
        return tables
