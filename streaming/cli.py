"""The commands of this room: ingest, apply, backfill, stream. Heavy things are imported where they are used."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from infra import files
from infra.cause import cause_of
from infra.cli import Report, console, moment, own_settings, write_report
from infra.timestamps import microseconds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from feature_repo.spec.use_case import UseCase
    from infra.settings import Settings
    from streaming.backfill.run import Backfilled
    from streaming.schema.feature_view import View

STREAM_S = 30.0
"""A stream sees within ten seconds that definitions have changed, and ends; a busy one takes longer."""


def ingest() -> None:
    """Make the offline store's tables from the raw files (ingest.yaml)."""
    from feature_repo.spec.use_case import UseCase
    from streaming.offline.ingest import make_tables as run
    from streaming.offline.spark import session
    from streaming.versions_cli import print_ingested

    own = own_settings()
    case = UseCase(own.repo)
    with console.status("starting Spark"):
        spark = session(own)
    with console.status("ingesting") as status:
        loaded = run(case, own, spark, progress=lambda *said: status.update(f"ingesting: {said[0]}"))
    print_ingested(own, loaded)
    spark.stop()
    _look(own, case)


def _look(own: Settings, case: UseCase) -> None:
    """Say what is odd about the newest days of the tables. Whatever goes wrong here, the tables are made."""
    from streaming import tables as show
    from streaming.profiles.latest import look_at_latest, publish, readers

    try:
        with console.status("looking at what is new"):
            found = look_at_latest(case, readers(case), own)
        if found.newest:
            publish(own, case.project, found)
            show.print_sources(console, found, only_odd=True)
    except Exception as error:
        console.print(f"[yellow]what is new could not be looked at:[/yellow] {escape(cause_of(error))}")


def apply(
    allow_breaking: Annotated[
        bool, typer.Option("--allow-breaking", help="Apply although a live model could no longer be served.")
    ] = False,
    keep_data: Annotated[bool, typer.Option("--keep-data", help="Leave removed views' values in the online store.")] = False,
    scan: Annotated[bool, typer.Option("--scan", help="Look at every key for removed views' values that only stock Feast wrote.")] = False,
) -> None:
    """Apply the use case's Feast definitions to the registry; removed views lose their values in the online store, and nothing else does.

    Refuses definitions that cannot be executed, and a change that would break a live model. `headrace plan` shows beforehand what would
    change.
    """
    own = own_settings()
    with files.alone(own.state / "apply.lock", waiting=lambda: console.print("waiting for another `apply` to end")):
        _apply(own, allow_breaking, keep_data, scan)


def _apply(own: Settings, allow_breaking: bool, keep_data: bool, scan: bool) -> None:
    from feature_repo.registry.apply import apply_definitions as run
    from feature_repo.registry.apply import check_live_models
    from feature_repo.registry.plan import make_plan, proposed
    from feature_repo.spec.use_case import UseCase
    from infra.supervision import redis_server
    from streaming.online import removal
    from streaming.schema.compilation import check_view, usable

    case = UseCase(own.repo)
    with console.status("comparing"), proposed(case) as after:
        check_view(after.store, {m.name: m.feature_service for m in case.models.values()})
        found = make_plan(case, after, own)
    if not allow_breaking:
        check_live_models(found.broken)
    before, unusable = usable(case.store)
    for fault in unusable.values():
        console.print(f"[yellow]was applied, and cannot be used:[/yellow] {escape(fault)}")
    gone = [] if keep_data else [view for name, view in before.items() if name in found.removed]
    # of an `apply` that was killed; what the registry still holds is this one's to decide
    owed = [view for view in removal.owed(own.state) if view.project != case.project or view.name not in before]
    if gone:
        redis_server.up(own)
    removal.owe(own.state, [*owed, *gone])
    applied = run(case)
    console.print(f"applied {len(applied.views)} views, {len(applied.entities)} entities, services: {', '.join(applied.services)}")
    for change in found.changes:
        console.print(f"  {change.what} {change.name}: {escape(change.text)}")
    if not found.changes:
        console.print("nothing has changed")
    others = [view for view in owed if view.project != case.project]
    gone = [view for view in [*owed, *gone] if view.project == case.project and view.name not in applied.views]
    if gone and keep_data:
        console.print(f"kept in the online store: {', '.join(view.name for view in gone)} (`apply` without --keep-data removes them)")
    elif gone:
        redis_server.up(own)
        _remove(own, gone, scan)
    removal.owe(own.state, [*others, *gone] if keep_data else others)
    stale = [name for name in found.backfill if name not in found.removed]
    if stale:
        console.print(f"to be backfilled: headrace backfill {' '.join(f'--view {name}' for name in stale)}")


def _remove(own: Settings, gone: Sequence[View], scan: bool) -> None:
    """Remove views from the online store; and once more what a running stream has written of them before it learnt that they are gone."""
    from infra.supervision import process
    from streaming.online import removal
    from streaming.online.store import connect

    client, before = connect(own.redis()), process.alive(own, "stream")
    for view in gone:
        with console.status(f"removing {view.name}") as status:
            done = removal.remove(client, view, scan, lambda n, name=view.name: status.update(f"removing {name}: {n:,} entities"))  # type: ignore[misc]
        console.print(f"{view.name}: removed from {done.entities:,} entities ({done.keys:,} held nothing else)")
    if before is None:
        return
    with console.status("waiting for the stream to let go of what was removed"):
        until = time.monotonic() + STREAM_S
        while process.alive(own, "stream") == before and time.monotonic() < until:
            time.sleep(0.2)
        late = sum(removal.remove(client, view).entities for view in gone)
    if late:
        console.print(f"removed again from {late:,} entities, which the stream had written meanwhile")


# wide: one for each option of the command
def backfill(
    view: Annotated[list[str] | None, typer.Option("--view", help="Only this view (may be given several times).")] = None,
    start: Annotated[
        str | None,
        typer.Option("--from", help="Only entities of which something became known after this moment; the others stay as they are."),
    ] = None,
    to: Annotated[
        str | None, typer.Option("--to", help="The moment to bring the online store to; default: as far as each view's table reaches.")
    ] = None,
    incremental: Annotated[
        bool, typer.Option("--incremental", help="Only what became known since each view's last backfill, less the lookback.")
    ] = False,
    lookback: Annotated[float, typer.Option(min=0, help="Days that --incremental looks back, for rows that came late.")] = 2.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")] = False,
    rewind: Annotated[
        bool, typer.Option("--rewind", help="Forget the live events: set the store back to --to and nothing later (rehearsals).")
    ] = False,
    allow_most: Annotated[
        bool, typer.Option("--allow-most", help="Remove entities that the offline store does not know even where they are most of a view.")
    ] = False,
    report: Report = None,
) -> None:
    """Bring the online store to the state of one moment, from the offline store.

    Run it as often as you like, beside the stream too: twice changes nothing, and after a kill it goes on with what is left.
    Rows that cannot be stored are set aside with the reason (`headrace rejected`).
    """
    from infra.supervision import process, redis_server
    from streaming import tables as show
    from streaming.backfill.run import backfill as run
    from streaming.backfill.run import plan
    from streaming.kafka.client import Topics
    from streaming.offline.spark import session
    from streaming.online.store import connect

    if start and incremental:
        raise typer.BadParameter("give --from or --incremental, not both")
    if rewind and not to:
        raise typer.BadParameter("--rewind needs --to: the moment to set the store back to")
    own = own_settings()
    if rewind and process.alive(own, "stream"):
        raise process.ServiceError("the stream is running and would bring back what --rewind forgets: stop it first (`headrace down`)")
    redis_server.up(own)
    wanted = _wanted(own, view or [])
    end_us = microseconds(moment(to)) if to else None
    from_us = microseconds(moment(start)) if start else None
    lookback_us = round(lookback * 86_400e6) if incremental else None
    client = connect(own.redis())
    planned = plan(wanted, own.offline_root, client, end_us, from_us, lookback_us)
    client.close()
    console.print(show.plan_table(planned), *show.odd_sources(own.state, wanted[0].project), sep="\n")
    if dry_run:
        write_report(report, planned)
        raise typer.Exit(1 if any(p.error for p in planned) else 0)
    with console.status("starting Spark"):
        spark = session(own)
    most = 1.0 if allow_most else own.delete_share
    with show.progress_bars(console, planned) as progress:
        asked = end_us, from_us, lookback_us, rewind
        done = run(spark, wanted, own.offline_root, own.redis(), *asked, progress, own.clock_tolerance_s, most, Topics.among(own, wanted))
    console.print(show.result_table(done))
    spark.stop()
    write_report(report, done)
    _end(done, own.delete_share)


def _end(done: Sequence[Backfilled], share: float) -> None:
    """Exit as `backfill` says it does."""
    failed = [r for r in done if r.error]
    if failed:
        raise typer.Exit(75 if all(r.held for r in failed) else 1)
    if any(r.spared for r in done):
        console.print(f"more than a share of {share:g} is not removed at once (--allow-most does it)")
        raise typer.Exit(1)


def _wanted(own: Settings, names: list[str]) -> list[View]:
    """The views that are asked for by name, or all that can be used; the others are named.

    Raises:
        DefinitionError: one that is asked for is not applied, or cannot be used.
    """
    from feature_repo.registry.definitions import DefinitionError
    from feature_repo.spec.use_case import UseCase
    from streaming.schema.compilation import usable

    known, unusable = usable(UseCase(own.repo).store)
    for name, fault in unusable.items():
        if name in names:
            raise DefinitionError(fault)
        console.print(f"[yellow]left out:[/yellow] {escape(fault)}")
    unknown = [name for name in names if name not in known]
    if unknown and known:
        raise DefinitionError(f"no feature view {', '.join(unknown)} is applied (there is: {', '.join(known)})")
    if not known and not unusable:
        raise DefinitionError("no feature view is applied: run `headrace apply` first")
    return [view for name, view in known.items() if not names or name in names]


def stream() -> None:
    """Keep the online store live from the event stream (foreground; Ctrl-C ends it).

    Events come from the Redis Stream; with HEADRACE_EVENT_FILES also from files, with HEADRACE_KAFKA from Kafka (docs/howto/live-events.md).
    """
    from concurrent.futures import ThreadPoolExecutor

    from streaming.offline.spark import session

    own = own_settings()
    with ThreadPoolExecutor(1) as beside:  # a stream that died is waited for: Java starts while Feast is loaded
        compiling = beside.submit(_compiled, own)
        spark = session(own, quick=True)
        case, known = compiling.result()
    from streaming.kafka.starters import starters_of
    from streaming.live import query as live
    from streaming.offline.class_training import Training
    from streaming.profiles.lookout import Lookout
    from streaming.schema.compilation import Applied

    starters = starters_of(own, spark, known)
    training, lookout = Training(own), Lookout(own)

    def ready() -> None:
        print("ready: streaming", flush=True)
        training.start()
        lookout.start()

    try:
        live.run(starters, own.redis(), known, ready, own.delete_share, own.offline_root, Applied(case, known).changed)
    finally:
        training.stop()
        lookout.stop()
    spark.stop()


def _compiled(own: Settings) -> tuple[UseCase, list[View]]:
    """The use case, and every view that can be streamed into; the others are named. Redis is up then."""
    from infra.supervision import redis_server

    redis_server.up(own)
    from feature_repo.spec.use_case import UseCase
    from streaming.schema.compilation import usable

    case = UseCase(own.repo)
    compiled, unusable = usable(case.store)
    for fault in unusable.values():
        print(f"left out: {fault}", flush=True)
    return case, list(compiled.values())


def sources(
    days: Annotated[float, typer.Option(min=1, help="The newest days that are held against all before them.")] = 7,
    report: Report = None,
) -> None:
    """What the sources did lately that they usually do not, or must not (`expectations.py` of the use case), with the rows that show it.

    It is a look of your own: `status`, the watch and `/metrics` go by what `ingest` and the stream found when they looked last.
    """
    from feature_repo.spec.use_case import UseCase
    from streaming.profiles.latest import Latest, look_at_latest, readers
    from streaming.tables import print_sources

    own = own_settings()
    case = UseCase(own.repo)
    found: Latest | None = None
    if own.offline_root.is_dir():
        with console.status("reading the tables"):
            found = look_at_latest(case, readers(case), own, days)
    if found is None or not found.newest:
        raise ValueError("no table that a feature view reads is in the offline store yet: run `headrace ingest`")
    print_sources(console, found)
    write_report(report, found.looked.violations)
    if any(one.proof for one in found.looked.violations):
        raise typer.Exit(1)


def rejected(
    replay: Annotated[bool, typer.Option("--replay", help="Put them back on the event stream, for the views that refused them.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many to show.")] = 20,
    report: Report = None,
) -> None:
    """Show the live events that fitted no schema, and why, or put them back when the reason is gone; and rows that a backfill set aside.

    Rows are not put back: mend the offline table, and run `headrace backfill` again.
    """
    from feature_repo.spec.use_case import UseCase
    from infra.supervision import redis_server
    from streaming.backfill import rejected_rows
    from streaming.kafka.client import Topics
    from streaming.kafka.put_back import replay as replay_to
    from streaming.live import dead_letters as letters
    from streaming.online.store import connect
    from streaming.schema.compilation import usable

    own = own_settings()
    redis_server.up(own)
    case = UseCase(own.repo)
    project = case.project
    client = connect(own.redis())
    if replay:
        fed = usable(case.store)[0].values() if case.applied else ()
        console.print(f"{replay_to(client, project, Topics.among(own, fed)):,} events put back on the event stream")
        return
    total = letters.count(client, project)
    table = Table("id", "source", "why", "event", box=None)
    shown = list(letters.read(client, project, limit))
    for item in shown:
        why = "; ".join(dict.fromkeys(item.why.values()))  # each reason names its view
        table.add_row(f"{item.position[0]}-{item.position[1]}", item.source, escape(why), escape(item.data.decode(errors="replace")[:200]))
    console.print(table if total else "no event has been rejected")
    if total > len(shown):
        console.print(f"... and {total - len(shown):,} more (--limit)")
    rows = Table("view", "why", "row of its offline table", box=None)
    for name in usable(case.store)[0] if case.applied else {}:
        for one in rejected_rows.read(client, project, name)[:limit]:
            rows.add_row(name, escape(one.why), escape(one.row[:200]))
    if rows.row_count:
        console.print(rows)
    write_report(
        report, [{"id": i.position, "source": i.source, "why": dict(i.why), "data": i.data.decode(errors="replace")} for i in shown]
    )


def sweep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be forgotten, and do nothing.")] = False,
    allow_most: Annotated[bool, typer.Option("--allow-most", help="Forget them even where they are most of a view.")] = False,
    report: Report = None,
) -> None:
    """Forget entities that have been silent for longer than their view looks back; the running stream does it every ten minutes."""
    from feature_repo.spec.use_case import UseCase
    from infra.supervision import redis_server
    from streaming.online.retention import sweep as run
    from streaming.online.store import connect
    from streaming.schema.feature_view import views

    own = own_settings()
    redis_server.up(own)
    known = [v for v in views(UseCase(own.repo).store).values() if v.stream]
    swept = run(connect(own.redis()), known, 1.0 if allow_most else own.delete_share, dry_run=dry_run)
    table = Table("view", "entities", "silent", "forgotten", box=None)
    for one in swept:
        table.add_row(one.view, f"{one.entities:,}", f"{one.silent:,}", f"{one.dropped:,}")
    console.print(table if swept else "no feature view with a live stream is applied: there is nothing to sweep")
    write_report(report, swept)
    refused = [one for one in swept if one.refused and not dry_run]
    for one in refused:
        console.print(f"[red]{one}[/red], more than a share of {own.delete_share:g}: nothing of it was forgotten (--allow-most does it)")
    if refused:
        raise typer.Exit(1)
