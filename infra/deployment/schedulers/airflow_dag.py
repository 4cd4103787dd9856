"""Airflow: the commands in their order, once an hour, and what is done at night. Copy it to the folder of DAGs.

Every command may be run again: it goes on from where it was, or finds nothing to do. `HEADRACE` is how a worker calls it.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

HEADRACE = os.environ.get("HEADRACE", "headrace")
HOURLY = (("ingest", "ingest"), ("backfill", "backfill --incremental"), ("quality", "quality"))
NIGHTLY = (("archive", "archive"), ("train", "train --no-promote"), ("skew", "skew"), ("sweep", "sweep"))


def chain(name: str, schedule: str, commands: tuple[tuple[str, str], ...]) -> DAG:
    """One command after the other; one run at a time."""
    with DAG(name, schedule=schedule, start_date=datetime(2026, 1, 1), catchup=False, max_active_runs=1, tags=["headrace"]) as dag:
        before = None
        for task, command in commands:
            one = BashOperator(
                task_id=task, bash_command=f"{HEADRACE} {command}", append_env=True, retries=2, retry_delay=timedelta(minutes=5)
            )
            if before is not None:
                before >> one
            before = one
    return dag


hourly = chain("headrace_hourly", "5 * * * *", HOURLY)
nightly = chain("headrace_nightly", "10 2 * * *", NIGHTLY)
