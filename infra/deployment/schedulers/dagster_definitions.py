"""Dagster: the commands in their order, once an hour, and what is done at night. Load it with `dagster dev -f`.

Every command may be run again: it goes on from where it was, or finds nothing to do. `HEADRACE` is how a worker calls it.
"""

import os
import shlex
import subprocess

from dagster import Definitions, In, JobDefinition, Nothing, OpDefinition, OpExecutionContext, RetryPolicy, ScheduleDefinition, job, op

HEADRACE = os.environ.get("HEADRACE", "headrace")
HOURLY = (("ingest", "ingest"), ("backfill", "backfill --incremental"), ("quality", "quality"))
NIGHTLY = (("archive", "archive"), ("train", "train --no-promote"), ("skew", "skew"), ("sweep", "sweep"))


def step(name: str, command: str) -> OpDefinition:
    """One command; it fails as the command does."""

    @op(name=name, ins={"before": In(Nothing)}, retry_policy=RetryPolicy(max_retries=2, delay=300))
    def run(context: OpExecutionContext) -> None:
        argv = [*shlex.split(HEADRACE), *shlex.split(command)]
        context.log.info(shlex.join(argv))
        subprocess.run(argv, check=True)

    return run


def chain(name: str, commands: tuple[tuple[str, str], ...]) -> JobDefinition:
    """One command after the other."""
    steps = [step(*one) for one in commands]

    @job(name=name)
    def run() -> None:
        before = steps[0]()
        for one in steps[1:]:
            before = one(before=before)

    return run


hourly, nightly = chain("headrace_hourly", HOURLY), chain("headrace_nightly", NIGHTLY)
definitions = Definitions(
    jobs=[hourly, nightly],
    schedules=[ScheduleDefinition(job=hourly, cron_schedule="5 * * * *"), ScheduleDefinition(job=nightly, cron_schedule="10 2 * * *")],
)
