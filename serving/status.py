"""What `headrace status` shows: services, each view's state in the online store, the stream, the live models."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from feature_repo.use_case import UseCase
from infra.settings import Settings


def print_status(own: Settings, console: Console) -> None:
    """Print a table of the services, one of the views, the stream's progress and the live models."""
    import time

    from infra import redis_server, services

    table = Table("service", "state", "pid", "up", "memory", "port", box=None)
    for row in services.status(own):
        age = f"{(time.time() - float(str(row['started']))) / 60:.0f} min" if row["started"] else ""
        state = "[green]running[/green]" if row["running"] else "[red]stopped[/red]"
        memory = f"{row['memory_mb']:.0f} MB" if row["running"] else ""
        table.add_row(str(row["name"]), state, str(row["pid"] or ""), age, memory, str(row["port"] or ""))
    console.print(table if table.row_count else "no service has been started")
    if redis_server.ping(own):
        _print_views(own, console)


def _print_views(own: Settings, console: Console) -> None:
    from feature_repo import contract
    from streaming.store import applied_key, connect, view_key

    case = UseCase(own.repo)
    client = connect(own.redis())
    views = sorted(k.decode().rsplit(":", 1)[1] for k in client.scan_iter(view_key(case.project, "*"), count=1000))
    table = Table("view", "backfilled to", "rows", "entities", "newest event", box=None)
    for name in views:
        said = {k.decode(): v.decode() for k, v in client.hgetall(view_key(case.project, name)).items()}  # type: ignore[union-attr]
        moments = [datetime.fromtimestamp(int(said[k]) / 1e6, UTC).strftime("%Y-%m-%d %H:%M") for k in ("seam_us", "newest_us")]
        table.add_row(name, moments[0], f"{int(said['rows']):,}", f"{int(said['entities']):,}", moments[1])
    if views:
        console.print(table)
    done: Any = client.hgetall(applied_key(case.project))
    if done:
        console.print(f"stream: {int(done[b'events']):,} events applied, {int(done[b'rejected']):,} rejected")
    for model in case.models:
        console.print(f"model {model}: live version {contract.champion(own.model_root, model) or 'none'}")
