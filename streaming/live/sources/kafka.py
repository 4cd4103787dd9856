"""Kafka: one topic per push source, called like it; a record's value is the row as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from infra.settings import Settings
from streaming.live.sources.base import Source

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class Kafka(Source):
    """`HEADRACE_KAFKA`: options of Spark's own connector, such as
    `{"kafka.bootstrap.servers": "...", "subscribe": "rides"}`. A partition is a topic's partition."""

    name = "kafka"

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = {"startingOffsets": "earliest", **options}

    @classmethod
    def of(cls, settings: Settings, sources: Sequence[str]) -> Kafka | None:
        return cls(settings.kafka) if settings.kafka else None

    def frame(self, spark: SparkSession) -> DataFrame:
        from pyspark.errors import AnalysisException
        from pyspark.sql import functions as F

        try:
            records = spark.readStream.format("kafka").options(**self.options).load()
        except AnalysisException as error:
            raise RuntimeError(
                f"Spark cannot read Kafka ({str(error).splitlines()[0]}): set HEADRACE_SPARK_PACKAGES to its connector, "
                "org.apache.spark:spark-sql-kafka-0-10_2.13 with Spark's own version"
            ) from None
        return records.where(F.col("value").isNotNull()).select(
            F.concat_ws("-", "topic", F.col("partition").cast("string")).alias("partition"),
            "offset",
            F.col("topic").alias("source"),
            F.col("value").alias("data"),
        )
