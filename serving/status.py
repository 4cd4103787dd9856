"""What `headrace status` shows: services, each view's state in the online store, the stream, the live models."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from redis.exceptions import ResponseError
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from feature_repo.records import release
from feature_repo.records.answers import read_given
from feature_repo.records.decisions import Journal
from feature_repo.records.held import read_held
from feature_repo.records.redis_keys import quality_key
from feature_repo.records.release import Release
from feature_repo.spec.use_case import UseCase
from infra import files
from infra.settings import Settings
from infra.supervision.beat import Part
from infra.timestamps import minute_text, span_text


def print_status(own: Settings, console: Console) -> None:
    """Print a table of the services, one of the views, the stream's progress and the live models."""
    from infra.supervision import redis_server, services

    table = Table("service", "state", "pid", "up", "memory", "port", "restarts", "ended last", box=None)
    rows, answers = services.status(own), redis_server.ping(own)
    fares: dict[str, Part] = {}
    if answers:
        with _said(console, "how the parts fare"):
            fares = {part.name: part for part in _parts(own)}
    unwatched = any(row["state"] == "unwatched" for row in rows)
    for row in rows:
        part = fares.get(str(row["name"]))
        if row["running"] and part is not None and part.degraded:  # a process that runs is not yet a part that works
            row["state"] = part.state
        age = f"{(time.time() - float(str(row['started']))) / 60:.0f} min" if row["started"] else ""
        color = {"running": "green", "starting": "yellow", "unwatched": "yellow"}.get(str(row["state"]), "red")
        memory = f"{row['memory_mb']:.0f} MB" if row["running"] else ""
        shown = [str(row[n] or "") for n in ("pid", "port", "restarts", "last_end")]
        table.add_row(str(row["name"]), f"[{color}]{row['state']}[/{color}]", shown[0], age, memory, *shown[1:])
    for name in sorted(fares.keys() - {str(row["name"]) for row in rows}):  # started otherwise than by `up`
        table.add_row(name, "[green]running[/green]" if not fares[name].degraded else f"[red]{fares[name].state}[/red]")
    console.print(table if table.row_count else "no service has been started")
    for part in fares.values():
        if part.degraded:
            console.print(f"[red]{part.name}: {escape(part.detail)}[/red]")
    if unwatched:
        console.print("[yellow]the supervisor does not run: what ends now stays down; `headrace up` brings it back[/yellow]")
    if answers:
        _print_views(own, console)


@contextlib.contextmanager
def _said(console: Console, what: str) -> Iterator[None]:
    """One thing that Redis refuses to tell costs its own lines only."""
    try:
        yield
    except ResponseError as error:
        console.print(f"[red]{what} cannot be read: {escape(str(error))}[/red]")


def _parts(own: Settings) -> list[Part]:
    """How the parts fare; the supervisor has a line of its own."""
    from infra.supervision import beat
    from serving.telemetry.liveness import SUPERVISOR, kept, parts
    from streaming.online.store import connect

    with contextlib.closing(connect(own.redis())) as client:
        found = parts(*beat.read(client, UseCase(own.repo).project), kept(own))
    return [part for part in found if part.name != SUPERVISOR]


def _print_views(own: Settings, console: Console) -> None:
    from streaming import clock
    from streaming.online.store import connect
    from streaming.schema.compilation import usable
    from streaming.status import stream_state, view_states
    from streaming.tables import odd_sources

    case = UseCase(own.repo)
    client = connect(own.redis())
    now_us = time.time() * 1e6
    table = Table("view", "backfilled to", "rows", "entities", "newest event", "age", "in Redis", "failures", "", box=None)
    applied, unusable = usable(case.store) if case.applied else ({}, {})
    for fault in unusable.values():
        console.print(f"[red]cannot be used:[/red] {escape(fault)}; mend it and run `headrace apply`")
    states = []
    with _said(console, "how far the views are"):
        states = view_states(client, list(applied.values()))
    for state in states:
        age = span_text((now_us - state.newest_us) / 1e6) if state.newest_us else ""
        note = f"[red]last backfill failed: {escape(state.error)}[/red]" if state.error else ""
        if state.unfinished:
            note = f"[yellow]unfinished backfill: {state.unfinished} parts done[/yellow] {note}"
        size = f"{state.bytes / 1e6:.1f} MB" if state.entities else ""
        seam, newest = ("-" if us is None else minute_text(us) for us in (state.seam_us, state.newest_us))
        table.add_row(state.view, seam, f"{state.rows:,}", f"{state.entities:,}", newest, age, size, str(state.failures or ""), note)
    if table.row_count:
        console.print(table)
    with _said(console, "how far the stream is"):
        stream = stream_state(client, case.project)
        if stream.wall_us or stream.waiting:
            # a batch may have ended since this command began
            last = f", last batch {span_text(max(0.0, time.time() - stream.wall_us / 1e6))} ago" if stream.wall_us else ""
            console.print(
                f"stream: {stream.events:,} events applied, {stream.waiting:,} waiting ({stream.behind_s:.1f} s behind), "
                f"{stream.rejected:,} rejected{last}"
            )
    _print_kafka(client, case.project, console)
    moment = None
    with _said(console, "the rehearsal's clock"):
        moment = clock.rehearsal_us(client, case.project)
        if moment is not None and moment < now_us:
            console.print(
                f"a rehearsal has brought the store to {minute_text(moment)}: by that clock "
                "it is reckoned who has fallen silent (a backfill without --to ends it)"
            )
    for line in odd_sources(own.state, case.project, moment):
        console.print(line, soft_wrap=True)
    for model in case.models:
        try:
            said = _released(release.read(own.model_root, model))
        except release.ReleaseError as error:
            said = str(error)
        console.print(f"model {model}: {escape(said)}")
        with _said(console, f"the live quality of {model}"):
            _print_loop(own, console, client.get(quality_key(case.project, model)), model)
    client.close()


def _print_kafka(client: Any, project: str, console: Console) -> None:
    from streaming.status import kafka_state

    with _said(console, "how far Kafka was read"):
        if (kafka := kafka_state(client, project)) is not None:
            looked = f", looked {span_text(max(0.0, time.time() - kafka.looked_us / 1e6))} ago" if kafka.looked_us else ""
            console.print(
                f"Kafka ({escape(', '.join(kafka.sources))}): {kafka.events:,} events applied, {kafka.waiting:,} waiting "
                f"({kafka.behind_s:.1f} s behind){looked}"
            )


def _print_loop(own: Settings, console: Console, raw: Any, model: str) -> None:
    """The live version's quality as last measured, and what the learning loop decided last."""
    if raw:
        with contextlib.suppress(*NO_FIGURE):  # what is not a figure of ours is measured anew soon
            console.print(measured(files.parse(raw, dict[str, Any])))
    with contextlib.suppress(files.FileError):
        listed = read_held(own.state, model)
        for one in listed.held if listed is not None else []:
            until = f", until {minute_text(one.until_us)} at the latest" if one.until_us is not None else ""
            console.print(f"  [yellow]held:[/yellow] {one.what}{until}: {escape(one.text)}", soft_wrap=True)
    if given := read_given(own.state, model):
        console.print(f"  [yellow]a word on the alarm, given, not yet heard:[/yellow] {escape(str(given))}", soft_wrap=True)
    decisions = Journal(own.state, model).read()
    if decisions:
        console.print(f"  learning loop: {decisions[-1].step}: {escape(decisions[-1].text)}")


NO_FIGURE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, StopIteration)


def measured(quality: dict[str, Any]) -> str:
    """A line of the version whose answers were measured last."""
    newest = next(v for v in quality["versions"] if v["role"] == "answered" and v["metrics"])
    shown = ", ".join(f"{name} {e['value']:.3f} ({e['low']:.3f} to {e['high']:.3f})" for name, e in newest["metrics"].items())
    return escape(f"  version {newest['version']} live, on {newest['labelled']:,} truths: {shown}")


def _released(found: Release | None) -> str:
    if found is None:
        return "no version is live"
    parts = [f"version {found.champion} is live"]
    if found.canary is not None:
        parts.append(f"version {found.canary} answers {found.share:.0%} of keys")
    if found.shadow is not None:
        parts.append(f"version {found.shadow} in shadow")
    if found.previous is not None:
        parts.append(f"version {found.previous} to roll back to")
    return ", ".join(parts)
