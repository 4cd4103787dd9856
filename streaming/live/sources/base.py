"""What an event source is: whether the settings ask for it, and the rows that Spark reads from it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from infra.settings import Settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ROWS = pa.schema([("partition", pa.string()), ("offset", pa.int64()), ("source", pa.string()), ("data", pa.binary())])
"""What a source hands over. `partition` and `offset` number the rows of a file or a topic's partition, ascending, and
are the same when a row comes again; `source` is the name of the push source; `data` is the event as JSON, byte for byte."""
SPARK_ROWS = "partition string, offset bigint, source string, data binary"


class Source(ABC):
    """
    Attributes:
        name: in the query's name, and in what is said when it fails.
    """

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def of(cls, settings: Settings, sources: Sequence[str]) -> Source | None:
        """The source that the settings ask for; None where they ask for none.

        Args:
            sources: names of the push sources that feed a view.
        """

    @abstractmethod
    def frame(self, spark: SparkSession) -> DataFrame:
        """A streaming frame of `ROWS`, from the oldest event on. A row may come again after a crash.

        Raises:
            RuntimeError: it cannot be read here; the message says what to set.
        """
