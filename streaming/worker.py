"""The process that Spark forks its Python workers from, with what the stream's workers need already loaded.

Each worker would load it anew: four seconds of CPU, in two of them at once, before a stream whose workers were killed moves on. Spark
starts this in place of its own daemon (`spark.python.daemon.module`), once for each kind of worker; only `pyspark.worker` runs our code.
A process that is forked must have no threads: the session switches off those of OpenBLAS and of Arrow's memory pool.
"""

from __future__ import annotations

import sys

from pyspark.daemon import manager

if __name__ == "__main__":
    if "pyspark.worker" in sys.argv[1:2]:
        import pandas  # noqa: F401  (pyarrow asks for it when a list becomes an array)
        import pyspark.worker  # noqa: F401

        import streaming.live
        import streaming.sink  # noqa: F401
    manager()
