"""The process that Spark forks its Python workers from, with what the stream's workers need already loaded.

Each worker would load it anew before a stream whose workers were killed moves on. Spark
starts this in place of its own daemon (`spark.python.daemon.module`), once for each kind of worker; only `pyspark.worker` runs our code.
A process that is forked must have no threads: the session switches off those of OpenBLAS and of Arrow's memory pool.
"""

from __future__ import annotations

import sys

from pyspark.daemon import manager


class _WithoutPandas:
    """There is no pandas: Arrow loads it, where there is one, when a list becomes an array. It takes two of three seconds, for nothing."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError("the stream's workers do without pandas", name=name)


if __name__ == "__main__":
    if "pyspark.worker" in sys.argv[1:2]:
        sys.meta_path.insert(0, _WithoutPandas())
        import pyspark.worker  # noqa: F401

        import streaming.live.turn  # noqa: F401
    manager()
