"""The commands of this room: up, down, status, serve, watch, replay. Heavy things are imported where they are used."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from infra.cli import Model, Report, console, errors, model_name, moment, own_settings, write_report
from infra.timestamps import microseconds, second_text

if TYPE_CHECKING:
    from redis import Redis

    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings
    from infra.supervision.services import Service


def up(
    without: Annotated[
        list[str] | None, typer.Option("--without", help="Leave out stream, watch or autopilot; may be given several times.")
    ] = None,
) -> None:
    """Start the local services in the background: Redis; then serving, stream and watch as far as there is something for them."""
    from infra.doctor import LICENCES
    from infra.supervision import beat, redis_server, services

    own = own_settings()
    unknown = sorted(set(without or ()) - _OPTIONAL)
    if unknown:
        raise typer.BadParameter(f"--without {unknown[0]}: there is {', '.join(sorted(_OPTIONAL))}")
    with services.alone(own, lambda: console.print("waiting for another `up` or `down` to end")):
        wanted, live = _wanted(own)
        if live:  # said, or refused, before anything starts
            console.print(f"drift is judged by {LICENCES[own.drift_detector]}")
        with console.status("starting redis"):
            redis_server.up(own)
        _quietly(own, beat.tidy)  # who hangs or died, and is not started now, is missed by nobody
        for service in wanted:
            if service.command[0] not in (without or ()):
                with console.status(f"starting {service.name}"):
                    services.start(own, service)
    from serving.status import print_status

    print_status(own, console)
    if not live:
        console.print("no model is live yet: `headrace ingest`, `apply`, `backfill`, `train`, then `up` again")


_OPTIONAL = {"stream", "watch", "autopilot"}


def _wanted(own: Settings) -> tuple[list[Service], list[str]]:
    """The services that there is something for, in starting order, and the models that are live."""
    from feature_repo.records import release
    from feature_repo.spec.use_case import UseCase
    from infra.supervision import services

    case = UseCase(own.repo)
    live = [m for m in case.models if release.champion_if_any(own.model_root, m)]
    wanted = [services.serve()] if live else []
    if case.applied and _has_streams(case):
        wanted.append(services.stream())
    wanted += [services.watch(m) for m in live]
    wanted += [services.autopilot(m) for m in live if case.models[m].learning.triggers.any]
    return wanted, live


def _has_streams(case: UseCase) -> bool:
    store = case.store
    return bool(store.list_stream_feature_views()) or any(v.stream_source for v in store.list_feature_views())


def _quietly(own: Settings, change: Callable[[Redis, str], None]) -> None:
    """Change what parts say of themselves, where a Redis answers: no reason for `up` or `down` to fail."""
    import contextlib

    from feature_repo.spec.use_case import UseCase
    from infra import redis_client

    with contextlib.suppress(Exception), contextlib.closing(redis_client.connect(own.redis(), 2.0)) as client:
        change(client, UseCase(own.repo).project)


def _forget(own: Settings, stopped: list[str]) -> None:
    """Services were stopped: also one that had to be killed is stopped on purpose."""
    from infra.supervision import beat

    _quietly(own, lambda client, project: beat.forget(client, project, stopped))


def down() -> None:
    """Stop everything this checkout has started."""
    from infra.supervision import services
    from serving.deployment import leftovers
    from serving.deployment.app import clear

    own = own_settings()
    with services.alone(own, lambda: console.print("waiting for another `up` or `down` to end")), console.status("stopping") as status:
        stopped = services.stop_all(own, lambda name: status.update(f"stopping {name}"), partial(_forget, own))
        clear(own)  # the Ray of a driver that died and was not started again
        leftovers.sweep(own)
    console.print(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


def status() -> None:
    """Show the services, each view's state in the online store, and the live models."""
    from serving.status import print_status

    print_status(own_settings(), console)


def serve() -> None:
    """Serve the live models over HTTP (foreground; Ctrl-C ends it)."""
    from infra.supervision import redis_server

    own = own_settings()
    redis_server.up(own)
    from serving.deployment.app import run

    run(own)


def watch(
    model: Model = "",
    window: Annotated[int, typer.Option(min=0, help="Predictions per window; 0: the model spec's.")] = 0,
    step: Annotated[int, typer.Option(min=0, help="Predictions from one verdict to the next; 0: the model spec's.")] = 0,
    once: Annotated[bool, typer.Option("--once", help="Judge what is in the log now, then end.")] = False,
) -> None:
    """Watch a model's inputs and scores for drift (foreground; Ctrl-C ends it)."""
    from feature_repo.spec.use_case import UseCase

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, model)
    from serving.monitoring.watch import run

    print(f"watching {name}", flush=True)
    chosen = case.model(name).watch
    counts = run(own, case.project, name, window=window or chosen.window, step=step or chosen.step, once=once)
    console.print(", ".join(f"{k} {v:,}" for k, v in counts.items()))


def score(
    source: Annotated[Path, typer.Option("--input", help="Parquet, CSV or JSON lines: entity keys, request fields, `event_timestamp`.")],
    target: Annotated[Path, typer.Option("--output", help="Folder of Parquet files; only an earlier result is replaced.")],
    model: Model = "",
    version: Annotated[int, typer.Option(min=0, help="0: the live one.")] = 0,
    at: Annotated[str | None, typer.Option(help="The moment of rows without `event_timestamp`; default: now.")] = None,
    report: Report = None,
) -> None:
    """Score a table in Spark, each row as of its own moment: the same contract, and the same numbers, as over HTTP."""
    from feature_repo.records import release
    from feature_repo.spec.use_case import UseCase
    from serving.batch.score import score_table as run
    from streaming.offline.spark import session

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, model)
    number = version or release.live(own.model_root, name)
    with console.status(f"scoring {source} with {name} version {number}"):
        spark = session(own)
        done = run(spark, case, own, name, number, source, target, moment(at) if at else None)
        spark.stop()
    console.print(f"{target}: {done.rows:,} rows scored with {name} version {number}; {done.refused:,} refused (column `error` says why)")
    write_report(report, done)


# wide: one for each option of the command
def score_stream(
    model: Annotated[str, typer.Argument(help="The model; its live version answers, also after a promotion.")],
    source: Annotated[str, typer.Option("--from", help="Topic of requests; `redis:NAME`: a queue in Redis.")],
    target: Annotated[str, typer.Option("--to", help="Topic of answers; requests without one go to `<it>.dead`.")],
    group: Annotated[str, typer.Option(help="Kafka: processes of one group share the partitions.")] = "",
    instance: Annotated[str, typer.Option(help="Kafka: this process' own name in the group, the same at every start.")] = "0",
    metrics_port: Annotated[int, typer.Option(min=0, help="Port on loopback for Prometheus; 0: none.")] = 0,
) -> None:
    """Answer requests from a queue, each exactly once, as over HTTP (foreground; Ctrl-C ends it when the batch is answered)."""
    from feature_repo.spec.use_case import UseCase
    from serving.queue.running import open_queue, run

    own = own_settings()
    case = UseCase(own.repo)
    name = model_name(case, model)
    queue = open_queue(own, case.project, name, (source, target), group or f"headrace-{case.project}-{name}", instance)
    done = run(own, name, queue, metrics_port)
    console.print(f"{done.answered:,} requests answered, {done.dead:,} had no answer ({target}.dead)")


def replay_prediction(prediction_id: Annotated[str, typer.Argument(help="As a prediction carried it.")], report: Report = None) -> None:
    """Make one logged prediction again, from the offline store, and say whether it comes out the same."""
    from feature_repo.spec.use_case import UseCase
    from serving.batch.rerun import find, run_again
    from streaming.online.store import connect

    own = own_settings()
    case = UseCase(own.repo)
    prediction = find(connect(own.redis()), case.project, prediction_id)
    found = run_again(case, own, prediction)
    what = f"{prediction.model} version {prediction.version}, {second_text(prediction.at_us)}"
    write_report(report, found.summary())
    for cell in found.cells:
        if not cell.same:
            errors.print(f"{cell.name}: served {cell.served}, comes out as {cell.again}")
    if not found.same:
        errors.print(f"[red]not the same:[/red] {what}: score {prediction.score} served, {found.score} now")
        raise typer.Exit(1)
    console.print(f"the same: {what}: {len(found.cells)} inputs and score {found.score}")


def replay(
    model: Model = "",
    start: Annotated[str | None, typer.Option("--from", help="First day; default: the first day of the model's test split.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The day after the last; default: a day later.")] = None,
    step: Annotated[float, typer.Option(min=1, help="Minutes by which time advances at once.")] = 30,
    report: Report = None,
) -> None:
    """Play history as live traffic: events through the stream, requests over HTTP, labels as feedback. Needs `headrace up`."""
    from feature_repo.spec.use_case import UseCase
    from serving.simulation.replay_run import rehearse

    own = own_settings()
    case = UseCase(own.repo)
    spec = case.model(model_name(case, model))
    first = moment(start) if start else (spec.split.test or spec.split.valid).bounds()[0]
    last = moment(to) if to else first + timedelta(days=1)
    tally = rehearse(own, case, spec, (microseconds(first), microseconds(last)), step, console)
    console.print(
        f"{tally.predictions:,} predictions, {tally.events:,} events, {tally.labels:,} labels in {tally.seconds:.0f} s; "
        "next: `headrace skew`, `headrace quality`"
    )
    write_report(report, tally)
    if tally.failed:
        errors.print(f"[red]{tally.failed} requests failed; the first: {tally.errors[0]}[/red]")
        raise typer.Exit(1)
