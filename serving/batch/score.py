"""Batch scoring: a table of instances, each with its own moment, joined and scored in Spark under the very contract that serves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from feature_repo.records.contract import RequestField
from feature_repo.spec.use_case import UseCase
from infra.settings import Settings
from serving.batch.offline_predictor import feature_rows, open_predictor
from serving.inference.predictor import Predictor
from serving.protocol.problem import Invalid
from serving.protocol.request import Question
from streaming.join.on_spark import point_in_time_join
from streaming.offline.parquet import TableError
from streaming.offline.parquet import read as read_parquet

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from streaming.schema.feature_view import Projection

AT = "event_timestamp"
MARKER = "_headrace_scores.json"
"""Says that a folder is this command's own; Spark and PyArrow pass over names that begin with an underscore."""
SCORE, VERSION, ERROR = "score", "model_version", "error"
_SPARK = {
    "string": "string", "int64": "bigint", "int32": "int", "float64": "double", "float32": "float", "bool": "boolean", "timestamp": "timestamp",
}  # fmt: skip
_READERS: dict[str, Callable[[Any, str], Any]] = {
    ".parquet": lambda spark, path: read_parquet(spark, path),
    ".csv": lambda spark, path: spark.read.csv(path, header=True),
    ".jsonl": lambda spark, path: spark.read.json(path),
    ".json": lambda spark, path: spark.read.json(path),
}


class ScoreError(ValueError):
    """The input cannot be scored; the message names the column or file."""


@dataclass(frozen=True)
class ScoredTable:
    """How many rows were scored, and how many were not and say why."""

    rows: int
    refused: int


# wide: one keyword for each option of the command
def score_table(
    spark: SparkSession, use_case: UseCase, settings: Settings, model: str, version: int, source: Path, target: Path, at: datetime | None
) -> ScoredTable:
    """Score a table into a Parquet folder: the input's columns, then `score`, `model_version`, and `error` where there is no score.

    Args:
        source: Parquet (a file or a folder), CSV with a header, or JSON lines: entity keys and request fields, and `event_timestamp`,
            the moment features are read at.
        target: made when the scores are complete; an older result of this command is replaced, nothing else ever is.
        at: the moment of rows that have none of their own.

    Raises:
        ScoreError: the input is no such table, or lacks a column; or the target holds something else.
        ContractError, DefinitionError: the version cannot be served as it is.
    """
    check_target(target)
    predictor, wanted = open_predictor(use_case.store, settings.model_root, model, version)
    frame = _read(spark, source, predictor.contract.request, at)
    own = [c for c in frame.columns if c not in (SCORE, VERSION, ERROR)]
    joined = point_in_time_join(spark, frame.select(own), AT, wanted, settings.offline_root, settings.shuffle_partitions)
    schema = ", ".join(
        [*(f"`{f.name}` {f.dataType.simpleString()}" for f in frame.select(own).schema), "score double, model_version int, error string"]
    )
    partial = target.with_name(f".{target.name}.{os.getpid()}.new")
    try:
        joined.mapInArrow(_scorer(settings, model, version, own), schema).write.mode("overwrite").parquet(str(partial))
        (partial / MARKER).write_text(f'{{"model": "{model}", "version": {version}}}\n')
        _put(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    written = spark.read.parquet(str(target))
    rows = written.count()
    return ScoredTable(rows, written.filter(f"{ERROR} is not null").count())


def check_target(target: Path) -> None:
    """Whether scores may be written there: where nothing is, or what this command itself wrote.

    Raises:
        ScoreError: something else is there, or it has no parent folder.
    """
    if not target.parent.is_dir():
        raise ScoreError(f"--output {target}: there is no folder {target.parent}; make it first")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise ScoreError(f"--output {target} is a file or a link: name a folder that does not exist yet")
    if target.is_dir() and any(target.iterdir()) and not (target / MARKER).is_file():
        raise ScoreError(
            f"--output {target} is a folder that holds other things than scores of this command, and is left as it is: "
            "name a new one, or remove it yourself"
        )


def _put(partial: Path, target: Path) -> None:
    """The new result in the old one's place; the old one goes last."""
    check_target(target)  # scoring took a while
    old = partial.with_suffix(".old")
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _read(spark: SparkSession, source: Path, fields: list[RequestField], at: datetime | None) -> DataFrame:
    from pyspark.sql import functions as f

    if not source.exists():
        raise ScoreError(f"there is nothing at {source}")
    suffix = source.suffix if source.is_file() else ".parquet"
    if suffix not in _READERS:
        raise ScoreError(f"{source.name}: give Parquet, CSV or JSON lines ({', '.join(_READERS)})")
    try:
        frame = _READERS[suffix](spark, str(source))
    except TableError as error:
        raise ScoreError(str(error)) from error
    missing = [x.name for x in fields if x.name not in frame.columns]
    if missing:
        raise ScoreError(f"{source.name} lacks {', '.join(missing)}; the model takes {', '.join(x.name for x in fields)}")
    for field in fields:
        frame = frame.withColumn(field.name, f.col(field.name).cast(_SPARK[field.dtype]))
    moment = f.lit(at or datetime.now(UTC))
    if AT not in frame.columns:
        return frame.withColumn(AT, moment)
    return frame.withColumn(AT, f.coalesce(f.col(AT).cast("timestamp"), moment))


_loaded: dict[tuple[Path, str, int], tuple[Predictor, list[Projection]]] = {}


def _scorer(settings: Settings, model: str, version: int, own: list[str]) -> Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]:
    """What runs in Spark's workers; a worker loads the version once."""

    def batches(some: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        settings.export()
        place = settings.model_root, model, version
        if place not in _loaded:
            _loaded[place] = open_predictor(UseCase(settings.repo).store, *place)
        predictor, wanted = _loaded[place]
        for batch in some:
            table = pa.Table.from_batches([batch])
            scores, errors = _scores(predictor, table, wanted)
            columns = [batch.column(name) for name in own]
            columns += [pa.array(scores, pa.float64(), from_pandas=True), pa.array([predictor.contract.version] * len(scores), pa.int32())]
            yield pa.RecordBatch.from_arrays([*columns, pa.array(errors, pa.string())], names=[*own, SCORE, VERSION, ERROR])

    return batches


def _scores(predictor: Predictor, table: pa.Table, wanted: list[Projection]) -> tuple[Any, list[str | None]]:
    if not table.num_rows:
        return np.empty(0), []
    fields = predictor.contract.request
    columns = {x.name: table[x.name].to_pylist() for x in fields}
    instances = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    moments = {x.name: columns[x.name] for x in fields if x.dtype == "timestamp"}
    try:
        _, _, matrix = predictor.assemble(Question(instances, moments, False, False, None), feature_rows(table, wanted))
    except Invalid as refusal:
        if table.num_rows == 1:
            return np.full(1, np.nan), [refusal.detail]
        # one row is refused: the others are not, so each is asked alone
        singles = [_scores(predictor, table.slice(i, 1), wanted) for i in range(table.num_rows)]
        return np.concatenate([s for s, _ in singles]), [e for _, errors in singles for e in errors]
    return predictor.score(matrix), [None] * table.num_rows
