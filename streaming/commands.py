"""The commands of this room: ingest, apply, backfill, stream. Heavy things are imported where they are used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from infra.command_line import Report, console, microseconds, moment, own_settings, write_report


def ingest() -> None:
    """Make the offline store's tables from the raw files (ingest.yaml)."""
    from feature_repo.use_case import UseCase
    from streaming.ingest import ingest as run
    from streaming.session import session

    own = own_settings()
    case = UseCase(own.repo)
    with console.status("starting Spark"):
        spark = session(own)
    with console.status("ingesting") as status:
        loaded = run(case, own, spark, progress=lambda *said: status.update(f"ingesting: {said[0]}"))
    table = Table("table", "rows", "days", "first", "last", "seconds", box=None)
    for one in loaded:
        table.add_row(one.table, f"{one.rows:,}", str(one.days), f"{one.first:%Y-%m-%d}", f"{one.last:%Y-%m-%d}", f"{one.seconds:.1f}")
    console.print(table)
    spark.stop()


def apply() -> None:
    """Apply the use case's Feast definitions to the registry."""
    from feature_repo.apply import apply as run
    from feature_repo.use_case import UseCase

    applied = run(UseCase(own_settings().repo))
    console.print(f"applied {len(applied.views)} views, {len(applied.entities)} entities, services: {', '.join(applied.services)}")
    if applied.removed:
        console.print(f"no longer defined, removed from the registry: {', '.join(applied.removed)}")


def backfill(
    view: Annotated[list[str] | None, typer.Option("--view", help="Only this view (may be given several times).")] = None,
    start: Annotated[str | None, typer.Option("--from", help="Ignore latest-value rows before this moment.")] = None,
    to: Annotated[str | None, typer.Option("--to", help="The moment to bring the online store to; default: now.")] = None,
    report: Report = None,
) -> None:
    """Bring the online store to the state of one moment, from the offline store."""
    from feature_repo.definition import DefinitionError
    from feature_repo.use_case import UseCase
    from infra import process, redis_server
    from streaming.backfill import backfill as run
    from streaming.session import session
    from streaming.view import views

    own = own_settings()
    if process.alive(own, "stream"):
        raise process.ServiceError(
            "the stream is running and would be overtaken: stop it first (`headrace down`), start it again afterwards"
        )
    redis_server.up(own)
    known = views(UseCase(own.repo).store)
    unknown = [v for v in view or [] if v not in known]
    if unknown:
        raise DefinitionError(f"no feature view {', '.join(unknown)} is applied (there is: {', '.join(known)})")
    wanted = [v for name, v in known.items() if not view or name in view]
    end = moment(to) if to else datetime.now(UTC)
    with console.status("starting Spark"):
        spark = session(own)
    with console.status(f"backfilling {len(wanted)} views to {end:%Y-%m-%d %H:%M}") as status:
        done = run(
            spark,
            wanted,
            own.offline_root,
            own.redis(),
            microseconds(end),
            microseconds(moment(start)) if start else None,
            progress=lambda r: status.update(f"{r.view} done"),
        )
    table = Table("view", "rows", "entities", "newest event", "seconds", box=None)
    for r in done:
        newest = datetime.fromtimestamp(r.newest_us / 1e6, UTC).strftime("%Y-%m-%d %H:%M") if r.newest_us else "-"
        table.add_row(r.view, f"{r.rows:,}", f"{r.entities:,}", f"[red]{r.error}[/red]" if r.error else newest, f"{r.seconds:.1f}")
    console.print(table)
    spark.stop()
    write_report(report, done)
    if any(r.error for r in done):
        raise typer.Exit(1)


def stream() -> None:
    """Keep the online store live from the event stream (foreground; Ctrl-C ends it)."""
    from feature_repo.use_case import UseCase
    from infra import redis_server
    from streaming.session import session
    from streaming.stream import run
    from streaming.view import views

    own = own_settings()
    redis_server.up(own)
    known = views(UseCase(own.repo).store)
    spark = session(own)
    run(spark, own.redis(), list(known.values()), str(own.state / "stream"), lambda: print("ready: streaming", flush=True))
    spark.stop()
